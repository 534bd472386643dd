"""The filter of decoded pixels: what it does, what files say of it, what an encoder chooses, and how it is learned."""

import zlib

import numpy as np
import pytest
import skimage.data
import torch
from conftest import filter_tables
from test_adapt import model_of
from test_corrections import six_photos

from slimcodec import InvalidFile, InvalidModel
from slimcodec.codec import bilateral, bitstream, decoding, encoding, grid, inference, maps
from slimcodec.codec.adapt import BASIS as CORRECTIONS
from slimcodec.codec.bilateral import (
    BASIS,
    GROUPS,
    NO_FILTER,
    STEPS,
    TABLE_LIMIT,
    Bilateral,
    Filtered,
    Filters,
    filtered,
)
from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.grid import CELL
from slimcodec.training.bilateral import Examples, clipped, coefficients, in_turns, learned, stored

OFFSETS = [
    (down, right)
    for down in range(-2, 3)
    for right in range(-2, 3)
    if (down, right) != (0, 0) and abs(down * right) < 4
]
SQUARED = {1: 0, 2: 1, 4: 2, 5: 3}  # distance → group


def reference(pixels, tables, who=None, top=0, left=0):
    """As docs/format.md says it, pixel by pixel."""
    height, width, _ = pixels.shape
    level = pixels.astype(int)
    luma = (level[..., 0] + 2 * level[..., 1] + level[..., 2] + 2) >> 2
    found = np.empty_like(pixels)
    for row in range(height):
        for column in range(width):
            total, table = 0, tables[0 if who is None else who[(top + row) // CELL, (left + column) // CELL]]
            for down, right in OFFSETS:
                if 0 <= row + down < height and 0 <= column + right < width:
                    difference = luma[row + down, column + right] - luma[row, column]
                    total += int(table[SQUARED[down**2 + right**2], difference + STEPS - 1])
            found[row, column] = np.clip(level[row, column] + ((total + 32) >> 6), 0, 255)
    return found


@pytest.fixture(scope="module")
def model(architectures):
    return model_of(architectures["four stages"], **filter_tables())


@pytest.fixture(scope="module")
def codec(model):
    return inference.Codec(model)


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(skimage.data.astronaut()[100 : 100 + 3 * CELL - 11, 60 : 60 + 4 * CELL - 30])


@pytest.mark.parametrize("shape", [(9, 11), (1, 1), (2, 1), (1, 7), (3, 2), (20, 17)])
@pytest.mark.parametrize("seed", range(3))
def test_the_filter_is_that_of_the_format(shape, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    basis = rng.integers(-3000, 3000, (4, GROUPS, STEPS))
    basis[..., 0] = 0
    table = Bilateral({BASIS: basis.astype(np.int16)}).table(rng.integers(-127, 128, 4))
    assert np.abs(table).max() == TABLE_LIMIT  # it is clamped
    assert np.array_equal(filtered(pixels, Filters(table[None])), reference(pixels, table[None]))


def test_a_table_is_odd():
    table = Bilateral(filter_tables()).table(np.array([5, -3, 100]))
    assert table.shape == (GROUPS, 2 * STEPS - 1) and table.dtype == np.int16
    assert np.array_equal(table, -table[:, ::-1]) and table.any()


def test_flat_pictures_stay_as_they_are():
    table = Bilateral(filter_tables()).table(np.array([30, 30, 30]))
    pixels = np.full((20, 30, 3), (7, 200, 90), np.uint8)
    assert np.array_equal(filtered(pixels, Filters(table[None])), pixels)


def test_pixels_do_not_wrap_around():
    basis = np.full((1, GROUPS, STEPS), 32000, np.int16)
    basis[..., 0] = 0
    away = Bilateral({BASIS: basis}).table(np.array([-127]))
    pixels = np.zeros((6, 6, 3), np.uint8)
    pixels[::2, 1::2] = 255
    assert np.array_equal(filtered(pixels, Filters(away[None])), reference(pixels, away[None]))


@pytest.mark.parametrize(
    "shape, top, left", [((70, 140), 0, 0), ((10, 9), 60, 61), ((1, 130), 63, 1), ((66, 3), 63, 63)]
)
def test_a_pixel_takes_the_table_of_its_own_cell(shape, top, left):
    rng = np.random.default_rng(top)
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    tables = np.stack([Bilateral(filter_tables()).table(q) for q in rng.integers(-127, 128, (3, 3))])
    who = rng.integers(0, 3, (3, 4)).astype(np.uint8)
    found = filtered(pixels, Filters(tables, who), top, left)
    assert np.array_equal(found, reference(pixels, tables, who, top, left))


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(codec, photo):
    return codec.compress(photo, 1)


@pytest.fixture(scope="module", params=["one", "several"])
def any_data(request, data):
    """With one filter, and with several."""
    if request.param == "one":
        return data
    who = np.array([[0, 1, 1, 0], [2, 2, 0, 1], [1, 1, 1, 0]], np.uint8)
    return with_filter(data, bytes([20, 0, 7, 250, 30, 9, 0, 246, 60]), maps.encode(who, 3))


def with_filter(data, filtering, filter_map=None, **changes):
    contents = bitstream.unpack(data)
    parts = contents._asdict() | {"filtering": filtering, "filter_map": filter_map} | changes
    adapted = bitstream.Adapted(*(parts[name] for name in bitstream.Adapted._fields))
    return bitstream.join(parts["header"], parts["streams"], parts["chunks"], adapted)


def test_files_have_a_filter_and_are_better_for_it(codec, data, photo):
    contents, estimate, encoding = bitstream.unpack(data), codec.estimate(photo, 1), codec.encoding(photo)
    assert data[4] == bitstream.FEATURED and len(contents.filtering) == 3
    own = len(contents.correction) + len(contents.correction_map or b"") + 3
    assert encoding.correction_bits(QUALITY_ONE) == 8 * own == estimate.bits - encoding.bits(QUALITY_ONE)
    files = data, with_filter(data, b"")
    assert len(files[0]) - len(files[1]) in (4, 5)  # the features, too, where there are no other ones
    with_it, without = (np.square(np.asarray(codec.decompress(file)).astype(float) - photo).sum() for file in files)
    assert with_it < without
    assert np.array_equal(np.asarray(codec.decompress(data)), encoding.decoded(QUALITY_ONE))


def test_what_the_filter_does_is_done_to_the_padded_picture(codec, any_data):
    data = any_data
    contents = bitstream.unpack(data)
    filters = codec.transforms.filters(*contents.adapted[-2:], contents.header.cells)
    rows, columns = contents.header.cells
    padded = contents.header._replace(width=columns * CELL, height=rows * CELL)
    unfiltered = np.asarray(codec.decompress(with_filter(data, b"", header=padded)))
    found = np.asarray(codec.decompress(data))
    assert np.array_equal(found, filtered(unfiltered, filters)[: found.shape[0], : found.shape[1]])


@pytest.mark.parametrize("region", [(50, 60, 101, 70), (0, 0, 10, 10), (126, 62, 4, 4), (200, 150, 26, 31)])
def test_a_region_has_the_same_pixels(codec, any_data, region):
    data = any_data
    left, top, width, height = region
    found = np.asarray(codec.decompress(data, region=region)).astype(int)
    whole = np.asarray(codec.decompress(data)).astype(int)
    assert np.abs(found - whole[top : top + height, left : left + width]).max() <= 1


def test_only_models_that_know_filters_read_it(codec, data, architectures):
    other = inference.Codec(model_of(architectures["four stages"]))
    with pytest.raises(InvalidFile, match="filters its picture, but this model knows no such filter"):
        other.decompress(data)
    with pytest.raises(InvalidFile, match="another number of them"):
        codec.decompress(with_filter(data, b"\1\2"))
    for several in (b"", b"\1\2\3", 3 * b"\1\2", 17 * b"\1\2\3"):
        with pytest.raises(InvalidFile, match=r"another number of them|map of filters is damaged"):
            codec.decompress(with_filter(data, several, b"map"))
    with pytest.raises(InvalidFile, match="the file's map of filters is damaged"):
        codec.decompress(with_filter(data, b"\1\2\3\4\5\6", 40 * b"map"))


@pytest.mark.parametrize("stream", [b"", b"\0", b"\3\1\2"])
def test_a_filter_that_is_cut_off(data, stream):
    header = bitstream.unpack(data).header
    cut = bytearray(bitstream.join(header, [stream], {}))
    cut[4] = bitstream.FEATURED
    cut.insert(bitstream.HEADER_BYTES, 32)  # the features
    at = bitstream.HEADER_BYTES - 4
    cut[at : at + 4] = zlib.crc32(cut[at + 4 :], zlib.crc32(cut[:at])).to_bytes(4, "little")
    with pytest.raises(InvalidFile, match="ends before its filter's coefficients do"):
        bitstream.unpack(bytes(cut))


@pytest.mark.parametrize("shape", [(0, GROUPS, STEPS), (256, GROUPS, STEPS)])
def test_a_basis_has_a_number_of_filters(architectures, shape):
    with pytest.raises(InvalidModel, match=BASIS):
        model_of(architectures["four stages"], **{BASIS: torch.zeros(shape, dtype=torch.int16)}).transforms()


def test_a_basis_says_nothing_of_no_difference(architectures):
    basis = filter_tables()[BASIS]
    basis[0, 0, 0] = 1
    with pytest.raises(InvalidModel, match="0 for no difference"):
        model_of(architectures["four stages"], **{BASIS: basis}).transforms()


# --- the encoder ----------------------------------------------------------------------------------------------------


def noisy(photo, seed=0):
    """What a filter can mend."""
    noise = np.random.default_rng(seed).normal(0, 6, photo.shape[:2])[..., None]
    return Filtered(photo, (photo + noise).clip(0, 255).round().astype(np.uint8))


def test_the_best_coefficients_are_found(photo):
    """Neighbours of theirs are worse."""
    mine, sample = Bilateral(filter_tables()), noisy(photo[:CELL, :CELL])

    def error(q):
        found = filtered(sample.found, Filters(mine.table(q)[None])).astype(float)
        return np.square(found - sample.wanted).sum()

    best = np.frombuffer(mine.best([sample], 1e6, (1, 1)).filtering, np.int8).astype(int)
    assert error(best) < 0.8 * error(np.zeros(3))
    for changed in np.eye(3, dtype=int) * 8:
        assert error(best) < error(best + changed) and error(best) < error(best - changed)


def test_a_filter_that_does_not_pay_is_left_out(photo):
    mine, cells = Bilateral(filter_tables()), tuple(-(-side // CELL) for side in photo.shape[:2])
    assert mine.best([noisy(photo)], 1e-9, cells) == NO_FILTER
    assert mine.best([Filtered(photo, photo)], 1e6, cells) == NO_FILTER
    assert mine.best([], 1e6, cells) == NO_FILTER


def test_cells_that_want_something_else_get_it(photo, monkeypatch):
    """Left of the middle there is noise to be mended, right of it edges were made soft."""
    wanted = photo[: 2 * CELL, : 3 * CELL]
    soft = sum(np.roll(wanted.astype(float), by, axis) for by in (-1, 0, 1) for axis in (0, 1)) / 6
    found = noisy(wanted).found.copy()
    found[:, CELL:] = soft.round()[:, CELL:]
    mine, price = Bilateral(filter_tables()), 1e6
    parts = [Filtered(wanted[rows, columns], found[rows, columns], rows.start, columns.start)
             for rows in (slice(0, 100), slice(100, 128)) for columns in (slice(0, 70), slice(70, 192))]  # fmt: skip
    several = mine.best(parts, price, (2, 3))
    monkeypatch.setattr(bilateral, "MAX_SEVERAL", 1)
    one = mine.best(parts, price, (2, 3))
    monkeypatch.undo()
    read = mine.read(*several, (2, 3))
    assert one.filter_map is None and len(read.tables) >= 2
    assert read.who[0, 0] == read.who[1, 0] and not set(read.who[:, 0]) & set(read.who[:, 1:].ravel())

    def error(filters):
        return np.square(filtered(found, filters).astype(float) - wanted).sum()

    assert error(read) < error(mine.read(*one, (2, 3))) < np.square(found.astype(float) - wanted).sum()


def test_samples_are_decoded_as_the_decoder_does(codec, photo):
    """But for colours that are rounded another way."""
    encoding = codec.encoding(photo)
    fit = encoding._start_fit()
    (group,) = encoding._groups(QUALITY_ONE, None, fit)
    corrected = fit.best(QUALITY_ONE, 3000.0)
    (sample,) = fit.decoded(corrected)
    pixels = codec.transforms.synthesise(group.y_hat, photo.shape[1], photo.shape[0], corrected=corrected)
    height, width, _ = sample.found.shape
    assert np.array_equal(sample.wanted, photo[:height, :width])
    assert np.abs(sample.found.astype(int) - pixels[:height, :width]).max() <= 1


def test_cells_of_a_large_picture_have_filters_as_those_of_a_small_one(monkeypatch):
    """It is decoded again, window by window; what few neighbours its windows lack makes hardly a difference."""
    codec, wanted, reports = inference.load("slim-2k"), np.ascontiguousarray(skimage.data.astronaut()[:, :470]), []
    small = codec.encoding(wanted, tile=4).file(7 * QUALITY_ONE)
    for module in (grid, encoding, decoding):
        monkeypatch.setattr(module, "is_big", lambda cells: True)
    monkeypatch.setattr(grid, "CODING_TILE", 4)
    coded = codec.encoding(wanted, tile=4, progress=reports.append)
    big = coded.file(7 * QUALITY_ONE)
    assert reports == sorted(reports) and reports[-1] == 1 and len(reports) > 4
    found = [bitstream.unpack(data) for data in (small, big)]
    assert all(each.filter_map for each in found)
    errors = [np.square(np.asarray(codec.decompress(data)).astype(float) - wanted).sum() for data in (small, big)]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)
    own = len(found[1].correction) + len(found[1].correction_map) + len(found[1].filtering) + len(found[1].filter_map)
    assert coded.correction_bits(7 * QUALITY_ONE) == 8 * own


# --- learning -------------------------------------------------------------------------------------------------------


def test_a_learned_basis_mends_its_photos(architectures):
    photos = six_photos()
    plain = model_of(architectures["four stages"])
    model = plain._replace(tables=learned(plain, photos, 2))
    assert model.tables[BASIS].shape == (2, GROUPS, STEPS) and CORRECTIONS in model.tables
    codec, gained = inference.Codec(model), 0
    for photo in photos:
        data = codec.compress(photo, 2)
        files = data, with_filter(data, b"")
        now, before = (np.square(np.asarray(codec.decompress(file)).astype(float) - photo).sum() for file in files)
        assert now <= before
        gained += now < before
    assert gained > 3


def test_what_was_put_in_is_found():
    """Photos that are filtered by two tables are mended by two."""
    rng = torch.Generator().manual_seed(0)
    count = len(clipped())
    truth, own = (torch.randn(shape, dtype=torch.float64, generator=rng) for shape in ((count, 2), (40, 2)))
    roots = torch.randn(40, 60, count, dtype=torch.float64, generator=rng)
    inner = roots.transpose(1, 2) @ roots / 60
    examples = Examples(inner, (inner @ (own @ truth.T)[..., None])[..., 0])
    basis = in_turns(examples, 2)
    residual = truth - basis @ torch.linalg.lstsq(basis, truth).solution
    assert residual.norm() < 0.02 * truth.norm()
    tables = stored(examples, basis)
    assert tables.dtype == torch.int16 and not tables[:, :, 0].any()
    assert coefficients(examples, basis).isfinite().all()


def test_reach_and_groups_are_those_of_the_neighbours():
    assert max(max(abs(down), abs(right)) for down, right in OFFSETS) == bilateral.REACH
    assert len(OFFSETS) == bilateral.NEIGHBOURS
