"""Stored latents: photos are cut into crops once, which come with what g_a makes of them, by (seed, step) alone."""

import numpy as np
import pytest
import torch
from training_parts import lively, student

from slimcodec import InvalidInput
from slimcodec.training.crops import downscale
from slimcodec.training.latents import SHRINKING, StoredLatents

SIZE = 64
STEP = {"seed": 3, "step": 7, "batch": 12, "size": SIZE}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


PHOTOS = [("a", noise(150, 200, 1)), ("b", noise(170, 140, 2))]


@pytest.fixture(scope="module")
def g_a():
    return lively(student())[0].eval().g_a


@pytest.fixture(scope="module")
def stored(g_a):
    return StoredLatents(PHOTOS, g_a, SIZE)


def windows_of(photo):
    """Every window of a photo at its sizes, mirrored or not, as bytes, with its size and place."""
    whole, found = torch.from_numpy(photo).permute(2, 0, 1), {}
    for times in SHRINKING:
        sides = [int(side / times) for side in whole.shape[1:]]
        picture = downscale(whole, tuple(sides)) if times > 1 else whole
        for row in range(sides[0] - SIZE + 1):
            for column in range(sides[1] - SIZE + 1):
                window = picture[:, row : row + SIZE, column : column + SIZE]
                for crop in (window, window.flip(-1)):
                    found[crop.contiguous().numpy().tobytes()] = times, row, column
    return found


def test_photos_are_cut_into_squares_side_by_side_at_all_sizes(g_a):
    """As many as there is room for, none on another."""
    crops = StoredLatents(PHOTOS[:1], g_a, SIZE)
    known, places = windows_of(PHOTOS[0][1]), {times: [] for times in SHRINKING}
    for crop in (crops.cut(torch.arange(len(crops)), SIZE) * 255).round().byte():
        times, row, column = known[crop.contiguous().numpy().tobytes()]
        places[times].append((row, column))
    assert [len(places[times]) for times in SHRINKING] == [2 * 3, 1 * 2, 1 * 2, 1 * 1]
    for found in places.values():
        rows, columns = (sorted({place[axis] for place in found}) for axis in (0, 1))
        assert len(rows) * len(columns) == len(found) and set(np.diff(rows)) | set(np.diff(columns)) <= {SIZE}


def test_a_crop_has_its_own_latents(stored, g_a):
    drawn = stored.draw(**STEP, first=0, count=12)
    x, y = stored.cut(drawn, SIZE), stored.latents(drawn, SIZE)
    assert x.shape == (12, 3, SIZE, SIZE) and x.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == torch.float32 and y.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(y, g_a(x), rtol=1e-3, atol=1e-3)
    assert torch.equal(stored.crops(**STEP), x)


def test_a_batch_depends_on_seed_and_step_alone(stored, g_a):
    batch = stored.crops(**STEP)
    assert torch.equal(StoredLatents(PHOTOS, g_a, SIZE).crops(**STEP), batch)
    assert not torch.equal(batch, stored.crops(**{**STEP, "step": 8}))
    assert not torch.equal(batch, stored.crops(**{**STEP, "seed": 4}))
    assert torch.equal(torch.cat([stored.crops(**STEP, first=first, count=4) for first in (0, 4, 8)]), batch)
    assert {
        int(number) for step in range(20) for number in stored.draw(**{**STEP, "step": step}, first=0, count=12)
    } == {*range(len(stored))}


def test_some_crops_have_stronger_colours_and_latents_of_these(stored, g_a):
    said = []
    stronger = StoredLatents(PHOTOS, g_a, SIZE, saturated=1.0, tell=lambda *told: said.append(told))
    drawn = torch.arange(len(stored))
    x, before = stronger.cut(drawn, SIZE), stored.cut(drawn, SIZE)
    spread, plain = ((each.max(1).values - each.min(1).values).mean() for each in (x, before))
    assert spread > 1.05 * plain and len(stronger) == len(stored) and said == [(1, 2), (2, 2)]
    with torch.no_grad():
        torch.testing.assert_close(stronger.latents(drawn, SIZE), g_a(x), rtol=1e-3, atol=1e-3)


def test_photos_that_are_too_small_are_left_out_and_other_sizes_refused(stored, g_a):
    tiny = ("tiny", noise(48, 200, 3)), ("dot", noise(8, 8, 4))
    with pytest.warns(UserWarning, match=r"2 of 3 photos are smaller than the 64x64 crop.*tiny \(200x48\)"):
        crops = StoredLatents([*tiny, PHOTOS[0]], g_a, SIZE)
    assert len(crops) == 11
    with pytest.raises(InvalidInput, match="no photo is as large as the 64x64 crop"):
        StoredLatents(tiny, g_a, SIZE)
    with pytest.raises(InvalidInput, match="there are no photos"):
        StoredLatents([], g_a, SIZE)
    with pytest.raises(InvalidInput, match="crops of 128 pixels: those with stored latents have 64"):
        stored.crops(**{**STEP, "size": 128})
