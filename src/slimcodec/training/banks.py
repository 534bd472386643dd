"""The banks of codec/contexts: probability tables of z, counted on photos after training.

Every rung, channel and context (how large the sum and the activity around are) has a histogram of what came there.
The histograms are clustered: each takes the bank that codes it with the fewest bits, each bank is counted anew on
those that took it, and so on; banks of little use are set on what others code badly.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from slimcodec.codec import entropy
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.contexts import interval, surroundings
from slimcodec.codec.network import HyperpriorCodec, round_z
from slimcodec.training.prior import Z_SYMBOLS

BANKS = 256
SUMS, ACTIVITIES = 7, 8  # contexts of a channel, from 5 × 5 to 9 × 16 within 5 % of the gain (cid22-validation)
WEIGHT_UNIT, WEIGHT_MAX = 64, 255  # a weight is about 64 / the mean of |z|
PRIOR_COUNT = 20  # symbols: a context that was seen less often keeps about its channel's table in z_frequencies
UNIFORM_COUNT = 1  # symbols for a bank's tails, which no photo may have had
CLUSTERING_PASSES, SPLITTING_PASSES = 30, 20
SPLIT = 4  # so many banks, and the empty ones, are given half of another's histograms after each of the latter passes
TINY = 1e-12  # a share of nothing


@torch.no_grad()
def hyper_latents(codec: HyperpriorCodec, crops: Iterable[Tensor]) -> list[list[np.ndarray]]:
    """Crops [1, 3, H, W] → for every rung, z int8 [N, H/64, W/64] of each crop."""
    found: list[list[np.ndarray]] = [[] for _ in range(codec.architecture.rungs)]
    for crop in crops:
        y = codec.g_a(crop)
        for rung, of_rung in enumerate(found, start=1):
            shift = codec.gain_shift(torch.tensor([rung * QUALITY_ONE], device=y.device))
            z = round_z(codec.h_a(y * codec.gain(shift)[:, :, None, None]))
            of_rung.append(z[0].to("cpu", torch.int8).numpy())
    return found


def with_banks(tables: dict[str, Tensor], z: list[list[np.ndarray]]) -> dict[str, Tensor]:
    """The tables of a model and those of banks, counted on z int8 [N, h, w] of many photos at every rung.

    Some hundred thousand positions are a good number: a thousand photos of 512 × 512 pixels.
    """
    rules, counts = zip(*(_counted(*of_rung) for of_rung in zip(z, _pmfs(tables), strict=True)), strict=True)
    histograms = np.concatenate(counts)
    pmfs, banks = _clustered(histograms)
    weights, sum_edges, activity_edges = (
        np.ascontiguousarray(np.stack(parts), np.int32) for parts in zip(*rules, strict=True)
    )
    return tables | {
        "z_bank_frequencies": torch.from_numpy(entropy.quantise(pmfs).astype(np.uint16)),
        "z_banks": torch.from_numpy(banks.astype(np.uint8).reshape(*weights.shape, SUMS, ACTIVITIES)),
        "z_weights": torch.from_numpy(weights),
        "z_sum_edges": torch.from_numpy(sum_edges),
        "z_activity_edges": torch.from_numpy(activity_edges),
    }


def _pmfs(tables: dict[str, Tensor]) -> np.ndarray:
    return tables["z_frequencies"].to(torch.int32).numpy() / (1 << entropy.PRECISION)


def _counted(z: list[np.ndarray], pmf: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """z of all photos at a rung, and the channels' tables [N, 256] → the rule's weights and edges, and histograms
    [N · SUMS · ACTIVITIES, 256]."""
    channels = len(z[0])
    values = np.concatenate([photo.reshape(channels, -1) for photo in z], axis=1).astype(np.int64)
    weights = np.clip(np.rint(WEIGHT_UNIT / (abs(values).mean(axis=1) + 0.1)), 1, WEIGHT_MAX).astype(np.int32)
    around = [surroundings(photo, weights) for photo in z]
    sums, activities = (
        np.concatenate([a.reshape(channels, -1) for a in part], axis=1) for part in zip(*around, strict=True)
    )
    edges = _edges(sums, SUMS), _edges(activities, ACTIVITIES)
    context = _context(sums, edges[0]) * ACTIVITIES + _context(activities, edges[1])
    context += np.arange(channels)[:, None] * (SUMS * ACTIVITIES)
    cells = context * Z_SYMBOLS + values + Z_SYMBOLS // 2
    counts = np.bincount(cells.ravel(), minlength=channels * SUMS * ACTIVITIES * Z_SYMBOLS).astype(np.float32)
    prior = PRIOR_COUNT * np.repeat(pmf, SUMS * ACTIVITIES, axis=0)
    return (weights, *edges), (counts.reshape(-1, Z_SYMBOLS) + prior).astype(np.float32)


def _edges(values: np.ndarray, intervals: int) -> np.ndarray:
    """[N, n] → what cuts every channel's values into so many intervals, about equally often met: [N, intervals - 1]."""
    shares = np.arange(1, intervals) / intervals
    return np.ascontiguousarray(np.quantile(values, shares, axis=1).T, np.int32)


def _context(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return interval(values[:, None], edges)[:, 0]


def _clustered(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Histograms [C, 256] → the banks' probabilities [BANKS, 256], and the bank of each histogram [C]."""
    mean, spread = _mean_and_spread(histograms)
    banks = _start(mean, spread)
    shares = histograms / histograms.sum(axis=1, keepdims=True)
    least = -(histograms * np.log2(shares + TINY)).sum(axis=1)  # bits, with tables of their own
    for number in range(CLUSTERING_PASSES):
        bits = histograms @ -np.log2(_pooled(histograms, banks)).T.astype(np.float32)
        banks = bits.argmin(axis=1)
        if number < SPLITTING_PASSES:
            _split(banks, bits.min(axis=1) - least, mean if number % 2 else spread)
    return _pooled(histograms, banks), banks


def _split(banks: np.ndarray, lost: np.ndarray, by: np.ndarray) -> None:
    """Empty banks, and a few of those that lose least, take half of the histograms of those that lose most, in place.

    lost: the bits of each histogram that a table of its own would save. by: the upper half by this is taken.
    """
    of_bank = np.bincount(banks, weights=lost, minlength=BANKS)
    empty = BANKS - len(np.unique(banks))
    order = of_bank.argsort(kind="stable")
    for poor, rich in list(zip(order, order[::-1], strict=True))[: min(empty + SPLIT, BANKS // 2)]:
        members = np.flatnonzero(banks == rich)
        if len(members) > 1:
            banks[members[by[members] > np.median(by[members])]] = poor


def _pooled(histograms: np.ndarray, banks: np.ndarray) -> np.ndarray:
    counts = np.full((BANKS, Z_SYMBOLS), UNIFORM_COUNT / Z_SYMBOLS)
    for bank, histogram in zip(banks.tolist(), histograms, strict=True):  # ten times as fast as np.add.at
        counts[bank] += histogram
    return counts / counts.sum(axis=1, keepdims=True)


def _mean_and_spread(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, total = np.arange(Z_SYMBOLS) - Z_SYMBOLS // 2, histograms.sum(axis=1)
    mean = histograms @ values / total
    return mean, np.sqrt(np.maximum(histograms @ values**2 / total - mean**2, 0))


def _start(mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """The first bank of each histogram: sixteen groups of like spread, sixteen of like mean in each."""
    side = round(BANKS**0.5)
    groups = _ranked(spread, side)
    banks = np.empty(len(mean), np.int64)
    for group in range(side):
        inside = groups == group
        banks[inside] = group * side + _ranked(mean[inside], side)
    return banks


def _ranked(values: np.ndarray, groups: int) -> np.ndarray:
    """The group of each value: as many in the first, of the smallest, as in any other."""
    rank = np.empty(len(values), np.int64)
    rank[values.argsort(kind="stable")] = np.arange(len(values))
    return rank * groups // max(1, len(values))
