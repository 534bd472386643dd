"""Decode many mutants and keep count; the first that does anything but what it may ends the run."""

import contextlib
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from fuzz.mutations import MAX_PIXELS, Mutant, Seed, declared_size, mutant
from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import inference

SMALL = {"max_pixels": MAX_PIXELS}  # so that a file takes milliseconds
MAX_SECONDS = 2.0  # of processor time, so that a busy machine changes nothing
MAX_SECONDS_OF_LARGE = 10.0
MIB = 1 << 20


class BadMutant(Exception):
    """What must not happen, with how to see it again."""


class Summary(NamedTuple):
    files: int
    pictures: int
    refusals: Counter  # message without its numbers → files
    slowest_seconds: float
    slowest: str
    memory_growth_bytes: int
    peak_bytes: int  # of the whole process
    seconds: float

    def __str__(self):
        lines = [
            f"{self.files:,} files in {self.seconds:.0f} s: {self.pictures:,} pictures, "
            f"{self.files - self.pictures:,} refusals",
            *(f"{count:8,}  {message}" for message, count in self.refusals.most_common()),
            f"slowest: {self.slowest_seconds:.2f} s ({self.slowest})",
            f"memory growth: {self.memory_growth_bytes / MIB:.0f} MiB, to {self.peak_bytes / MIB:.0f} MiB",
        ]
        return "\n".join(lines)


def fuzz(
    codecs: list[inference.Codec],
    seeds: list[Seed],
    *,
    files: range,
    seed: int,
    seconds: float,
    limits: Mapping[str, int] = MappingProxyType(SMALL),
) -> Summary:
    """`limits` are those of `Codec.decompress`. Raises BadMutant. Ends early when the time is up."""
    by_hash = {codec.model_hash: codec for codec in codecs}
    for valid in seeds:  # compiles all there is to compile, and takes the memory that any file takes
        by_hash[valid.model_hash].decompress(valid.data)
    pictures, refusals, slowest = 0, Counter(), (0.0, "none")
    # Forget the peak of what came before. Where that cannot be, growth looks smaller than it is.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    began, before = time.monotonic(), peak_bytes()
    done = 0
    for number in tqdm(files, unit="file", mininterval=0.5, disable=None):
        if time.monotonic() - began > seconds:
            break
        one = mutant(number, seeds, seed=seed)
        message, cost = decode(by_hash[one.model_hash], one, f"seed {seed}, file {number} ({one.how})", limits)
        pictures += message is None
        if message is not None:
            refusals[_without_particulars(message)] += 1
        slowest = max(slowest, (cost, f"file {number}: {one.how}"))
        done += 1
    return Summary(done, pictures, refusals, *slowest, peak_bytes() - before, peak_bytes(), time.monotonic() - began)


def _without_particulars(message: str) -> str:
    """The same for all files that are refused for the same reason."""
    message = re.sub(r"""b(['"]).*?\1|[0-9a-f]{16}|0x..|\d[\d,.]*""", "#", message)
    return re.sub(r"\(Error.*\)", "(zlib)", message)


def decode(codec: inference.Codec, one: Mutant, name: str, limits: Mapping[str, int]) -> tuple[str | None, float]:
    """Why the file is refused, None for a picture, and the seconds of processor time that it took."""
    began, message = time.process_time(), None
    try:
        picture = codec.decompress(one.data, region=one.region, allow_partial=one.allow_partial, **limits)
        check_picture(picture, one, name)
    except InvalidFile as error:
        message = str(error)
    except InvalidInput as error:
        raise BadMutant(f"{name}: region {one.region} was refused: {error}") from error
    except Exception as error:
        raise BadMutant(f"{name}: {type(error).__name__} instead of InvalidFile") from error
    if message is not None and (not message or "\n" in message or len(message) > 300):
        raise BadMutant(f"{name}: the message is not one line: {message!r}")
    cost = time.process_time() - began
    if cost > (MAX_SECONDS if "max_pixels" in limits else MAX_SECONDS_OF_LARGE):
        raise BadMutant(f"{name}: took {cost:.1f} s")
    return message, cost


def check_picture(picture: Image.Image, one: Mutant, name: str) -> None:
    expected = one.region[2:] if one.region else declared_size(one.data)
    mode = ("L" if one.data[5] & 1 else "RGB") + ("A" if one.data[5] & 8 else "")
    if not isinstance(picture, Image.Image) or (picture.size, picture.mode) != (expected, mode):
        raise BadMutant(f"{name}: gives {picture}, expected {mode} {expected}")
    picture.load()


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    with contextlib.suppress(OSError):  # unlike ru_maxrss not that of the process that started this one
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def made_seeds(folder: Path) -> tuple[list[inference.Codec], list[Seed]]:
    """For a process that does nothing else: what it imports takes more memory than the decoder."""
    from fuzz.seeds import make_seeds

    return make_seeds(folder)
