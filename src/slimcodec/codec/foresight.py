"""Which specialist will code a cell best, foreseen from what all of them see: the encoder's quick way to choose.

    features of a cell, [C, 4, 4] ─► mean and mean magnitude of every channel, and the rung ─► hidden ─► a score each

The small network is a table of a model, learned from what the choice would be (training/foresight). A decoder never
looks at it. To try a specialist takes a g_s and a search; to foresee it takes a few operations a cell.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from slimcodec import InvalidModel
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.grid import LATENTS

HIDDEN, HIDDEN_BIAS = "choice_hidden", "choice_hidden_bias"  # float32 [H, 2·C + Q] and [H]
SCORES, SCORES_BIAS = "choice_scores", "choice_scores_bias"  # float32 [K, H] and [K]: the least is best


class Foresight:
    """`tables`: the four above, of a model of specialists."""

    def __init__(self, tables: Mapping[str, Any], architecture: Architecture):
        names = HIDDEN, HIDDEN_BIAS, SCORES, SCORES_BIAS
        self.hidden, self.hidden_bias, self.scores, self.scores_bias = (np.asarray(tables[name]) for name in names)
        self.rungs = architecture.rungs

    def best(self, features: np.ndarray, rung: int) -> np.ndarray:
        """What `Transforms.analyse` gave for a window of cells, float32 [1, C, 4·rows, 4·columns], and a rung from 0 →
        the specialist of every cell, uint8 [rows, columns]."""
        hidden = np.maximum(inputs(features, rung, self.rungs) @ self.hidden.T + self.hidden_bias, 0)
        found: np.ndarray = (hidden @ self.scores.T + self.scores_bias).argmin(axis=-1).astype(np.uint8)
        return found


def inputs(features: np.ndarray, rung: int, rungs: int) -> np.ndarray:
    """What the network sees of every cell, float32 [rows, columns, 2·C + Q]: see `Foresight.best`."""
    _, channels, height, width = features.shape
    cells = features.reshape(channels, height // LATENTS, LATENTS, width // LATENTS, LATENTS)
    said = np.zeros((rungs, height // LATENTS, width // LATENTS), np.float32)
    said[rung] = 1
    seen = np.concatenate([cells.mean(axis=(2, 4)), np.abs(cells).mean(axis=(2, 4)), said])
    return np.moveaxis(seen, 0, -1)


def check_tables(tables: Mapping[str, Any], architecture: Architecture) -> None:
    """Raises InvalidModel for tables that do not fit the architecture."""
    if HIDDEN not in tables:
        return
    if architecture.specialists == 1:
        raise InvalidModel(f"tables.{HIDDEN}: is of a model with several specialists, and this one has none")
    size, seen = len(tables[HIDDEN]), 2 * architecture.g_a[-1].channels + architecture.rungs
    expected = {HIDDEN: (size, seen), HIDDEN_BIAS: (size,), SCORES: (architecture.specialists, size)}
    for name, shape in (expected | {SCORES_BIAS: (architecture.specialists,)}).items():
        if tables[name].shape != shape:
            raise InvalidModel(f"tables.{name}: must be of shape {shape}")
