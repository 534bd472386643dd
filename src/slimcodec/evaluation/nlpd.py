"""Normalised Laplacian pyramid distance.

Laparra, Ballé, Berardino and Simoncelli, Perceptual image quality assessment using a normalized Laplacian pyramid,
2016, with the constants of the authors' www.cns.nyu.edu/~lcv/NLPyr/NLP_dist.m.
"""

from collections.abc import Iterator, Mapping

import numpy as np

_BLUR = 0.05, 0.25, 0.4, 0.25, 0.05  # Burt and Adelson 1983
# Per band, the finest first: sigma, and the weights of the neighbours' magnitudes, (row, column) in a kernel that is
# convolved, so that the weight at (0, 1) is that of the neighbour on the left.
_GAIN_CONTROL = (
    (0.0248, {(-1, 0): 0.1011, (0, -1): 0.1493, (0, 1): 0.1460, (0, 2): 0.0072, (1, 0): 0.1015}),
    (0.0185, {(-1, 0): 0.0757, (0, -1): 0.1986, (0, 1): 0.1846, (1, 0): 0.0837}),
    (0.0179, {(-1, 0): 0.0477, (0, -1): 0.2138, (0, 1): 0.2243, (1, 0): 0.0467}),
    (0.0191, {(0, -1): 0.2503, (0, 1): 0.2616}),
    (0.0220, {(0, -1): 0.2598, (0, 1): 0.2552}),
    (0.2782, {(0, -1): 0.2215, (0, 1): 0.0717}),
)


def nlpd_distance(reference: np.ndarray, picture: np.ndarray) -> float:
    """The mean over the six bands of the root mean squared difference; both [H, W] in [0, 1]."""
    bands = zip(_normalised_pyramid(reference), _normalised_pyramid(picture), strict=True)
    return float(np.mean([np.sqrt(np.mean(np.square(first - second))) for first, second in bands]))


def _normalised_pyramid(luma: np.ndarray) -> Iterator[np.ndarray]:
    for sigma, weights in _GAIN_CONTROL[:-1]:
        smaller = _halved(luma)
        yield _normalised(luma - _doubled(smaller, luma.shape), sigma, weights)
        luma = smaller
    yield _normalised(luma, *_GAIN_CONTROL[-1])


def _normalised(band: np.ndarray, sigma: float, weights: Mapping[tuple[int, int], float]) -> np.ndarray:
    """Each value over sigma plus the weighted magnitudes of its neighbours; there is nothing outside the picture."""
    height, width = band.shape
    magnitude = np.pad(np.abs(band), 2)
    gain = sigma
    for (row, column), weight in weights.items():
        gain = gain + weight * magnitude[2 - row :, 2 - column :][:height, :width]
    return band / gain


def _halved(image: np.ndarray) -> np.ndarray:
    """Blurred with the picture mirrored at its edges, then every other row and column."""
    for _ in range(2):
        rows = len(image)
        padded = np.pad(image, ((2, 2), (0, 0)), mode="symmetric")
        image = sum(weight * padded[k : k + rows : 2] for k, weight in enumerate(_BLUR)).T
    return image


def _doubled(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """To `shape`: zeros between the values, then blurred; a row sees taps 0.05, 0.4, 0.05 or 0.25, 0.25, times two."""
    for rows in shape:
        padded = np.pad(image, ((1, 1), (0, 0)), mode="edge")
        doubled = np.empty((2 * len(image), image.shape[1]))
        doubled[0::2] = 0.1 * (padded[:-2] + padded[2:]) + 0.8 * image
        doubled[1::2] = 0.5 * (image + padded[2:])
        image = doubled[:rows].T
    return image
