"""Crops of the pyramid: by (seed, step, index) alone, of all five sizes, and in the photos' own bytes."""

import numpy as np
import pytest
import torch

from slimcodec import InvalidInput
from slimcodec.training.crops import MOST_SATURATED
from slimcodec.training.pyramid import SHRINKING, PhotoPyramid, require_memory

STEP = {"seed": 3, "step": 7, "batch": 12, "size": 32}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pyramid():
    return PhotoPyramid([("a", noise(150, 190, 1)), ("b", noise(164, 140, 2))])


def test_a_batch_depends_on_seed_and_step_alone(pyramid):
    batch = pyramid.crops(**STEP)
    np.random.seed(0)
    assert torch.equal(batch, pyramid.crops(**STEP))
    assert torch.equal(batch[:4], pyramid.crops(**{**STEP, "batch": 4}))
    assert not torch.equal(batch, pyramid.crops(**{**STEP, "step": 8}))
    assert not torch.equal(batch, pyramid.crops(**{**STEP, "seed": 4}))
    parts = [pyramid.crops(**STEP, first=first, count=4) for first in (0, 4, 8)]
    assert torch.equal(torch.cat(parts), batch)
    with pytest.raises(ValueError, match="not inside a batch of 12"):
        pyramid.crops(**STEP, first=10, count=3)


def test_crops_are_float_pictures_in_channels_last_memory(pyramid):
    batch = pyramid.crops(**STEP)
    assert batch.shape == (12, 3, 32, 32) and batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal((batch * 255).round() / 255, batch) and 0.9 < batch.max() <= 1


def test_sizes_and_directions_are_drawn_as_often_as_they_should():
    """In a photo whose pixels say where they are, a crop shows its own scale and direction."""
    ramp = np.broadcast_to(np.arange(250, dtype=np.uint8)[None, :, None], (250, 250, 3)).copy()
    batch = PhotoPyramid([("ramp", ramp)]).crops(seed=0, step=0, batch=2000, size=64) * 255
    across = batch[:, 0, 32, 60] - batch[:, 0, 32, 4]
    assert 0.45 < (across > 0).float().mean() < 0.55
    for number, times in enumerate(SHRINKING):
        share = ((across.abs() / 56 - times).abs() < 0.08).float().mean()
        assert share == pytest.approx(0.6 if number == 0 else 0.1, abs=0.04)


def test_as_it_is_a_crop_has_the_photos_bytes_and_every_place_is_drawn(pyramid):
    photo = noise(40, 36, 5)
    small = PhotoPyramid([("small", photo)])  # its other sizes are too small
    batch = (small.crops(seed=0, step=0, batch=600, size=32) * 255).byte()
    windows = torch.from_numpy(photo).permute(2, 0, 1).unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4)
    known = {window.numpy().tobytes() for row in windows for window in row}
    mirrored = {window.flip(-1).numpy().tobytes() for row in windows for window in row}
    found = {picture.contiguous().numpy().tobytes() for picture in batch}
    assert found <= known | mirrored and len(found) > 0.95 * 2 * 9 * 5


def test_a_share_of_the_crops_has_stronger_colours_and_the_others_are_as_without():
    photos = [("muted", 100 + noise(160, 160) // 16)]  # nothing clips
    plain, some, all_ = (
        PhotoPyramid(photos, saturated=share).crops(seed=0, step=0, batch=200, size=64) * 255 for share in (0, 0.25, 1)
    )
    changed = (some != plain).flatten(1).any(1)
    assert 0.15 < changed.float().mean() < 0.35
    chroma, stronger = (crops - crops.mean(dim=1, keepdim=True) for crops in (plain, all_))
    times = (chroma * stronger).sum((1, 2, 3)) / chroma.square().sum((1, 2, 3))
    assert times.min() >= 0.99 and 1.9 < times.max() <= MOST_SATURATED + 0.01 and 1.4 < times.mean() < 1.6


def test_photos_are_drawn_by_their_pixels_and_small_ones_never():
    flat = [("black", 0, (80, 80)), ("grey", 100, (80, 240)), ("white", 255, (39, 400))]
    pyramid = PhotoPyramid([(name, np.full((*shape, 3), level, np.uint8)) for name, level, shape in flat])
    with pytest.warns(UserWarning, match=r"1 of 3 photos are smaller than the 40x40 crop .* white \(400x39\)"):
        batch = pyramid.crops(seed=0, step=0, batch=800, size=40) * 255
    levels = batch[:, 0, 0, 0]
    assert (levels == 0).float().mean() == pytest.approx(0.25, abs=0.05)
    assert (levels == 100).float().mean() == pytest.approx(0.75, abs=0.05)


def test_what_cannot_be_cut_is_said():
    with pytest.raises(InvalidInput, match="no photos to train on"):
        PhotoPyramid([])
    with pytest.raises(InvalidInput, match="no photo is as large as the 64x64 crop"):
        PhotoPyramid([("a", noise(50, 90))]).require([64])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_cuts_the_same_where_they_are_as_in_the_photo():
    photos = [("small", noise(40, 36, 5))]
    on_gpu = PhotoPyramid(photos, device="cuda").crops(**STEP).cpu()
    assert torch.equal(on_gpu, PhotoPyramid(photos).crops(**STEP))


def test_more_than_a_gpu_has_memory_for_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**10, 2 * 10**10))
    require_memory(5 * 10**9, torch.device("cuda"), "photos", "take fewer")
    require_memory(10**12, torch.device("cpu"), "photos", "take fewer")
    with pytest.raises(InvalidInput, match=r"^photos take 7\.0 GB, of which this GPU has 10\.0 GB free: take fewer$"):
        require_memory(7 * 10**9, torch.device("cuda"), "photos", "take fewer")
