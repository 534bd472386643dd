"""Which specialist codes a cell best can be foreseen, and a quick encoder does not try them all then."""

from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from conftest import lively
from test_regions import COUNT, SMALL, several

import slimcodec
from slimcodec import InvalidModel
from slimcodec.codec import bitstream, choice, maps, models
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.foresight import HIDDEN, SCORES, Foresight, inputs
from slimcodec.training import foresight
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.teach import save_trained

ARCHITECTURE = Architecture.from_dict(SMALL)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A model of specialists that foresees nothing."""
    codec = several(lively(Architecture.from_dict(SMALL | {"specialists": 1})))
    prior = FactorizedPrior(ARCHITECTURE.hypers, ARCHITECTURE.rungs)
    return save_trained(tmp_path_factory.mktemp("models") / "plain", codec, prior, role="student")


@pytest.fixture(scope="module")
def photos():
    return [skimage.data.astronaut()[:256, :384], skimage.data.coffee()[:256, :384], skimage.data.chelsea()[:256, :384]]


@pytest.fixture(scope="module")
def learned(plain, photos):
    """The same, which has learned it."""
    target = plain.with_name("learned")
    models.copy_with_tables(plain, target, foresight.learned(models.load(plain), photos))
    return target


def who_of(codec, photo, **settings):
    contents = bitstream.unpack(codec.compress(photo, quality=3, **settings))
    return maps.decode(contents.cell_map, contents.header.cells, COUNT)


def test_effort_0_does_not_try_specialists_that_it_foresees(plain, learned, photos, monkeypatch):
    tried, quick = (slimcodec.load(each, backend="torch") for each in (plain, learned))
    expected = who_of(tried, photos[0])
    assert np.array_equal(who_of(quick, photos[0], effort=1), expected)
    features = quick.transforms.networks.numpy(quick.transforms.analyse(photos[0]))
    monkeypatch.setattr(choice.Choice, "costs", None)
    assert np.array_equal(who_of(quick, photos[0]), quick.transforms.foresight.best(features, 2))
    with pytest.raises(TypeError):
        tried.compress(photos[0], quality=3)


def test_what_is_foreseen_costs_less_than_any_one_specialist(learned, photos):
    transforms, costs = models.load(learned).transforms(), []
    for pixels in photos:
        features, tried = transforms.analyse(pixels), choice.Choice(transforms, pixels, quick=False)
        of_cells = tried.costs(features, tried.grid, 3 * bitstream.QUALITY_ONE)
        who = transforms.foresight.best(transforms.networks.numpy(features), 2)[None].astype(int)
        chosen = np.take_along_axis(of_cells, who, 0)
        costs.append(np.array([chosen.sum(), *of_cells.sum(axis=(1, 2))]) / of_cells.min(axis=0).sum())
    foreseen, *alone = np.sum(costs, axis=0)
    assert len(costs) <= foreseen < min(alone)


def test_the_network_learns_a_rule_where_there_is_one():
    random = torch.Generator().manual_seed(0)
    seen = torch.randn(4000, 10, generator=random) * torch.logspace(-2, 2, 10)
    best = (seen[:, 3] / seen[:, 3].std()).abs().gt(0.7).long() + 1  # not linear; specialist 0 is never best
    costs = 1.02 - 0.02 * one_hot(best, 3)
    tables = foresight.trained(foresight.Examples(seen[:3000], costs[:3000]))
    rule = Foresight({name: table.numpy() for name, table in tables.items()}, SimpleNamespace(rungs=8))
    hidden = np.maximum(seen[3000:].numpy() @ rule.hidden.T + rule.hidden_bias, 0)
    found = (hidden @ rule.scores.T + rule.scores_bias).argmin(axis=1)
    assert (found == best[3000:].numpy()).mean() > 0.95


def one_hot(values, count):
    return torch.nn.functional.one_hot(values, count).float()


def test_a_cell_is_seen_by_its_own_features_alone():
    features = np.random.default_rng(0).normal(size=(1, 5, 8, 12)).astype(np.float32)
    seen = inputs(features, 1, 4)
    cell = features[0, :, 4:8, 8:12].reshape(5, -1)
    expected = np.concatenate([cell.mean(axis=1), np.abs(cell).mean(axis=1), [0, 1, 0, 0]])
    assert seen.shape == (2, 3, 14)
    np.testing.assert_allclose(seen[1, 2], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("tables", "specialists", "message"),
    [
        ({HIDDEN: torch.zeros(32, 7)}, COUNT, "tables.choice_hidden: must be of shape"),
        ({SCORES: torch.zeros(COUNT + 1, 32)}, COUNT, "tables.choice_scores: must be of shape"),
        ({SCORES: torch.zeros(COUNT, 32).double()}, COUNT, "tables.choice_scores is missing or not float32"),
        ({}, 1, "tables.choice_hidden: is of a model with several specialists"),
    ],
)
def test_tables_that_do_not_fit_are_refused(learned, plain, tmp_path, tables, specialists, message):
    source, model = learned, models.load(learned)
    if specialists == 1:
        codec = lively(Architecture.from_dict(SMALL | {"specialists": 1}))
        source = save_trained(tmp_path / "one", codec, FactorizedPrior(8, ARCHITECTURE.rungs), role="student")
    models.copy_with_tables(source, tmp_path / "wrong", model.tables | tables)
    with pytest.raises(InvalidModel, match=message):
        slimcodec.load(tmp_path / "wrong", backend="torch").compress(np.zeros((64, 64, 3), np.uint8))
