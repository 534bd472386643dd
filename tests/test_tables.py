"""What is in a student's tables once its networks stand: tables of r, banks of z and corrections, all on photos."""

import numpy as np
import pytest
import torch
from test_corrections import plain_model, six_photos, squared_error

from slimcodec import InvalidInput
from slimcodec.codec import bitstream, inference, models
from slimcodec.codec.adapt import BASIS
from slimcodec.codec.bilateral import BASIS as FILTERS
from slimcodec.codec.symbols import BANK_TABLES, CORRECTION_TABLES, FILTER_TABLES, TABLES
from slimcodec.training.photos import Photo
from slimcodec.training.tables import CORRECTED, crops_to_learn_from, with_everything


@pytest.fixture(scope="module")
def photos():
    return six_photos()


def test_a_model_with_everything_writes_smaller_better_files(architectures, photos, tmp_path):
    model, told = plain_model(architectures["two stages"], tmp_path), []
    before = {name: tensor.clone() for name, tensor in model.codec.state_dict().items()}
    crops = torch.from_numpy(np.stack(photos[:2])).permute(0, 3, 1, 2) / 255
    found = with_everything(model, crops, photos, 3, 2, lambda *arguments: told.append(arguments))
    assert found.tables.keys() == {*TABLES, *BANK_TABLES, *CORRECTION_TABLES, *FILTER_TABLES, "r_error_bits"}
    assert len(found.tables[FILTERS]) == 2
    assert found.tables[BASIS].shape[0] == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.codec.state_dict().items())
    counted = [(what, done, 6) for what in ("banks", *CORRECTED, "filters") for done in range(1, 7)]
    assert told == counted
    results = []
    for codec in (inference.Codec(model), inference.Codec(found)):
        files = [codec.compress(pixels, 2) for pixels in photos]
        error = sum(squared_error(codec, data, pixels) for data, pixels in zip(files, photos, strict=True))
        results.append((sum(map(len, files)), error))
    (size_before, error_before), (size, error) = results
    assert size < size_before and error < error_before


def test_a_model_with_everything_can_be_stored_and_read(architectures, photos, tmp_path):
    model = plain_model(architectures["one stage"], tmp_path)
    crops = torch.from_numpy(np.stack(photos[:2])).permute(0, 3, 1, 2) / 255
    found = with_everything(model, crops, photos, 3, 2, lambda *_: None)
    for half in (False, True):
        stored = models.load(models.save(tmp_path / f"{half}", model.codec, found.tables, role="student", half=half))
        assert all(torch.equal(stored.tables[name], table) for name, table in found.tables.items())
    data = inference.Codec(stored).compress(photos[0], 1)
    assert bitstream.unpack(data).correction


def test_some_kinds_may_be_made_anew(architectures, photos, tmp_path):
    model = plain_model(architectures["one stage"], tmp_path)
    crops = torch.from_numpy(np.stack(photos[:2])).permute(0, 3, 1, 2) / 255
    first = with_everything(model, crops, photos, 3, 0, lambda *_: None)
    found = with_everything(first, crops, photos, 3, 2, lambda *_: None, ["filters"])
    assert found.tables.keys() - first.tables.keys() == {*FILTER_TABLES}
    assert all(found.tables[name] is table for name, table in first.tables.items())
    assert (
        with_everything(found, crops, photos, 3, 0, lambda *_: None, ["filters"]).tables.keys() == first.tables.keys()
    )


def test_filters_need_corrections_and_say_so(architectures, photos, tmp_path):
    model = plain_model(architectures["one stage"], tmp_path / "mine")
    crops = torch.from_numpy(photos[0]).permute(2, 0, 1)[None] / 255
    with pytest.raises(InvalidInput, match=r"finish\.tables\.kinds: mine has no corrections; add them"):
        with_everything(model, crops, photos, 3, 2, lambda *_: None, ["filters"])
    unchanged = with_everything(model, crops, photos, 3, 0, lambda *_: None, ["filters"])
    assert unchanged.tables.keys() == model.tables.keys()


def test_crops_to_learn_from_are_whole_cells_of_the_middle():
    height_by_width = [(63, 300), (64, 64), (200, 130), (500, 300)]
    photos = [Photo(f"{h}x{w}", np.random.default_rng(h).integers(0, 256, (h, w, 3), dtype=np.uint8))
              for h, w in height_by_width]  # fmt: skip
    found = crops_to_learn_from(photos, 256, None)
    assert [crop.shape for crop in found] == [(64, 64, 3), (192, 128, 3), (256, 256, 3)]
    assert np.array_equal(found[2], photos[3].pixels[122:378, 22:278])


@pytest.mark.parametrize("limit, expected", [(1, [0]), (2, [0, 5]), (3, [0, 3, 6]), (10, range(10)), (99, range(10))])
def test_so_many_photos_are_evenly_spaced(limit, expected):
    photos = [Photo(str(number), np.full((64, 64, 3), number, np.uint8)) for number in range(10)]
    assert [int(crop[0, 0, 0]) for crop in crops_to_learn_from(photos, 64, limit)] == list(expected)
