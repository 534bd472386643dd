"""From the real residual (y - mu)·gain to the integer r that is coded, and from r back to what the decoder adds to mu.

Rounding to the nearest is not the best choice: an integer one step nearer to zero costs fewer bits. The encoder takes
that step where it saves more than its error costs. Being so chosen, the residuals behind one integer lie off its
middle: the decoder's offset, counted for every scale when a model is saved, moves it back.
"""

import torch
from torch import Tensor

from slimcodec import InvalidModel
from slimcodec.codec.rate import SCALE_COUNT, whole_index

# What an error of one step costs, in bits, where a model does not say: what encoders took before models did.
DEFAULT_ERROR_BITS = 30.0
# That of latents that were refined, for any model. They are where they should be: few are worth a step down. With
# tables counted at 10 bits, BD-rate at effort 3 was lower by 1.2 % than at 10, by 0.2 % than at 17, 0.9 % than at 60.
REFINED_ERROR_BITS = 30.0
ERROR_BITS_UNIT = 16  # models say it in 1/16 bit
REACH = 32  # magnitudes from here on are always rounded: a step down saves next to nothing
ESCAPE_BITS = 16
OFFSET_UNIT = 256  # offsets are stored in 1/256 of a quantisation step


class Quantiser:
    """`error_bits`: what an error of one step costs, in bits; None rounds to the nearest.

    tables: r_frequencies and r_sizes as for codec/entropy; r_offsets int16 [64], in 1/256 of a step towards zero;
    r_skip int32 [1], the scale index below which every residual is 0 and not coded; perhaps r_error_bits int16 [1],
    `error_bits` in 1/16, which only encoders look at.
    """

    def __init__(self, tables: dict[str, Tensor], device: torch.device):
        self.error_bits: float | None = model_error_bits(tables)
        self.skip = int(tables["r_skip"])
        self.offsets = (tables["r_offsets"].float() / OFFSET_UNIT).to(device)
        self.magnitude_bits = magnitude_bits(tables["r_frequencies"], tables["r_sizes"]).to(device)
        # [64, REACH]: what coding a - 1 instead of a saves; nothing where a is 0.
        self.savings = torch.nn.functional.pad(self.magnitude_bits.diff(dim=1), (1, 0))

    def choose(self, exact: Tensor, index: Tensor, *, refined: bool = False) -> Tensor:
        """exact: real residuals; index: their scale indices (integers), same shape → r, integers as floats.

        refined: of latents that effort has refined.
        """
        error_bits = REFINED_ERROR_BITS if refined else self.error_bits
        magnitude = exact.abs()
        rounded = magnitude.round()
        if error_bits is not None:
            cell = rounded.clamp_max(REACH - 1).long().add_(index.long() * REACH)
            # (|e| - (a - 1))² - (|e| - a)², what the step down adds to the squared error
            more_error = 2 * (magnitude - rounded) + 1
            down = (self.savings.flatten()[cell] > error_bits * more_error) & (rounded < REACH)
            rounded = rounded - down.to(rounded.dtype)
        return (rounded * exact.sign()).masked_fill(index < self.skip, 0)

    def straight_through(self, exact: Tensor, index: Tensor) -> Tensor:
        """What a file would make of them, at real scale indices; the gradient is that of `exact`."""
        with torch.no_grad():
            index = whole_index(index)
            error = self.reconstruct(self.choose(exact, index), index) - exact
        return exact + error

    def bits(self, r: Tensor, index: Tensor) -> Tensor:
        """What coding each r costs, differentiably; between integers in proportion, from REACH - 1 on the same."""
        magnitude = r.abs().clamp_max(REACH - 1)
        lower = magnitude.detach().floor().clamp_max(REACH - 2)
        cell = lower.long() + index.long() * REACH
        at_lower, at_upper = (self.magnitude_bits.flatten()[cell + step] for step in (0, 1))
        return at_lower + (magnitude - lower) * (at_upper - at_lower)

    def rise(self, lower: Tensor, index: Tensor) -> Tensor:
        """What coding lower + 1 costs more than coding lower, integers of any sign; beyond REACH as at its edge."""
        middle = lower + 0.5
        larger = middle.abs().add_(0.5).clamp_max_(REACH - 1).long()
        return self.savings.flatten()[larger.add_(index * REACH)] * middle.sign()

    def reconstruct(self, r: Tensor, index: Tensor) -> Tensor:
        """r and its scale indices → what the decoder adds to mu, in quantisation steps."""
        offsets = self.offsets.index_select(0, index.flatten().int()).view(index.shape)
        return r - r.sign().mul_(offsets)


def model_error_bits(tables: dict[str, Tensor]) -> float:
    """What an error of one step costs the encoders of a model, in bits."""
    return int(tables["r_error_bits"]) / ERROR_BITS_UNIT if "r_error_bits" in tables else DEFAULT_ERROR_BITS


def magnitude_bits(frequencies: Tensor, sizes: Tensor) -> Tensor:
    """float [64, REACH]: bits of a symbol of magnitude 0…REACH-1 at every scale, by the tables, escapes included."""
    rows = []
    for table in frequencies.to(torch.int64).split(sizes.tolist()):
        bits = 16 - table.double().log2()
        radius = (len(table) - 2) // 2
        upper = bits[radius : 2 * radius + 1][:REACH]
        escaped = (bits[-1] + ESCAPE_BITS).expand(REACH - len(upper))
        rows.append(torch.cat([upper, escaped]))
    return torch.stack(rows).float()


def check_tables(tables: dict[str, Tensor]) -> None:
    """Raises InvalidModel for offsets, a skip threshold or a cost of errors that no calibration gives."""
    if not 0 <= int(tables["r_skip"]) <= SCALE_COUNT:
        raise InvalidModel(f"tables.r_skip: must be 0 to {SCALE_COUNT}")
    if tables["r_offsets"].int().abs().max() > OFFSET_UNIT:
        raise InvalidModel("tables.r_offsets: an offset is larger than a quantisation step")
    if model_error_bits(tables) <= 0:
        raise InvalidModel("tables.r_error_bits: must be more than 0")
