"""Counted tables: offsets find where residuals lie, only scales that every picture can do without are skipped."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import lively

from slimcodec.codec import models
from slimcodec.codec.grid import PLANES
from slimcodec.codec.quantise import Quantiser
from slimcodec.codec.rate import SCALE_COUNT
from slimcodec.codec.rounding import OFFSET_UNIT, check_tables
from slimcodec.codec.symbols import entropy_tables
from slimcodec.training import calibrate
from slimcodec.training.calibrate import (
    ERROR_BITS,
    GAUSSIAN_COUNT,
    MOST_SKIPPED,
    OFFSET_SHARE,
    PRIOR_COUNT,
    calibrated,
)
from slimcodec.training.prior import FactorizedPrior, export_tables
from slimcodec.training.teach import save_trained


@pytest.fixture(scope="module")
def tables():
    torch.manual_seed(0)
    return export_tables(FactorizedPrior(3, 2))


class Fixed:
    """Stands for a codec whose crops [B, 1, H, W] are the residuals themselves, all at chosen scale indices [H, W]."""

    training = False

    def __init__(self, index):
        self.index = index[None, None]
        self.architecture = SimpleNamespace(rungs=2)

    def eval(self):
        return self

    def train(self, mode):
        self.training = mode

    def gain_shift(self, quality):
        return torch.zeros(1, 1)

    def gain(self, shift):
        return shift + 1

    def g_a(self, x):
        return x

    def latent(self, y_hat):
        return y_hat

    def h_a(self, y):
        return y

    def planes(self, x):
        """As to_planes gives them: [1, 4, 1, H/2, W/2]."""
        return torch.nn.functional.pixel_unshuffle(x, 2).unflatten(1, (-1, PLANES)).transpose(1, 2)

    def scale_index(self, z_hat, shift):
        return self.planes(self.index).float()

    def h_mean(self, z_hat):
        return z_hat

    def stages(self):
        return [(0, [0, 1, 2, 3])]

    def means(self, stage, features):
        return torch.zeros(())


def stripes(*index):
    """Scale indices [8·n, 8]: eight rows of each."""
    return torch.tensor(index)[:, None].repeat_interleave(8, 0).repeat(1, 8)


def residuals(values):
    """The same number for all eight rows of a stripe, half of them negative: [1, 1, 8·n, 8]."""
    signs = torch.ones(8, 8)
    signs[::2] = -1
    return (torch.tensor(values)[:, None, None] * signs).flatten(0, 1)[None, None]


def test_offsets_find_a_known_shift(tables):
    """Integers that stand for residuals below, above and at them; a scale that was not seen keeps 0."""
    index, values = (30, 35, 40, 45), (2.75, 3.2, 4.0, 0.1)
    found = calibrated(Fixed(stripes(*index)), tables, residuals(values).repeat(40, 1, 1, 1))
    seen = 64 * 40 * 2  # at two rungs
    share = OFFSET_SHARE * seen / (seen + PRIOR_COUNT)
    offsets = found["r_offsets"] / OFFSET_UNIT
    assert offsets[list(index)].tolist() == pytest.approx([0.25 * share, -0.2 * share, 0, 0], abs=1 / OFFSET_UNIT)
    assert (offsets[:30] == 0).all() and (offsets[46:] == 0).all()


def test_a_scale_that_was_hardly_seen_keeps_a_small_offset(tables):
    crop = residuals((2.7,))
    found = [calibrated(Fixed(stripes(30)), tables, crop.repeat(n, 1, 1, 1))["r_offsets"][30] for n in (1, 9)]
    assert 0 < found[0] < found[1] < 0.3 * OFFSET_UNIT


def test_frequencies_are_what_was_counted_and_gaussian_where_nothing_was(tables):
    """Three quarters of a scale's residuals are 0, the others 2 and -2; of a second one half lie beyond its table."""
    values = torch.zeros(4, 8, 8)
    values[3] = 2.0
    values[3, ::2] = -2.0
    beyond = torch.zeros(4, 8, 8)
    beyond[2:] = 50.0
    index = torch.cat([stripes(20), stripes(25)])
    crops = torch.cat([values, beyond], dim=1)[:, None].repeat(50, 1, 1, 1)
    found = calibrated(Fixed(index), tables, crops)
    sizes = tables["r_sizes"].tolist()
    before, after = (dict(enumerate(t["r_frequencies"].int().split(sizes))) for t in (tables, found))
    seen = 200 * 64 * 2  # at two rungs
    for scale, at_zero, two, escaped in ((20, 0.75, 0.125, 0), (25, 0.5, 0, 0.5)):
        share = seen / (seen + GAUSSIAN_COUNT * sizes[scale])
        middle = sizes[scale] // 2 - 1
        expected = (1 - share) * before[scale] / 65536
        for place, p in ((middle, at_zero), (middle - 2, two), (middle + 2, two), (-1, escaped)):
            expected[place] += share * p
        torch.testing.assert_close(after[scale] / 65536, expected, rtol=0, atol=1e-4)
    assert all(torch.equal(before[scale], after[scale]) for scale in before if scale not in (20, 25))


def test_skip_ends_where_any_picture_has_residuals(tables):
    index = stripes(0, 1, 2, 3, 30)
    quiet, lively_one = residuals((0.0, 0.0, 0.0, 0.0, 5.0)), residuals((0.0, 0.0, 2.0, 0.0, 5.0))
    always = calibrated(Fixed(index), tables, quiet.repeat(9, 1, 1, 1))["r_skip"]
    assert always.tolist() == [MOST_SKIPPED]
    once = calibrated(Fixed(index), tables, torch.cat([quiet.repeat(9, 1, 1, 1), lively_one]))["r_skip"]
    assert once.tolist() == [2]
    first = calibrated(Fixed(index), tables, torch.cat([quiet, residuals((2.0, 0.0, 0.0, 0.0, 5.0))]))["r_skip"]
    assert first.tolist() == [0]


@pytest.mark.parametrize("training", [False, True])
def test_the_same_crops_give_the_same_tables_and_leave_the_codec_as_it_was(architectures, tables, training):
    codec = lively(architectures["two stages"]).train(training)
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    crops = torch.rand(2, 3, 64, 64)
    first, second = (calibrated(codec, export_tables(FactorizedPrior(3, 3)), crops) for _ in range(2))
    assert codec.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state_dict().items())
    for name in ("r_offsets", "r_skip"):
        assert torch.equal(first[name], second[name])


def test_counted_tables_can_be_stored_and_read(architecture, tmp_path):
    codec = lively(architecture)
    torch.manual_seed(0)
    empty = export_tables(FactorizedPrior(architecture.hypers, architecture.rungs))
    found = calibrated(codec, empty, torch.rand(2, 3, 128, 128))
    kinds = {name: (table.dtype, table.shape) for name, table in empty.items()}
    kinds["r_error_bits"] = torch.int16, (1,)
    assert {name: (table.dtype, table.shape) for name, table in found.items()} == kinds
    check_tables(found)
    assert found["r_offsets"].unique().numel() > 5 and found["r_offsets"].abs().max() < OFFSET_UNIT
    assert 0 <= found["r_skip"] < SCALE_COUNT
    loaded = models.load(models.save(tmp_path / "model", codec, found, role="student")).tables
    assert all(torch.equal(loaded[name], table) for name, table in found.items())
    assert entropy_tables(loaded)[1].skip == found["r_skip"]
    assert Quantiser(loaded, torch.device("cpu")).error_bits == ERROR_BITS


def test_a_model_is_saved_with_what_was_counted_on_its_crops(architectures, tmp_path):
    codec, crops = lively(architectures["two stages"]), torch.rand(1, 3, 128, 128)
    prior = FactorizedPrior(3, 3)
    for given, tables in ((crops, calibrated(codec, export_tables(prior), crops)), (None, export_tables(prior))):
        stored = models.load(save_trained(tmp_path / "model", codec, prior, given, role="student")).tables
        assert all(torch.equal(stored[name], table) for name, table in tables.items())


def test_a_trained_model_has_offsets_towards_zero_where_residuals_are_rounded(monkeypatch):
    """Small residuals are more frequent than large ones, within what one integer stands for, too."""
    import skimage.data

    monkeypatch.setattr(calibrate, "ERROR_BITS", 1000.0)  # hardly any is worth a step down
    model = models.load("small")
    photos = [skimage.data.astronaut()[128:384, 128:384], skimage.data.coffee()[100:356, 200:456]]
    crops = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2) / 255
    offsets = calibrated(model.codec, model.tables, crops)["r_offsets"][8:32]
    assert (offsets > 0).all()
