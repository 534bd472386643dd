"""Photos are read as a user expects, and a step's batch is a pure function of (seed, step)."""

import os
import socket
import warnings

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from slimcodec import InvalidInput
from slimcodec.training.crops import MOST_SATURATED, PhotoCache, rungs
from slimcodec.training.data import PhotoData, Steps
from slimcodec.training.photos import Photo, centre_crops, embedded, folder_photos, for_validation

STEP = {"seed": 3, "step": 7, "batch": 6, "size": 32}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def gradient(height, width):
    """A smooth picture that every lossy format keeps within a few levels."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 200 // height, columns * 200 // width, rows * 0 + 90], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def cache():
    return PhotoCache([("a", noise(50, 90, 1)), ("b", noise(64, 40, 2))])


# ------------------------------------------------------------------------------------------------------------- folders


def test_names_need_not_be_text_and_hidden_files_are_not_trained_on(tmp_path):
    (tmp_path / ".thumbnails").mkdir()
    for name in (b"caf\xe9.png", b"._cafe.png", b".thumbnails/cafe.png"):
        Image.fromarray(noise(8, 8)).save(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    assert [photo.name for photo in folder_photos(tmp_path)] == [os.fsdecode(b"caf\xe9.png")]


# -------------------------------------------------------------------------------------------------------------- crops


def test_a_batch_depends_on_seed_and_step_alone(cache):
    batch = cache.crops(**STEP)
    cache.crops(**{**STEP, "step": 8})
    np.random.seed(0)
    torch.manual_seed(0)
    assert torch.equal(batch, cache.crops(**STEP))
    assert torch.equal(batch[:4], cache.crops(**{**STEP, "batch": 4}))
    assert not torch.equal(batch, cache.crops(**{**STEP, "step": 8}))
    assert not torch.equal(batch, cache.crops(**{**STEP, "seed": 4}))


def test_processes_that_share_a_batch_draw_what_one_would(cache):
    parts = [cache.crops(**STEP, first=first, count=2) for first in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), cache.crops(**STEP))
    assert torch.equal(cache.crops(**STEP, first=5), cache.crops(**STEP)[5:])


def test_workers_cut_what_one_process_cuts_in_any_order(cache):
    ahead = PhotoCache([("a", noise(50, 90, 1)), ("b", noise(64, 40, 2))], workers=2)
    for step in (3, 4, 5, 9, 4):
        request = {**STEP, "step": step}
        assert torch.equal(ahead.crops(**request), cache.crops(**request))
    assert torch.equal(ahead.crops(**STEP, first=2, count=2), cache.crops(**STEP, first=2, count=2))
    ahead._ahead._found = None  # collected with the cache, in a circle, each worker would be waited for five seconds


def test_crops_are_float_pictures(cache):
    batch = cache.crops(**STEP)
    assert batch.shape == (6, 3, 32, 32) and batch.dtype == torch.float32
    assert batch.min() >= 0 and 0.9 < batch.max() <= 1
    assert torch.equal((batch * 255).round() / 255, batch)


def test_a_slice_outside_the_batch_is_refused(cache):
    with pytest.raises(ValueError, match="not inside a batch of 6"):
        cache.crops(**STEP, first=4, count=3)


def test_half_of_the_crops_are_windows_as_they_are_and_half_of_those_mirrored():
    """In a photo whose pixels say where they are, a crop shows its own scale and direction."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (150, 200, 3)).copy()
    batch = PhotoCache([("ramp", ramp)]).crops(seed=0, step=0, batch=400, size=40) * 255
    across = (batch[:, 0, 20, 30] - batch[:, 0, 20, 10]).round()
    assert 0.4 < (across.abs() == 20).float().mean() < 0.65
    assert 0.4 < (across > 0).float().mean() < 0.6
    assert across.abs().max() <= 41


def test_a_share_of_the_crops_has_stronger_colours_and_the_others_are_as_without():
    photos = [("muted", 100 + noise(60, 60) // 16)]  # nothing clips
    plain, some, all_ = (
        PhotoCache(photos, saturated=share).crops(seed=0, step=0, batch=200, size=32) * 255 for share in (0, 0.25, 1)
    )
    changed = (some != plain).flatten(1).any(1)
    assert 0.15 < changed.float().mean() < 0.35
    chroma, stronger = (crops - crops.mean(dim=1, keepdim=True) for crops in (plain, all_))
    times = (chroma * stronger).sum((1, 2, 3)) / chroma.square().sum((1, 2, 3))
    assert times.min() >= 1 and 1.9 < times.max() <= MOST_SATURATED + 0.01 and 1.4 < times.mean() < 1.6
    assert (all_.mean(dim=1) - plain.mean(dim=1)).abs().max() < 1  # rounded three times


def test_photos_are_drawn_by_their_pixels_and_small_ones_never():
    flat = [("black", 0, (40, 40)), ("grey", 100, (40, 120)), ("white", 255, (39, 400))]
    cache = PhotoCache([(name, np.full((*shape, 3), level, np.uint8)) for name, level, shape in flat])
    with pytest.warns(UserWarning, match="1 of 3 photos are smaller than the 40x40 crop"):
        levels = cache.crops(seed=0, step=0, batch=400, size=40).amax((1, 2, 3)) * 255
    assert 0.68 < (levels == 100).float().mean() < 0.82
    assert not (levels == 255).any()


def test_photos_that_are_all_too_small_are_an_error(cache):
    with pytest.raises(InvalidInput, match="no photo is as large as the 128x128 crop"):
        cache.crops(**{**STEP, "size": 128})
    with pytest.raises(InvalidInput, match="no photos"):
        PhotoCache([])


def test_centre_crops_are_the_middles_and_never_more_than_the_photo():
    wide, small = noise(50, 91, 1), noise(20, 30, 2)
    (name, middle), (_, whole) = centre_crops([("wide", wide), ("small", small)], 40)
    assert name == "wide" and np.array_equal(middle, wide[5:45, 25:65]) and middle.flags.c_contiguous
    assert np.array_equal(whole, small)
    ((_, strip),) = centre_crops([("wide", wide)], 60)
    assert np.array_equal(strip, wide[:, 15:75])


# -------------------------------------------------------------------------------------------------------------- rungs


def test_rungs_cover_the_ladder_evenly():
    drawn = rungs(seed=0, step=5, batch=20, levels=8)
    assert drawn.dtype == torch.int64 and drawn.shape == (20,)
    assert sorted(drawn[:8].tolist()) == sorted(drawn[8:16].tolist()) == list(range(8))
    assert len(set(drawn[16:].tolist())) == 4
    assert torch.equal(drawn, rungs(seed=0, step=5, batch=20, levels=8))
    assert not torch.equal(drawn, rungs(seed=0, step=6, batch=20, levels=8))


# ------------------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp", "avif", "tif", "tiff"])
def test_every_format_is_read(tmp_path, suffix):
    (tmp_path / "deep/er").mkdir(parents=True)
    Image.fromarray(gradient(40, 60)).save(tmp_path / f"deep/er/photo.{suffix}")
    ((name, pixels),) = folder_photos(tmp_path)
    assert name == f"deep/er/photo.{suffix}"
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - gradient(40, 60)).mean() < 4


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    Image.fromarray(gradient(40, 60)).convert(mode).save(tmp_path / "photo.tif")
    assert folder_photos(tmp_path)[0].pixels.shape == (40, 60, 3)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned a quarter clockwise
    Image.fromarray(gradient(40, 60)).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(folder_photos(tmp_path)[0].pixels, np.rot90(gradient(40, 60), -1))


def test_unreadable_photos_are_skipped_with_one_warning(tmp_path):
    Image.fromarray(noise(40, 60)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:3000])
    (tmp_path / "no.jpg").write_bytes(b"not a picture")
    Image.fromarray(noise(40, 60)).save(tmp_path / "z.avif")
    (tmp_path / "z.avif").write_bytes((tmp_path / "z.avif").read_bytes()[:400])
    (tmp_path / "notes.txt").write_text("not a photo, so no complaint")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        photos = folder_photos(tmp_path)
    assert [photo.name for photo in photos] == ["good.png"]
    (warning,) = caught
    assert "skipped 3 unreadable photos: cut.png, no.jpg, z.avif" in str(warning.message)


def test_a_folder_without_photos_is_an_error(tmp_path):
    with pytest.raises(InvalidInput, match=f"{tmp_path} holds no picture"):
        folder_photos(tmp_path)
    with pytest.raises(InvalidInput, match="missing is not a folder"):
        folder_photos(tmp_path / "missing")
    (tmp_path / "no.jpg").write_bytes(b"not a picture")
    with pytest.raises(InvalidInput, match="none of its 1 photos can be read"):
        folder_photos(tmp_path)


def test_limit_spreads_and_max_pixels_downscales(tmp_path):
    for index in range(6):
        Image.fromarray(gradient(40, 60)).save(tmp_path / f"{index}.png")
    photos = folder_photos(tmp_path, limit=3, max_pixels=600)
    assert [photo.name for photo in photos] == ["0.png", "2.png", "4.png"]
    assert {photo.pixels.shape for photo in photos} == {(20, 30, 3)}


def test_embedded_photos_need_no_network(monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    train, validation = embedded("train"), embedded("validation")
    assert len(train) == 5 and [photo.name for photo in validation] == ["chelsea", "flower"]
    for _, pixels in train + validation:
        assert pixels.dtype == np.uint8 and min(pixels.shape[:2]) >= 256 and pixels.std() > 20


# ---------------------------------------------------------------------------------------------------------- Lightning


def test_steps_run_from_the_first_to_the_end_of_its_epoch():
    assert list(Steps(lambda: 0, 4)) == [0, 1, 2, 3]
    assert list(Steps(lambda: 6, 4)) == [6, 7]
    assert list(Steps(lambda: 8, 4)) == [8, 9, 10, 11]


def test_validation_photos_are_cut_to_what_the_network_takes():
    photo = noise(130, 200)
    data = PhotoData(validation_photos=[("a", photo)], steps_per_epoch=1)
    ((name, x),) = data.val_dataloader()
    assert name == "a" and x.shape == (3, 128, 192) and x.dtype == torch.float32
    assert np.array_equal((x * 255).round().numpy(), photo[:128, :192].transpose(2, 0, 1))


class Recorder(lightning.LightningModule):
    """Notes the steps it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.steps, self.cache = [], PhotoCache([("a", noise(20, 30))])

    def training_step(self, step, _):
        self.steps.append(step)
        return self.weight * self.cache.crops(seed=0, step=step, batch=2, size=16).mean()

    def validation_step(self, *_):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, max_steps, checkpoint=None):
    data = PhotoData(validation_photos=[], steps_per_epoch=4)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_steps=max_steps, accelerator="cpu", limit_val_batches=0, **quiet)
    recorder = Recorder()
    trainer.fit(recorder, datamodule=data, ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / f"{max_steps}.ckpt")
    return recorder.steps


@pytest.mark.parametrize("stop", [3, 4, 6, 8])
def test_a_resumed_run_sees_the_steps_it_had_left(tmp_path, stop):
    assert fit(tmp_path, stop) == list(range(stop))
    assert fit(tmp_path, 10, tmp_path / f"{stop}.ckpt") == list(range(stop, 10))


# --------------------------------------------------------------------------------------------------- photos too small


def test_validation_photos_that_are_too_small_are_left_out_and_named():
    photos = [Photo("wide.png", noise(63, 200)), Photo("good.png", noise(64, 64)), Photo("high.png", noise(300, 10))]
    with pytest.warns(UserWarning, match=r"less than 64 pixels .*: wide\.png \(200x63\), high\.png \(10x300\)$"):
        assert [photo.name for photo in for_validation(photos)] == ["good.png"]
    with pytest.raises(InvalidInput, match="none of the 2 validation photos has 64 pixels on both sides"):
        for_validation([photos[0], photos[2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert for_validation(photos[1:2]) == photos[1:2]


def test_training_photos_that_are_too_small_are_named_with_the_size_they_need():
    cache = PhotoCache([("large", noise(50, 50)), *((f"{n}.png", noise(39, 90)) for n in range(12))])
    with pytest.warns(
        UserWarning, match=r"12 of 13 .* must have 40 pixels: 0\.png \(90x39\), .*9\.png .*, and 2 more$"
    ):
        cache.require([40])
    with pytest.raises(InvalidInput, match="no photo is as large as the 64x64 crop"):
        cache.require([40, 64])
