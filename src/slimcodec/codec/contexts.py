"""Which table a hyper-latent is coded with: one that follows from the hyper-latents before it, in integers alone.

z is coded position by position in raster order, all N channels of a position together. Before a hyper-latent of
channel n the decoder knows the vectors at the left and above (beyond an edge one stands for the other, and zeros for
both at the first position of a tile), and channels 0 … n - 1 of its own position:

    sum       left[n] + above[n]
    near      weights[n] · (|left[n]| + |above[n]|)
    activity  Σ of what is known best of every channel c: 2 · weights[c] · |z[c]| for c < n, and near of c for the rest
    bank      banks[n, how many sum_edges[n] are below sum, how many activity_edges[n] are below activity + 6 · near]

The bank is one of K probability tables, which all channels and rungs share: where all around is quiet it is a narrow
one. Nothing is signalled.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from slimcodec import InvalidModel
from slimcodec.codec import entropy

OWN = 6  # so much more than any other channel's a channel's own surroundings count


class Rule(NamedTuple):
    """How the bank follows, at one rung."""

    weights: np.ndarray  # int32 [N]
    sum_edges: np.ndarray  # int32 [N, S - 1]
    activity_edges: np.ndarray  # int32 [N, A - 1]
    banks: np.ndarray  # uint8 [N, S, A]


def surroundings(z: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z [N, rows, columns] → sum, and activity + 6 · near, of every hyper-latent, int64 in the same shape."""
    left, above = _around(z.astype(np.int64))
    weights = weights.astype(np.int64)[:, None, None]
    near = weights * (abs(left) + abs(above))
    more = 2 * weights * abs(z.astype(np.int64)) - near  # when a channel is known
    activity = near.sum(axis=0) + more.cumsum(axis=0) - more
    return left + above, activity + OWN * near


def _around(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hyper-latents at the left of each and above it."""
    left, above = np.zeros_like(z), np.zeros_like(z)
    left[:, :, 1:], above[:, 1:] = z[:, :, :-1], z[:, :-1]
    left[:, 1:, 0], above[:, 0, 1:] = above[:, 1:, 0], left[:, 0, 1:]
    return left, above


def interval(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many of its channel's edges [N, E] lie below each value [N, rows, columns]."""
    return (values[..., None] > edges[:, None, None]).sum(axis=-1)


def bank_index(z: np.ndarray, rule: Rule) -> np.ndarray:
    """The bank of every hyper-latent, uint8 [N, rows, columns]."""
    sums, activity = surroundings(z, rule.weights)
    channel = np.arange(len(z))[:, None, None]
    return rule.banks[channel, interval(sums, rule.sum_edges), interval(activity, rule.activity_edges)]


class BankCoder:
    """z ↔ its part of a stream, with the tables `z_bank_frequencies`, `z_banks`, `z_weights` and `z_*_edges`.

    Raises InvalidModel for tables that do not fit each other or the number of rungs and channels.
    """

    def __init__(self, tables: Mapping[str, np.ndarray], rungs: int, hypers: int):
        frequencies, banks = (tables[name] for name in ("z_bank_frequencies", "z_banks"))
        sums, activities = banks.shape[2:]
        expected = {"z_banks": (sums, activities), "z_weights": (), "z_sum_edges": (sums - 1,),
                    "z_activity_edges": (activities - 1,)}  # fmt: skip
        for name, shape in expected.items():
            if tables[name].shape != (rungs, hypers, *shape):
                raise InvalidModel(f"tables.{name} must be of shape {(rungs, hypers, *shape)}")
        if banks.size == 0 or banks.max() >= len(frequencies):
            raise InvalidModel(f"tables.z_banks: names a bank beyond the {len(frequencies)} that there are")
        self.tables = entropy.build_tables(
            frequencies.ravel().astype(np.int32), *_bytes(len(frequencies)), escape=False
        )
        parts = (
            np.ascontiguousarray(tables[name]) for name in ("z_weights", "z_sum_edges", "z_activity_edges", "z_banks")
        )
        self.rules = [Rule(*of_rung) for of_rung in zip(*parts, strict=True)]

    def put(self, encoder: entropy.Encoder, z: np.ndarray, rung: int) -> None:
        """z int8 [N, rows, columns]."""
        index = bank_index(z, self.rules[rung])
        encoder.put(np.moveaxis(z, 0, -1), np.moveaxis(index, 0, -1), self.tables)

    def get(self, decoder: entropy.Decoder, shape: tuple[int, ...], rung: int) -> np.ndarray:
        """The next hyper-latents, int8 [N, rows, columns]. Raises InvalidFile as the decoder does."""
        channels, rows, columns = shape
        vectors = np.zeros((rows, columns, channels), np.int16)
        weights, sum_edges, activity_edges, banks = self.rules[rung]
        rule = weights, sum_edges, sum_edges.shape[1], activity_edges, activity_edges.shape[1], banks, OWN
        decoder.follow("decode_banks", *rule, *self.tables.for_native, rows, columns, channels, vectors)
        return np.ascontiguousarray(np.moveaxis(vectors, -1, 0), np.int8)

    def information_bits(self, z: np.ndarray, rung: int) -> float:
        return float(self.coded_bits(z, rung).sum())

    def coded_bits(self, z: np.ndarray, rung: int) -> np.ndarray:
        """What every hyper-latent costs, [N, rows, columns]."""
        return entropy.coded_bits(z, bank_index(z, self.rules[rung]), self.tables).reshape(z.shape)


def _bytes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The sizes and minima of so many tables for -128 … 127."""
    return np.full(count, 256), np.full(count, -128)
