"""Several corrections of a picture: which cell has which, what a file says of it, and what a decoder makes of it."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from conftest import correction_tables
from test_adapt import coded, error_after, model_of
from test_regions import WHO, codec, directory  # noqa: F401  fixtures

from slimcodec import InvalidFile
from slimcodec.codec import bitstream, heads, inference, partition
from slimcodec.codec.adapt import BASIS, Correction
from slimcodec.codec.bitstream import MAX_SEVERAL, QUALITY_ONE
from slimcodec.codec.grid import CELL, LATENTS, Window, cells_of, whole
from slimcodec.codec.heads import Corrected
from slimcodec.codec.partition import CELLS_EACH, GroupFit
from slimcodec.codec.tiling import synthesis_margin

INTEGER = Path(__file__).with_name("golden") / "integer-model"
GRID = whole(WHO.shape).finer(LATENTS)
ERROR_BITS = 3000.0


def some(count, corrections, *, seed=0):
    """Corrections that a decoder of integers can apply, too."""
    rng = np.random.default_rng(seed)
    return tuple(Correction(40, rng.integers(-4, 5, len(corrections.basis)).astype(np.int16)) for _ in range(count))


@pytest.fixture(scope="module")
def photo():
    return skimage.data.astronaut()[: 5 * CELL, : 6 * CELL]


@pytest.fixture(scope="module")
def transforms(architecture):
    return model_of(architecture).transforms()


# --- the decoder ----------------------------------------------------------------------------------------------------


def chosen_from(rendered, who, window):
    """What each correction makes of all → each cell's own, of a window of latents."""
    pixels = np.kron(who, np.ones((CELL, CELL), np.uint8))[window.finer(16).slices]
    return np.select([pixels == number for number in range(len(rendered))], [np.asarray(each)[0] for each in rendered])


def assert_each_cell_has_its_own(transforms, atol):
    corrected = Corrected(some(3, transforms.corrections), WHO)
    rng = np.random.default_rng(0)
    y_hat = rng.normal(0, 8, (1, transforms.architecture.latents, *GRID.shape)).round().astype(np.float32)
    y_hat, all_of_it = transforms.networks.native(y_hat), transforms.heads(corrected)
    with transforms.networks.inference():
        whole_ones = [transforms._x_hat(y_hat, GRID, GRID, GRID, transforms.heads(Corrected((each,))))
                      for each in corrected.corrections]  # fmt: skip
        for piece in (GRID, Window(5, 9, 13, 15), Window(4, 4, 8, 8), Window(3, 8, 4, 12)):
            seen = piece.grown(synthesis_margin(transforms.architecture), GRID)
            seen = seen.coarser(LATENTS).finer(LATENTS)
            found = transforms._x_hat(y_hat[:, :, *seen.slices], seen, piece, GRID, all_of_it)
            parts = [each[:, :, *piece.finer(16).slices] for each in whole_ones]
            np.testing.assert_allclose(np.asarray(found)[0], chosen_from(parts, WHO, piece), rtol=atol, atol=10 * atol)
    spread = np.asarray(whole_ones[0]) - np.asarray(whole_ones[1])
    assert np.abs(spread).max() > 0.01


def test_each_cell_is_made_by_its_own_last_layer(transforms):
    assert_each_cell_has_its_own(transforms, 1e-4)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_each_cell_of_a_decoder_of_integers_is(backend):
    """To the last bit."""
    assert_each_cell_has_its_own(inference.load(INTEGER, backend=backend).transforms, 0)


def test_each_cell_of_several_specialists_is(codec):  # noqa: F811
    who = np.random.default_rng(1).integers(0, codec.transforms.specialists, WHO.shape).astype(np.uint8)
    assert_each_cell_has_its_own(codec.transforms.with_map(who), 1e-4)


# --- the file -------------------------------------------------------------------------------------------------------


def with_several(codec, data, corrected):  # noqa: F811
    """A file that says this of its picture."""
    contents = bitstream.unpack(data)
    correction, correction_map = corrected.written(codec.transforms.corrections, contents.header.quality)
    adapted = contents.adapted._replace(correction=correction, correction_map=correction_map)
    return bitstream.join(contents.header, contents.streams, contents.chunks, adapted)


@pytest.mark.parametrize("count", [2, 3, MAX_SEVERAL])
def test_what_is_written_is_read(transforms, count):
    who = np.random.default_rng(count).integers(0, count, (30, 40)).astype(np.uint8)
    corrected = Corrected(some(count, transforms.corrections), who)
    correction, correction_map = corrected.written(transforms.corrections, 700)
    adapted = bitstream.Adapted(correction, None, correction_map)
    header = bitstream.Header(b"12345678", 40 * CELL, 30 * CELL, 700)
    contents = bitstream.unpack(bitstream.join(header, [b"stream"], {}, adapted))
    found = heads.read(contents, transforms.corrections)
    assert np.array_equal(found.who, who)
    for mine, others in zip(found.corrections, corrected.corrections, strict=True):
        assert mine.shift == others.shift and np.array_equal(mine.q, others.q)


def test_damage_is_refused_in_one_line_or_gives_other_corrections(transforms):
    who = np.random.default_rng(0).integers(0, 3, (6, 7)).astype(np.uint8)
    correction, correction_map = Corrected(some(3, transforms.corrections), who).written(transforms.corrections, 700)
    header, refused = bitstream.Header(b"12345678", 7 * CELL, 6 * CELL, 700), 0
    sizes = len(correction), len(correction_map)
    flips = [(part, at, bit) for part in (0, 1) for at in range(sizes[part]) for bit in range(8)]
    for part, at, bit in flips:
        damaged = [bytearray(correction), bytearray(correction_map)]
        damaged[part][at] ^= 1 << bit
        contents = bitstream.Contents(header, [b""], {}, True, bytes(damaged[0]), None, bytes(damaged[1]))
        try:
            found = heads.read(contents, transforms.corrections)
        except InvalidFile as error:
            assert "\n" not in str(error) and "damaged" in str(error)
            refused += 1
        else:
            assert len(found.corrections) > found.who.max()
    assert 0 < refused < len(flips)


@pytest.mark.parametrize(("count", "message"), [(0, "but has 0"), (1, "but has 1"), (17, "do not end where")])
def test_a_number_that_no_picture_has_is_refused(transforms, count, message):
    (one,) = some(1, transforms.corrections)
    written = transforms.corrections.write(one, 700)
    data = count * (bytes([len(written)]) + written)
    header = bitstream.Header(b"12345678", 64, 64, 700)
    with pytest.raises(InvalidFile, match=message):
        heads.read(bitstream.Contents(header, [b""], {}, True, data, None, b""), transforms.corrections)


def test_a_model_without_a_basis_refuses_several(transforms):
    contents = bitstream.Contents(bitstream.Header(b"12345678", 64, 64, 700), [b""], {}, True, b"", None, b"")
    with pytest.raises(InvalidFile, match="this model knows no corrections"):
        heads.read(contents, None)


# --- the encoder ----------------------------------------------------------------------------------------------------


def fit_of(transforms, pixels, y_hat):
    grid = cells_of(*pixels.shape[:2])
    fit = GroupFit(transforms.corrections, grid, CELL // transforms.corrections.ratio)
    transforms.add_to_fit(fit, y_hat, grid, grid, pixels)
    return fit


def halves(rows=5, columns=10):
    """A picture whose left half is dark and whose right half is bright: what is wrong has two signs."""
    pixels = np.random.default_rng(0).integers(0, 40, (rows * CELL, columns * CELL, 3), dtype=np.uint8)
    pixels[:, columns * CELL // 2 :] += 200
    return pixels


def test_sums_of_groups_are_what_the_basis_makes_of_them(transforms, photo):
    fit = fit_of(transforms, photo, coded(transforms, photo))
    search = partition._Search(fit, QUALITY_ONE, 1.0)
    plain = partition.Fit(*transforms.corrections.basis.shape[:0:-1])
    grid = cells_of(*photo.shape[:2])
    transforms.add_to_fit(plain, coded(transforms, photo), grid, grid, photo)
    basis = transforms.corrections.basis.astype(np.float64)
    curvature = np.einsum("koi,loj,ij->kl", basis, basis, plain.inner, optimize=True)
    slope = np.einsum("koi,io->k", basis, plain.outer)
    np.testing.assert_allclose(fit.inner, plain.inner, rtol=1e-3, atol=1e-3 * np.abs(plain.inner).max())
    scale = np.abs(curvature).max(), np.abs(slope).max()
    for found, expected, most in zip(
        search.grouping.sums(np.zeros(len(search.grouping.slope)), 1), (curvature, slope), scale, strict=True
    ):
        np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-3 * most)


def test_what_is_wrong_in_two_ways_gets_two_corrections(transforms):
    pixels = halves()
    y_hat = torch.zeros(1, transforms.architecture.latents, 20, 40)
    fit = fit_of(transforms, pixels, y_hat)
    found = fit.best(QUALITY_ONE, ERROR_BITS)
    assert 2 <= len(found.corrections) <= fit.most == 50 // CELLS_EACH
    left, right = (set(np.unique(found.who[:, part])) for part in (slice(0, 5), slice(5, 10)))
    assert not left & right

    def error(corrected):
        seen = transforms.synthesise(y_hat, pixels.shape[1], pixels.shape[0], corrected=corrected)
        return np.square(seen.astype(float) - pixels).sum()

    one, _ = transforms.corrections.best(fit, QUALITY_ONE, ERROR_BITS)
    assert error(found) < error(Corrected((one,))) < error(None)
    assert error_after(transforms.corrections, fit, one) < fit.squared_error


@pytest.mark.parametrize("cells", [(1, 1), (3, 7), (1, 23)])
def test_small_pictures_have_one_at_most(transforms, cells):
    pixels = halves(cells[0], cells[1] + cells[1] % 2)[:, : cells[1] * CELL]
    found = fit_of(transforms, pixels, torch.zeros(1, transforms.architecture.latents, 4 * cells[0], 4 * cells[1]))
    assert found.best(QUALITY_ONE, ERROR_BITS).who is None


@pytest.mark.parametrize("level", [0, 128, 255])
def test_where_all_cells_are_alike_there_is_one_at_most(transforms, level):
    pixels = np.full((6 * CELL, 16 * CELL, 3), level, np.uint8)
    found = fit_of(transforms, pixels, torch.zeros(1, transforms.architecture.latents, 24, 64))
    best = found.best(QUALITY_ONE, ERROR_BITS)
    assert best is None or best.who is None or len(best.corrections) < found.most
    assert found.best(QUALITY_ONE, 1e-9) is None


def test_a_direction_that_does_nothing_is_no_hindrance(architectures):
    architecture = architectures["four stages"]
    tables = correction_tables(architecture)
    tables[BASIS][2] = 0
    transforms, pixels = model_of(architecture, **tables).transforms(), halves()
    found = fit_of(transforms, pixels, torch.zeros(1, architecture.latents, 20, 40)).best(QUALITY_ONE, ERROR_BITS)
    assert len(found.corrections) > 1 and all(each.q[2] == 0 for each in found.corrections)


def test_groups_of_large_pictures_have_several_cells(transforms, monkeypatch):
    monkeypatch.setattr(partition, "MOST_GROUPS", 20)
    pixels = halves(7, 14)
    fit = fit_of(transforms, pixels, torch.zeros(1, transforms.architecture.latents, 28, 56))
    assert fit.side == 3 and fit.groups.shape == (3, 5)
    found = fit.best(QUALITY_ONE, ERROR_BITS)
    assert found.who.shape == (7, 14)
    assert all((found.who[row : row + 3, column : column + 3] == found.who[row, column]).all()
               for row in range(0, 7, 3) for column in range(0, 14, 3))  # fmt: skip


def test_files_have_several_and_are_better_for_it(transforms, photo, monkeypatch):
    mine = inference.Codec(model_of(transforms.architecture))
    data = mine.compress(photo, 1)
    estimate, encoding = mine.estimate(photo, 1), mine.encoding(photo)
    contents = bitstream.unpack(data)
    assert data[4] == bitstream.FEATURED and contents.correction_map is not None
    written = 8 * (len(contents.correction) + len(contents.correction_map))
    assert encoding.correction_bits(QUALITY_ONE) == written == estimate.bits - encoding.bits(QUALITY_ONE)
    monkeypatch.setattr(partition, "MAX_SEVERAL", 1)
    single = mine.compress(photo, 1)
    assert single[4] == bitstream.CORRECTED and len(data) - len(single) < 60
    assert mine.estimate(photo, 1).bits / 8 == pytest.approx(len(single), rel=0.02)
    errors = [np.square(np.asarray(mine.decompress(file)).astype(float) - photo).sum() for file in (data, single)]
    assert errors[0] < errors[1]
    region = np.asarray(mine.decompress(data, region=(50, 60, 101, 99))).astype(int)
    assert np.abs(region - np.asarray(mine.decompress(data))[60:159, 50:151]).max() <= 1


def test_both_backends_of_a_decoder_of_integers_give_the_same_pixels(photo):
    torch_one, onnx = (inference.load(INTEGER, backend=backend) for backend in ("torch", "onnx"))
    data = torch_one.compress(photo, 2)
    corrections = torch_one.transforms.corrections
    who = np.arange(30, dtype=np.uint8).reshape(5, 6) % 4
    file = with_several(torch_one, data, Corrected(some(4, corrections), who))
    assert bitstream.unpack(file).correction_map
    found = [np.asarray(each.decompress(file)) for each in (torch_one, onnx)]
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], np.asarray(torch_one.decompress(data)))


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_the_golden_file_of_several_decodes_to_the_same_pixels(backend):
    """Of a decoder in integers, in tiles: three corrections, and cells of each."""
    found = np.asarray(
        inference.load(INTEGER, backend=backend).decompress(INTEGER.with_name("several.slim").read_bytes())
    )
    assert hashlib.sha256(found.tobytes()).hexdigest() == (
        "f136554af3fed19c6311597e41837927976c456587daac9aa14108a0277dd863"
    )


def test_a_file_of_specialists_has_several_corrections_too(codec, photo):  # noqa: F811
    data = codec.compress(photo, 4)
    contents = bitstream.unpack(data)
    assert data[4] == bitstream.FEATURED and contents.cell_map is not None and contents.correction_map is not None
    assert heads.read(contents, codec.transforms.corrections).who.any()
    encoding = codec.encoding(photo)
    assert np.abs(encoding.decoded(1024).astype(int) - np.asarray(codec.decompress(data))).max() <= 1
