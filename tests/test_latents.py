"""Stored latents: crops that come with what g_a makes of the whole picture, by (seed, step) alone."""

import numpy as np
import pytest
import torch
from training_parts import lively, student

from slimcodec import InvalidInput
from slimcodec.training.crops import downscale
from slimcodec.training.latents import SHRINKING, STEP, StoredLatents

STEP_KEYS = {"seed": 3, "step": 7, "batch": 12}
SIZE = 64


def noise(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1))


PHOTOS = [("a", noise(136, 200, 1)), ("b", noise(168, 152, 2))]


@pytest.fixture(scope="module")
def g_a():
    return lively(student())[0].eval().g_a


@pytest.fixture(scope="module")
def stored(g_a):
    return StoredLatents(PHOTOS, g_a)


def whole(photo, g_a, times):
    """A photo at one size, cut to whole latents, and its latents."""
    pixels = torch.from_numpy(photo).permute(2, 0, 1)
    if times > 1:
        pixels = downscale(pixels, (int(photo.shape[0] / times), int(photo.shape[1] / times)))
    height, width = (side // STEP * STEP for side in pixels.shape[1:])
    x = pixels[None, :, :height, :width].float() / 255
    with torch.no_grad():
        return x[0], g_a(x)[0]


def test_a_crop_is_of_the_photo_and_its_latents_are_those_of_the_whole_picture(stored, g_a):
    drawn = stored.draw(**STEP_KEYS, size=SIZE, first=0, count=12)
    x, y = stored.cut(drawn, SIZE), stored.latents(drawn, SIZE)
    assert x.shape == (12, 3, SIZE, SIZE) and x.is_contiguous(memory_format=torch.channels_last)
    assert y.shape == (12, g_a.head.out_channels, SIZE // STEP, SIZE // STEP) and y.dtype == torch.float32
    pictures = [whole(photo, g_a, times) for _, photo in PHOTOS for times in SHRINKING]
    found = set()
    for crop, latents in zip(x, y, strict=True):
        for number, (picture, of_picture) in enumerate(pictures):
            for row in range(of_picture.shape[1] - SIZE // STEP + 1):
                for column in range(of_picture.shape[2] - SIZE // STEP + 1):
                    top, left = row * STEP, column * STEP
                    if torch.equal(picture[:, top : top + SIZE, left : left + SIZE], crop):
                        there = of_picture[:, row : row + SIZE // STEP, column : column + SIZE // STEP]
                        torch.testing.assert_close(latents, there, rtol=1e-3, atol=1e-3)
                        found.add((number, row, column))
    assert len(found) >= 10 and len({number for number, _, _ in found}) >= 3


def test_a_batch_depends_on_seed_and_step_alone(stored):
    keys = {**STEP_KEYS, "size": SIZE}
    batch = stored.crops(**keys)
    assert torch.equal(batch, stored.crops(**keys))
    assert not torch.equal(batch, stored.crops(**{**keys, "step": 8}))
    assert not torch.equal(batch, stored.crops(**{**keys, "seed": 4}))
    assert torch.equal(torch.cat([stored.crops(**keys, first=first, count=4) for first in (0, 4, 8)]), batch)


def test_some_pictures_have_stronger_colours_and_latents_of_these(g_a):
    said = []
    stronger = StoredLatents(PHOTOS, g_a, saturated=1.0, tell=lambda *told: said.append(told))
    drawn = stronger.draw(**STEP_KEYS, size=SIZE, first=0, count=12)
    x, y = stronger.cut(drawn, SIZE), stronger.latents(drawn, SIZE)
    plain = StoredLatents(PHOTOS, g_a)
    before, y_before = plain.cut(drawn, SIZE), plain.latents(drawn, SIZE)
    spread = [each.max(1).values - each.min(1).values for each in (x, before)]
    assert spread[0].mean() > 1.05 * spread[1].mean() and not torch.equal(y, y_before)
    assert said == [(1, 2), (2, 2)]


def test_photos_that_are_too_small_are_left_out(g_a):
    tiny = ("tiny", noise(48, 200, 3)), ("dot", noise(8, 8, 4))
    with pytest.warns(UserWarning, match=r"2 of 3 photos are smaller than the 64x64 crop.*tiny \(200x48\)"):
        crops = StoredLatents([*tiny, PHOTOS[0]], g_a).crops(**STEP_KEYS, size=SIZE)
    pictures = [whole(PHOTOS[0][1], g_a, times)[0] for times in SHRINKING]
    windows = [picture.unfold(1, SIZE, STEP).unfold(2, SIZE, STEP).permute(1, 2, 0, 3, 4) for picture in pictures]
    known = {window.numpy().tobytes() for each in windows for row in each for window in row}
    assert {crop.contiguous().numpy().tobytes() for crop in crops} <= known
    with pytest.raises(InvalidInput, match="no photo is as large as the 64x64 crop"):
        StoredLatents(tiny, g_a).crops(**STEP_KEYS, size=SIZE)
    with pytest.raises(InvalidInput, match="there are no photos"):
        StoredLatents([], g_a)
