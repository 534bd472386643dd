"""A basis that is learned: it lowers the error of its photos, and finds what was put into it."""

import math

import numpy as np
import pytest
import skimage.data
import torch
from conftest import lively

from slimcodec.codec import bitstream, inference, models
from slimcodec.codec.adapt import BASIS, SCALES
from slimcodec.codec.rate import INDEX_STEP, SCALE_MIN
from slimcodec.codec.symbols import CORRECTION_TABLES, SymbolCoder
from slimcodec.training import corrections
from slimcodec.training.corrections import Examples, gathered, learned, learned_again
from slimcodec.training.prior import FactorizedPrior, export_tables

COUNT = 4


def plain_model(architecture, directory):
    torch.manual_seed(0)
    tables = export_tables(FactorizedPrior(architecture.hypers, architecture.rungs))
    return models.Model(lively(architecture), tables, {"weights_sha256": "ab" * 32}, directory)


def six_photos():
    """Six crops of different colours, uint8 [128, 64, 3]."""
    astronaut, chelsea, coffee = skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()
    corners = [(picture, top, left) for picture in (astronaut, chelsea, coffee) for top, left in ((40, 30), (120, 230))]
    return [np.ascontiguousarray(picture[top : top + 128, left : left + 64]) for picture, top, left in corners]


@pytest.fixture(scope="module")
def photos():
    return six_photos()


@pytest.fixture(scope="module")
def model(architecture, tmp_path_factory):
    return plain_model(architecture, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def tables(model, photos):
    return learned(model, photos, photos, COUNT)


def squared_error(codec, data, pixels):
    return float(np.square(np.asarray(codec.decompress(data)).astype(float) - pixels).sum())


def test_learned_corrections_lower_the_error_of_their_photos(model, tables, photos):
    """Of all together much, and of none does it rise: each file against the same file without its correction."""
    codec, errors, corrected = inference.Codec(model._replace(tables=tables)), [], 0
    for pixels in photos:
        for quality in {1, codec.network.architecture.rungs}:
            data = codec.compress(pixels, quality)
            contents = bitstream.unpack(data)
            plain = bitstream.pack(contents.header, contents.streams)
            errors.append((squared_error(codec, plain, pixels), squared_error(codec, data, pixels)))
            corrected += bool(contents.correction)
    before, after = np.array(errors).T
    assert corrected > 0.8 * len(errors)
    assert (after <= before).all() and after.sum() < 0.8 * before.sum()


def test_they_are_better_than_random_ones(model, tables, photos):
    torch.manual_seed(0)
    size = tables[BASIS].square().mean((1, 2), keepdim=True).sqrt()
    random = tables | {BASIS: torch.randn(tables[BASIS].shape) * size}
    totals = []
    for given in (tables, random):
        codec = inference.Codec(model._replace(tables=given))
        totals.append(sum(squared_error(codec, codec.compress(pixels, 1), pixels) for pixels in photos))
    assert totals[0] < 0.9 * totals[1]


def test_learned_tables_are_those_of_the_format(model, tables):
    """As a model directory in half precision holds them, and beside the tables that were there."""
    architecture = model.codec.architecture
    assert tables.keys() == model.tables.keys() | CORRECTION_TABLES.keys()
    assert all(torch.equal(tables[name], table) for name, table in model.tables.items())
    assert tables[SCALES].dtype == torch.int16 and tables[SCALES].shape == (architecture.rungs, COUNT)
    assert tables[BASIS].dtype == torch.float32 and torch.equal(tables[BASIS], tables[BASIS].half().float())
    SymbolCoder(model.codec.scales(), tables)


def test_learning_leaves_the_model_as_it_was_and_is_the_same_again(architectures, photos, tmp_path):
    model = plain_model(architectures["two stages"], tmp_path)
    before = {name: tensor.clone() for name, tensor in model.codec.state_dict().items()}
    names = set(model.tables)
    first, second = [], []
    for found in (first, second):
        torch.manual_seed(1)
        found.append(learned(model, photos, photos, COUNT))
    assert all(torch.equal(table, second[0][name]) for name, table in first[0].items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.codec.state_dict().items())
    assert set(model.tables) == names


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_photos_than_corrections_give_twice_as_many_as_photos(architectures, photos, tmp_path, count):
    """A photo is looked at at two of eight rungs."""
    model = plain_model(architectures["four stages"], tmp_path)
    tables = learned(model, photos[:count], photos[:count], 50)
    assert len(tables[BASIS]) == 2 * count and tables[SCALES].shape == (8, 2 * count)
    assert tables[BASIS].isfinite().all()
    SymbolCoder(model.codec.scales(), tables)


def test_photos_are_looked_at_at_other_rungs_in_turn(architectures, photos, tmp_path):
    found = all_of(plain_model(architectures["four stages"], tmp_path), photos[:3])
    assert found.rung.tolist() == [7, 3, 5, 1, 7, 3]
    assert found.inner.shape[0] == found.outer.shape[0] == len(found.errors) == 6
    one = all_of(plain_model(architectures["one stage"], tmp_path), photos[:2])
    assert one.rung.tolist() == [0, 0]


def all_of(model, photos):
    return gathered(corrections._with_empty_basis(model), photos, corrections._all)


def large_photos():
    """Two whose left and right halves are of different photos, uint8 [320, 640, 3]."""
    left, right = skimage.data.astronaut()[:320, :320], skimage.data.coffee()[:320, :320]
    return [np.concatenate([left, 255 - right], axis=1), np.concatenate([255 - left, right], axis=1)]


def test_photos_are_divided_as_their_cells_choose(model, tables):
    """The parts of a photo are all of it, and a basis for parts leaves less of their errors than one for photos."""
    photos, corrected = large_photos(), model._replace(tables=tables)
    parts = gathered(corrected, photos, corrections._parts)
    whole = gathered(corrected, photos, corrections._all)
    assert len(parts.rung) > len(whole.rung)
    torch.testing.assert_close(parts.inner.sum(0), whole.inner.sum(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(parts.outer.sum(0), whole.outer.sum(0), rtol=1e-3, atol=1e-4)
    again = learned_again(corrected, photos)
    assert left_by(parts, again) < left_by(parts, tables)


def left_by(examples, tables):
    """Their errors with the best coefficients, less those without."""
    basis = tables[BASIS].double().transpose(1, 2)
    changes = torch.tensordot(corrections.coefficients(examples, basis), basis, dims=1)
    inner, outer = examples.inner.double(), examples.outer.double()
    return float((changes * (inner @ changes - 2 * outer)).sum())


def examples_of(coefficients, rung, direction):
    """Photos whose features are white and whose best correction is a multiple of one direction [I, O]."""
    count, inputs = len(coefficients), len(direction)
    inner = torch.eye(inputs).repeat(count, 1, 1)
    outer = torch.stack([c * direction for c in coefficients])
    return Examples(inner, outer, torch.tensor(rung), torch.ones(count, dtype=torch.float64))


def test_scales_are_those_of_the_mean_coefficients_and_between_rungs_in_between(architectures, tmp_path):
    direction = torch.zeros(3, 2)
    direction[1, 0] = 1.0
    examples = examples_of([0.5, -1.5, 4.0, 4.0], [1, 1, 5, 5], direction)
    model = plain_model(architectures["four stages"], tmp_path)
    found = corrections.scales(model, examples, direction[None].double())
    sizes = [1, 1, 2**0.5, 2, 8**0.5, 4, 4, 4]
    expected = [round(math.log(size / SCALE_MIN) / INDEX_STEP) for size in sizes]
    assert found.dtype == torch.int16
    assert found[:, 0].tolist() == pytest.approx(expected, abs=1)


def test_one_direction_that_all_photos_want_is_found():
    torch.manual_seed(0)
    direction = torch.randn(3, 2)
    examples = examples_of([2.0, -1.0, 3.0, 0.5], [0, 0, 0, 0], direction)
    mean = torch.eye(3, dtype=torch.float64)
    basis = corrections.first_basis(examples, mean, 1)
    for found in (basis, corrections.in_turns(examples, basis), corrections.orthonormal(examples, basis, mean)):
        cosine = torch.nn.functional.cosine_similarity(found.flatten(), direction.double().flatten(), dim=0)
        assert abs(float(cosine)) > 0.999


def test_the_basis_is_orthonormal_in_the_metric_of_the_mean():
    torch.manual_seed(0)
    examples = Examples(
        torch.eye(5).repeat(9, 1, 1), torch.randn(9, 5, 6), torch.zeros(9, dtype=torch.int64), torch.ones(9).double()
    )
    root = torch.randn(5, 5, dtype=torch.float64)
    mean = root @ root.T + torch.eye(5)
    basis = corrections.orthonormal(examples, torch.randn(3, 5, 6, dtype=torch.float64), mean)
    gram = torch.einsum("kio,ij,ljo->kl", basis, mean, basis)
    torch.testing.assert_close(gram, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-9)
