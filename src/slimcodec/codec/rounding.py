"""From the real residual (y - mu)·gain to the integer r that is coded, and from r back to what the decoder adds to mu.

Rounding to the nearest is not the best choice: an integer one step nearer to zero costs fewer bits. The encoder takes
that step where it saves more than its error costs. Being so chosen, the residuals behind one integer lie off its
middle: the decoder's offset, counted for every scale when a model is saved, moves it back.

A model with dependent quantisation (codec/dependent) has two sets of tables. `path` finds which of them counts together
with the integers. All else takes a residual's table for its scale index.

Arrays are NumPy's, or PyTorch's tensors on any device.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from slimcodec import InvalidModel
from slimcodec.codec import dependent, native
from slimcodec.codec.arrays import array_namespace
from slimcodec.codec.units import SCALE_COUNT

# What an error of one step costs, in bits, where a model does not say: what encoders took before models did.
DEFAULT_ERROR_BITS = 30.0
# That of latents that were refined, for any model. They are where they should be: few are worth a step down. With
# tables counted at 10 bits, BD-rate at effort 3 was lower by 1.2 % than at 10, by 0.2 % than at 17, 0.9 % than at 60.
REFINED_ERROR_BITS = 30.0
ERROR_BITS_UNIT = 16  # models say it in 1/16 bit
REACH = 32  # magnitudes from here on are always rounded: a step down saves next to nothing
ESCAPE_BITS = 16
OFFSET_UNIT = 256  # offsets are stored in 1/256 of a quantisation step
OF_RESIDUALS = "r_frequencies", "r_sizes", "r_offsets"  # a second quantiser has its own

Array = Any  # of NumPy or PyTorch


class Rounding:
    """`error_bits`: what an error of one step costs, in bits; None rounds to the nearest.

    tables: r_frequencies and r_sizes as for codec/entropy; r_offsets int16 [64], in 1/256 of a step towards zero;
    r_skip int32 [1], the scale index below which every residual is 0 and not coded; perhaps r_error_bits int16 [1],
    `error_bits` in 1/16, which only encoders look at.

    With dependent quantisation r_odd_frequencies, r_odd_sizes and r_odd_offsets are those of the second quantiser, and
    r_next_states [states, 2] says how the two take turns.

    native  makes of NumPy's arrays those that residuals come in
    """

    def __init__(self, tables: Mapping[str, np.ndarray], native: Callable[[np.ndarray], Array]):
        self.error_bits: float | None = model_error_bits(tables)
        self.skip = int(tables["r_skip"][0])
        self.dependent = is_dependent(tables)
        self._code = dependent.code_of(tables) if self.dependent else None
        self.states = self._code.states if self._code else 1
        frequencies, sizes, offsets = both_quantisers(tables)
        self._offsets = offsets.astype(np.float32) / OFFSET_UNIT
        self._bits = bits = magnitude_bits(frequencies, sizes)
        self.offsets, self.magnitude_bits = native(self._offsets), native(bits)
        # By table and a: what coding a - 1 instead of a saves; nothing where a is 0.
        self.savings = native(np.pad(np.diff(bits, axis=1), [(0, 0), (1, 0)]))

    def choose(self, exact: Array, index: Array, *, refined: bool = False) -> Array:
        """exact: real residuals; index: their scale indices (integers), same shape → r, integers as floats.

        refined: of latents that effort has refined.
        """
        xp = array_namespace(exact)
        error_bits = REFINED_ERROR_BITS if refined else self.error_bits
        magnitude = xp.abs(exact)
        rounded = xp.round(magnitude)
        if error_bits is not None:
            cell = xp.astype(xp.clip(rounded, max=REACH - 1), xp.int64) + xp.astype(index, xp.int64) * REACH
            # (|e| - (a - 1))² - (|e| - a)², what the step down adds to the squared error
            more_error = 2 * (magnitude - rounded) + 1
            saved = xp.reshape(self.savings, (-1,))[cell]
            rounded = xp.where((saved > error_bits * more_error) & (rounded < REACH), rounded - 1, rounded)
        return xp.where(index < self.skip, xp.zeros_like(rounded), rounded * xp.sign(exact))

    def path(self, exact: np.ndarray, index: np.ndarray, paths: dependent.Paths) -> tuple[np.ndarray, np.ndarray]:
        """As `choose`, with dependent quantisation, for refined latents as for others: see `dependent.search`."""
        assert self.error_bits is not None and self._code is not None  # rounding to the nearest is no search
        costs = self._bits, self._offsets, self.error_bits
        return dependent.search(exact, index, paths, *costs, self.skip, self._code)

    def reconstruct(self, r: Array, index: Array) -> Array:
        """r and its tables → what the decoder adds to mu, in quantisation steps."""
        if isinstance(r, np.ndarray) and index.dtype == np.uint8:
            found = np.empty(r.size, np.float32)
            flat = (np.ascontiguousarray(values).reshape(-1) for values in (r, index))
            native.call("reconstruct", *flat, self.offsets, found, r.size)
            return found.reshape(r.shape)
        xp = array_namespace(r)
        offsets = xp.take(self.offsets, xp.astype(xp.reshape(index, (-1,)), xp.int32), axis=0)
        return r - xp.sign(r) * xp.reshape(offsets, index.shape)


def model_error_bits(tables: Mapping[str, Any]) -> float:
    """What an error of one step costs the encoders of a model, in bits."""
    return int(tables["r_error_bits"][0]) / ERROR_BITS_UNIT if "r_error_bits" in tables else DEFAULT_ERROR_BITS


def is_dependent(tables: Mapping[str, Any]) -> bool:
    """Whether there is a second quantiser."""
    return dependent.TABLE in tables


def both_quantisers(tables: Mapping[str, Any]) -> list[np.ndarray]:
    """OF_RESIDUALS, those of the second quantiser behind."""
    sets = [tables]
    if is_dependent(tables):
        sets.append({name: tables[dependent.odd(name)] for name in OF_RESIDUALS})
    return [np.concatenate([np.asarray(each[name]) for each in sets]) for name in OF_RESIDUALS]


def magnitude_bits(frequencies: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """float32 [T, REACH]: bits of a symbol of magnitude 0…REACH-1 by every one of T tables, escapes included."""
    rows = []
    for table in np.split(np.asarray(frequencies, np.float64), np.cumsum(sizes)[:-1]):
        bits = 16 - np.log2(table)
        radius = (len(table) - 2) // 2
        upper = bits[radius : 2 * radius + 1][:REACH]
        rows.append(np.concatenate([upper, np.full(REACH - len(upper), bits[-1] + ESCAPE_BITS)]))
    return np.stack(rows).astype(np.float32)


def check_tables(tables: Mapping[str, Any]) -> None:
    """Raises InvalidModel for offsets, a skip threshold or a cost of errors that no calibration gives."""
    if not 0 <= int(tables["r_skip"][0]) <= SCALE_COUNT:
        raise InvalidModel(f"tables.r_skip: must be 0 to {SCALE_COUNT}")
    if np.abs(both_quantisers(tables)[2].astype(np.int32)).max() > OFFSET_UNIT:
        raise InvalidModel("tables.r_offsets: an offset is larger than a quantisation step")
    if model_error_bits(tables) <= 0:
        raise InvalidModel("tables.r_error_bits: must be more than 0")
    if is_dependent(tables):
        dependent.code_of(tables)
