"""Vectors for many groups, each of which takes the one that serves it best: corrections, or filters, of cells.

A vector q saves 2·slope·q - q·curvature·q in a group. So the best one for some groups follows from their sums, and they
and the groups' choices follow from each other in turns (Lloyd, 1982).
"""

import numpy as np

CANDIDATES = 64  # groups whose own vectors are tried as the start of one more
TURNS = 3
RIDGE = 0.5  # of the mean group: what little a group says alone is not believed


class Grouping:
    """curvature [groups, pairs], as `triangle` says, and slope [groups, K] are for savings in bits.

    bits_each: what a vector takes
    """

    def __init__(self, curvature: np.ndarray, slope: np.ndarray, bits_each: float):
        self.curvature, self.slope, self.bits_each = curvature, slope, bits_each
        self.rows, self.columns = triangle(slope.shape[1])
        mean = self._whole(curvature.mean(axis=0))
        self.ridge = RIDGE * mean + max(1e-6 * float(np.trace(mean)), 1e-12) * np.eye(len(mean))  # one may do nothing

    def best(self, first: np.ndarray, most: int) -> np.ndarray:
        """As many as pay, at most so many, from the first on: [n, K]."""
        tried = np.unique(np.linspace(0, len(self.slope) - 1, CANDIDATES).round().astype(int))
        own = np.linalg.solve(self._whole(self.curvature[tried]) + self.ridge, self.slope[tried][..., None])[..., 0]
        gains_of_own, best, chosen = self.gains(own), first[None], first[None]
        gains = self.gains(chosen)
        most_saved = gains.sum()
        for _ in range(most - 1):  # each time one more, unless no group takes it
            so_far = gains.max(axis=1, keepdims=True)
            chosen = np.concatenate([chosen, own[[np.maximum(so_far, gains_of_own).sum(axis=0).argmax()]]])
            chosen, gains, saved = self._in_turns(chosen)
            if saved > most_saved:
                best, most_saved = chosen, saved
        return best

    def gains(self, vectors: np.ndarray) -> np.ndarray:
        """Of every group by each of the vectors [n, K], in bits, [groups, n]."""
        squares = vectors[:, self.rows] * vectors[:, self.columns] * np.where(self.rows == self.columns, 1, 2)
        gains: np.ndarray = 2 * self.slope @ vectors.T - self.curvature @ squares.T
        return gains

    def assigned(self, vectors: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Which of the vectors [n, K] each group takes. bits [n]: what it takes to say so."""
        return (self.gains(vectors) - bits).argmax(axis=1)

    def sums(self, whose: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Curvature [n, K, K] and slope [n, K] of n sets of groups; whose [groups]: the set that each is in."""
        members = (np.arange(count)[:, None] == whose).astype(np.float64)
        return self._whole(members @ self.curvature), members @ self.slope

    def _in_turns(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """→ better ones, their gains, and about what they save with their map."""
        gains = self.gains(vectors)
        for _ in range(TURNS):
            whose = (gains - shares(gains.argmax(axis=1), len(vectors))).argmax(axis=1)
            numbers, whose = np.unique(whose, return_inverse=True)
            curvature, slope = self.sums(whose, len(numbers))
            vectors = np.linalg.solve(curvature + self.ridge, slope[..., None])[..., 0]
            gains = self.gains(vectors)
        bits = shares(whose, len(vectors))
        return vectors, gains, (gains - bits).max(axis=1).sum() - self.bits_each * len(vectors)

    def _whole(self, pairs: np.ndarray) -> np.ndarray:
        """[..., pairs] → [..., K, K]."""
        count = self.slope.shape[1]
        found = np.empty((*pairs.shape[:-1], count, count))
        found[..., self.rows, self.columns] = found[..., self.columns, self.rows] = pairs
        return found


def triangle(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows and the columns of a symmetric matrix that say all of it."""
    rows, columns = np.triu_indices(size)
    return rows, columns


def shares(whose: np.ndarray, count: int) -> np.ndarray:
    """What it takes to say which of so many a group has, in bits [n], if each is as frequent as it is here."""
    times = np.bincount(whose, minlength=count) + 0.5
    bits: np.ndarray = -np.log2(times / times.sum())
    return bits
