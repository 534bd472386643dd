"""Which quality meets a wish: a file size, bits a pixel, or a PSNR. Searches use estimated sizes, then real files.

At which size a picture is coded is chosen by what is shown: the best PSNR of as many bytes, or the fewest bytes.
"""

import contextlib
import warnings
from collections.abc import Callable
from functools import partial
from numbers import Real
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

from slimcodec import InvalidInput
from slimcodec.codec.bitstream import QUALITY_ONE

if TYPE_CHECKING:
    from slimcodec.codec.encoding import Encoding

DEFAULT_QUALITY = 4.0
SCALES = {1.0: 4, 0.75: 3, 0.5: 2, 0.25: 1}  # of width and height → quarters
BEST = "best"
WORTH_BPP = 0.2  # of the full size, beyond which no other is tried: docs/tried.md
MAX_EFFORT = 10
TOLERANCE = 0.02  # of a target size
WORD = 4  # bytes, by which streams grow
EXCESS_DB = 0.1  # that a picture may have over its target without a word
ATTEMPTS = 4  # real files that are made on the way to a target


class Found(NamedTuple):
    """The file that comes nearest to a wish at one size of the picture."""

    data: bytes
    below: bool = False  # what is asked for is below what quality 1 gives: this is quality 1


def compress(
    at: "Callable[[int, bool], Encoding]", rungs: int, scale: float | str | None = None, **asked: float | None
) -> bytes:
    """The file that meets what is asked for, as `wish` takes it. `rungs`: the model's qualities.

    at(quarters, first) is the picture with so many quarters of its width and height, at first or when others have been
    tried. They are tried for the scale "best", and for a wish below what quality 1 gives at full size.

    Raises InvalidInput for a wish that no quality of the model can meet.
    """
    name, value = wish(rungs, **asked)
    meet, (first, *others) = _MEET[name], quarters_of(scale)
    encoding = at(first, True)
    found = [meet(encoding, value)]
    if found[0].below or (scale == BEST and encoding.stream_bpp(found[0].data) <= WORTH_BPP):
        if name == "quality":
            meet, value = _within_bytes, len(found[0].data)
        for quarters in others:
            encoding = at(quarters, False)
            with contextlib.suppress(InvalidInput):  # this size is too small for so many bits, or for such a PSNR
                found.append(meet(encoding, value))
    return _smallest(found, encoding, value) if name == "target_psnr_db" else _best(found, encoding, name, value)


def quarters_of(scale: Any) -> tuple[int, ...]:
    """How many quarters of its width and height a picture may be coded with, the first to be tried before others.

    Raises InvalidInput.
    """
    if scale is None or (isinstance(scale, str) and scale == BEST):
        return tuple(SCALES.values())
    if isinstance(scale, bool) or not isinstance(scale, Real) or scale not in SCALES:
        raise InvalidInput(f"scale {scale!r}: must be {', '.join(f'{known:g}' for known in SCALES)} or {BEST!r}")
    return (SCALES[float(scale)],)


def _best(found: list[Found], encoding: "Encoding", name: str, value: float) -> bytes:
    met = [size.data for size in found if not size.below]
    if not met:
        smallest = _size(encoding, min(len(size.data) for size in found))
        raise InvalidInput(
            f"{name} {value:.9g}: is too small for this picture; this model makes {smallest} or more of it"
        )
    return max(met, key=encoding.psnr_db_of) if len(met) > 1 else met[0]


def _smallest(found: list[Found], encoding: "Encoding", psnr_db: float) -> bytes:
    smallest = min(found, key=lambda size: len(size.data))
    if smallest.below:  # not refused: among many pictures, one that is easy must not fail
        least = encoding.psnr_db_of(smallest.data)
        warnings.warn(
            f"target_psnr_db {psnr_db:g}: the lowest quality of this model, which is taken, gives {least:.2f} dB here",
            stacklevel=2,
        )
    return smallest.data


def wish(
    rungs: int,
    *,
    quality: float | None = None,
    target_bpp: float | None = None,
    max_bytes: float | None = None,
    target_psnr_db: float | None = None,
) -> tuple[str, float]:
    """The name and value of the one that is not None; quality 4 if all are.

    Raises InvalidInput for two of them, and for a value that means nothing.
    """
    asked = {"quality": quality, "target_bpp": target_bpp, "max_bytes": max_bytes, "target_psnr_db": target_psnr_db}
    wishes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    wishes = wishes or {"quality": DEFAULT_QUALITY}
    if len(wishes) > 1:
        raise InvalidInput(f"{' and '.join(wishes)}: only one of them can be asked for")
    ((name, value),) = wishes.items()
    if name == "quality":
        fixed_quality(value, rungs)
    elif isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < float("inf"):
        raise InvalidInput(f"{name} {value!r}: must be a positive number")
    return name, value


def fixed_quality(quality: float, rungs: int) -> int:
    """Quality as 8.8 fixed point; InvalidInput outside 1…rungs."""
    if isinstance(quality, bool) or not isinstance(quality, Real) or not 1 <= quality <= rungs:
        raise InvalidInput(f"quality {quality!r}: must be a number from 1 to {rungs}; JPEG's 0 to 100 is another scale")
    return round(quality * QUALITY_ONE)


def checked_effort(value: Any) -> int:
    """InvalidInput if it is none."""
    return whole_number(value, "effort", high=MAX_EFFORT)


def whole_number(value: Any, name: str, low: int = 0, high: int | None = None) -> int:
    """The value as an int; InvalidInput if it is none, or out of its range."""
    try:
        number = index(value)
    except TypeError:
        number = low - 1
    if number < low or (high is not None and number > high):
        raise InvalidInput(f"{name} {value!r}: must be a whole number from {low}{f' to {high}' if high else ''}")
    return number


def _at_quality(encoding: "Encoding", quality: float) -> Found:
    return Found(encoding.file(round(quality * QUALITY_ONE)))


def _near_bpp(encoding: "Encoding", bpp: float) -> Found:
    wanted = bpp * encoding.pixel_count / 8
    best = None
    aim = wanted
    for _ in range(ATTEMPTS):
        fixed = _largest(encoding, partial(_fits, encoding, aim)) or QUALITY_ONE
        data = encoding.file(fixed)
        if best is None or abs(len(data) - wanted) < abs(len(best) - wanted):
            best = data
        if abs(len(best) - wanted) <= TOLERANCE * wanted:
            return Found(best)
        if fixed == QUALITY_ONE and len(data) > wanted:
            return Found(data, below=True)
        if fixed == _highest(encoding) and len(data) < wanted:
            break
        # Refined latents take fewer bits than the search saw.
        aim *= wanted / len(data)
    else:  # Tiny files are too far from their estimates, and grow by whole words.
        under = _largest(encoding, lambda q: len(encoding.file(q)) <= wanted) or QUALITY_ONE
        around = (encoding.file(fixed) for fixed in (under, min(under + 1, _highest(encoding))))
        nearest = min(around, key=lambda data: abs(len(data) - wanted))
        if abs(len(nearest) - wanted) <= max(TOLERANCE * wanted, WORD):
            return Found(nearest)
    raise InvalidInput(f"target_bpp {bpp:g}: cannot be met for this picture; {_reach(encoding)}")


def _within_bytes(encoding: "Encoding", limit: float) -> Found:
    best, aim = None, float(limit)
    for _ in range(ATTEMPTS):
        fixed = _largest(encoding, partial(_fits, encoding, aim))
        data = encoding.file(fixed or QUALITY_ONE)
        if fixed is None and len(data) > limit:
            return Found(data, below=True)
        if len(data) <= limit and (best is None or len(data) > len(best)):
            best = data
        if best is not None and (len(best) >= (1 - TOLERANCE) * limit or fixed == _highest(encoding)):
            return Found(best)
        aim *= limit / len(data) * (1 if len(data) <= limit else 1 - TOLERANCE / 4)
    if best is not None:
        return Found(best)
    # Tiny files are too far from their estimates.
    fixed = _largest(encoding, lambda q: len(encoding.file(q)) <= limit)
    return Found(encoding.file(fixed or QUALITY_ONE), below=fixed is None)


def _at_psnr(encoding: "Encoding", psnr_db: float) -> Found:
    below = _largest(encoding, lambda q: encoding.psnr_db(q, effort=0) < psnr_db)
    fixed = QUALITY_ONE if below is None else below + 1
    while fixed <= _highest(encoding):
        if (reached := encoding.psnr_db(fixed)) >= psnr_db:
            return Found(encoding.file(fixed), below=fixed == QUALITY_ONE and reached >= psnr_db + EXCESS_DB)
        fixed += QUALITY_ONE // 16  # refinement may have traded a little of it for bits
    best = encoding.psnr_db(_highest(encoding))
    least = encoding.psnr_db(QUALITY_ONE)
    raise InvalidInput(
        f"target_psnr_db {psnr_db:g}: the best quality of this model gives {best:.2f} dB here, "
        f"the lowest {least:.2f} dB"
    )


_MEET: "dict[str, Callable[[Encoding, Any], Found]]"
_MEET = {"quality": _at_quality, "target_bpp": _near_bpp, "max_bytes": _within_bytes, "target_psnr_db": _at_psnr}


def estimated_bytes(encoding: "Encoding", fixed: int) -> float:
    """What a file of the unrefined latents would take, without making it."""
    return encoding.overhead_bytes + encoding.bits(fixed, effort=0) / 8


def _fits(encoding: "Encoding", limit: float, fixed: int) -> bool:
    return estimated_bytes(encoding, fixed) <= limit


def _largest(encoding: "Encoding", holds: Callable[[int], bool]) -> int | None:
    """The highest quality (8.8) at which it holds; it holds up to some quality and not beyond. None: nowhere."""
    low, high = QUALITY_ONE - 1, _highest(encoding)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low if low >= QUALITY_ONE else None


def _highest(encoding: "Encoding") -> int:
    return QUALITY_ONE * encoding.transforms.architecture.rungs


def _reach(encoding: "Encoding") -> str:
    low, high = (_size(encoding, len(encoding.file(fixed, effort=0))) for fixed in (QUALITY_ONE, _highest(encoding)))
    return f"this model makes {low} to {high} of it"


def _size(encoding: "Encoding", size: int) -> str:
    return f"{size:,} bytes ({8 * size / encoding.pixel_count:.3f} bpp)"
