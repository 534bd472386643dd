"""Windows and margins: a picture in pieces, in coded tiles, or in part is the picture itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import VARIANTS, bank_tables, correction_tables, decoded_planes, lively
from PIL import Image

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import analysis, bitstream, grid, inference, models, transforms
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.grid import LATENT_SCALE, PLANE_CELLS, PLANES, Window, whole
from slimcodec.codec.tiling import analysis_levels, analysis_margin, latent_margin, synthesis_margin
from slimcodec.training.prior import FactorizedPrior, export_tables

REGIONS = {  # of a picture of 300 x 200 pixels, 5 x 4 cells: x, y, width, height
    "everything": (0, 0, 300, 200),
    "top left": (0, 0, 40, 30),
    "top right": (260, 0, 40, 30),
    "bottom left": (0, 170, 40, 30),
    "bottom right": (260, 170, 40, 30),
    "left edge": (0, 90, 10, 20),
    "bottom edge": (100, 190, 77, 10),
    "across the corner of four tiles": (120, 120, 16, 16),
    "across all columns": (0, 63, 300, 2),
    "a tile": (128, 128, 128, 64),
    "a column": (129, 0, 1, 200),
    "the first pixel": (0, 0, 1, 1),
    "the last pixel": (299, 199, 1, 1),
    "a pixel": (128, 127, 1, 1),
}


def codec_of(architecture):
    torch.manual_seed(0)
    tables = export_tables(FactorizedPrior(architecture.hypers, architecture.rungs))
    tables["r_offsets"] += 20
    tables |= correction_tables(architecture) | bank_tables(architecture)
    model = models.Model(lively(architecture), tables, {"weights_sha256": "ab" * 32}, Path("lively"))
    return inference.Codec(model)


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request):
    """A codec of every architecture."""
    return codec_of(Architecture.from_dict(VARIANTS[request.param]))


@pytest.fixture(scope="module")
def photo():
    import skimage.data

    return skimage.data.astronaut()[40:240, 120:420]


@pytest.fixture(params=REGIONS)
def region(request):
    return REGIONS[request.param]


def assert_same_pixels(one, other):
    """Floats may come out in another order: one level on one pixel in ten thousand."""
    difference = np.abs(np.asarray(one).astype(int) - np.asarray(other))
    assert difference.max(initial=0) <= 1 and (difference > 0).sum() <= max(1, 1e-4 * difference.size)


# --- windows --------------------------------------------------------------------------------------------------------


def test_windows_on_finer_and_coarser_grids():
    window = Window(3, 5, 17, 33)
    assert window.shape == (14, 28)
    assert window.finer(4) == Window(12, 20, 68, 132)
    assert window.coarser(4) == Window(0, 1, 5, 9)
    assert window.finer(4).coarser(4) == window
    assert window.grown(2, Window(2, 0, 18, 40)) == Window(2, 3, 18, 35)
    assert window.seen_from(Window(1, 5, 20, 40)) == Window(2, 0, 16, 28)


@pytest.mark.parametrize("shape", [(1, 1), (5, 4), (32, 33), (1, 100), (7, 7)])
@pytest.mark.parametrize("side", [0, 1, 2, 5, 32, 255])
def test_tiles_and_pieces_cover_every_element_once(shape, side):
    grid = whole(shape)
    for pieces in (grid.tiles(side), grid.even_tiles(side or 9)):
        covered = np.zeros(shape, int)
        for piece in pieces:
            assert max(piece.shape) <= (side or max(*shape, 9)) and min(piece.shape) >= 1
            covered[piece.slices] += 1
        assert (covered == 1).all()
    header = bitstream.Header(bytes(8), 64 * shape[1], 64 * shape[0], 256, side)
    assert len(grid.tiles(side)) == header.tiles[0] * header.tiles[1]


def test_tiles_come_in_raster_order_and_pieces_are_even():
    assert whole((3, 5)).tiles(2) == [
        Window(0, 0, 2, 2),
        Window(0, 2, 2, 4),
        Window(0, 4, 2, 5),
        Window(2, 0, 3, 2),
        Window(2, 2, 3, 4),
        Window(2, 4, 3, 5),
    ]
    assert {piece.shape for piece in Window(2, 10, 102, 110).even_tiles(96)} == {(50, 50)}


def test_windows_meet_where_they_share_an_element():
    window = Window(2, 2, 4, 4)
    for other in (Window(3, 3, 9, 9), Window(0, 0, 3, 3), Window(0, 0, 9, 9), window):
        assert window.meets(other) and other.meets(window)
    for other in (Window(4, 2, 5, 4), Window(2, 4, 4, 5), Window(0, 0, 2, 9), Window(0, 0, 2, 2)):
        assert not window.meets(other) and not other.meets(window)


# --- margins --------------------------------------------------------------------------------------------------------


def reach(changed, window):
    """How many elements beyond a window [top, left, bottom, right) the changed ones [h, w] go."""
    rows, columns = np.nonzero(changed)
    edges = window.top - rows, rows - (window.bottom - 1), window.left - columns, columns - (window.right - 1)
    return max(edge.max() for edge in edges)


def changed(before, after):
    """[1, ..., h, w] twice → where any channel differs by more than another order of summation explains, [h, w]."""
    return ((after - before).abs() > 1e-9).flatten(0, -3).any(0).numpy()


@pytest.fixture(scope="module")
def exact(variant):
    """The network in float64 on noise, where a change of any input moves every output that depends on it."""
    torch.manual_seed(0)
    return lively(variant.network.architecture).double()


@torch.no_grad()
def test_the_analysis_margin_is_how_far_g_a_sees(exact):
    margin, side = analysis_margin(exact.architecture), 12
    x = torch.rand(1, 3, side * LATENT_SCALE, side * LATENT_SCALE, dtype=torch.float64)
    before = exact.g_a(x)
    middle = Window(6, 6, 7, 7)
    x[:, :, *middle.finer(LATENT_SCALE).slices] = torch.rand(1, 3, LATENT_SCALE, LATENT_SCALE, dtype=torch.float64)
    assert margin - 1 <= reach(changed(before, exact.g_a(x)), middle) <= margin


@torch.no_grad()
def test_the_synthesis_margin_is_how_far_g_s_sees(exact):
    margin = synthesis_margin(exact.architecture)
    y_hat = torch.randn(1, exact.architecture.latents, 12, 12, dtype=torch.float64)
    before = exact.g_s(y_hat)
    y_hat[:, :, 6, 6] += torch.randn(exact.architecture.latents, dtype=torch.float64)
    pixels = reach(changed(before, exact.g_s(y_hat)), Window(6, 6, 7, 7).finer(LATENT_SCALE))
    assert margin - 1 <= -(-pixels // LATENT_SCALE) <= margin


@torch.no_grad()
def test_the_latent_margin_is_how_far_the_context_sees(exact):
    architecture = exact.architecture
    margin = latent_margin(architecture)
    z = torch.randint(-9, 10, (1, architecture.hypers, 13, 13)).double()
    r = torch.randint(-9, 10, (1, PLANES, architecture.latents, 26, 26)).double()
    gain = torch.ones(1, architecture.latents, dtype=torch.float64)

    def y_hat(z, r):
        return decoded_planes(exact, z, gain, r)[0]

    before, middle = y_hat(z, r), Window(6, 6, 7, 7)
    other_z, other_r = z.clone(), r.clone()
    other_z[:, :, *middle.slices] += 5
    other_r[:, :, :, *middle.finer(PLANE_CELLS).slices] += 5
    for first, second in ((other_z, r), (z, other_r), (other_z, other_r)):
        found = reach(changed(before, y_hat(first, second)), middle.finer(PLANE_CELLS))
        assert -(-found // PLANE_CELLS) <= margin
    assert -(-found // PLANE_CELLS) >= margin - 1


# --- pieces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 5])
def test_pieces_give_the_latents_and_pixels_of_the_whole(variant, photo, monkeypatch, side):
    y, quality = variant.transforms.analyse(photo), 256
    y_hat = variant.transforms.code(y, variant.transforms.hyper_latents(y, quality), quality)[1]
    pixels = variant.transforms.synthesise(y_hat, 300, 200)
    assert pixels.std() > 20
    in_pieces_of(side, monkeypatch)
    torch.testing.assert_close(variant.transforms.analyse(photo), y, rtol=1e-4, atol=1e-4)
    assert_same_pixels(variant.transforms.synthesise(y_hat, 300, 200), pixels)


def in_pieces_of(side, monkeypatch):
    """Latents that g_s makes at once, or elements that a level of g_a does."""
    monkeypatch.setattr(transforms, "TRANSFORM_TILE", side)
    for name, value in (("PIECE", side), ("PANEL", 2 * side), ("STRIP_AREA", 1), ("STRIP_EXTENT", side)):
        monkeypatch.setattr(analysis, name, value)


def test_pieces_have_a_bounded_size(codec, monkeypatch):
    in_pieces_of(7, monkeypatch)
    architecture, network = codec.network.architecture, codec.network
    bounds = {
        network.g_a.levels[number]: level.ratio * (7 + 2 * level.margin)
        for number, level in enumerate(analysis_levels(architecture))
    } | {network.g_s: 9 + 2 * codec.transforms.synthesis_margin}
    seen = {module: [] for module in bounds}
    for module, sizes in seen.items():
        monkeypatch.setattr(
            module, "forward", lambda x, *more, f=module.forward, s=sizes: s.append(x.shape[2:]) or f(x, *more)
        )
    codec.decompress(codec.compress(np.zeros((700, 500, 3), np.uint8)))
    for module, bound in bounds.items():
        assert len(seen[module]) >= (4 * 5 if module is network.g_s else 6 * 5)
        assert max(max(shape) for shape in seen[module]) <= bound


def test_each_element_of_the_first_level_is_made_once(codec, monkeypatch):
    """What is told counts them."""
    in_pieces_of(7, monkeypatch)
    for window in (None, Window(9, 0, 20, 32)):
        shares = []
        codec.transforms.analyse(np.zeros((704, 512, 3), np.uint8), window, shares.append)
        assert shares == sorted(shares) and shares[-1] == 1 and len(shares) > 5


# --- coded tiles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [0, 1, 2, 3, 255])
def test_coded_tiles_round_trip(variant, photo, tile):
    """The same integers, the picture that the encoder foresaw, and the hyper-latents of an untiled file."""
    quality = 256 * variant.network.architecture.rungs
    encoding = variant.encoding(photo, tile=tile)
    data = encoding.file(quality)
    contents = bitstream.unpack(data)
    assert contents.header.tile == tile and len(contents.streams) == {0: 1, 1: 20, 2: 6, 3: 4, 255: 1}[tile]
    symbols, _ = variant.transforms.code(
        encoding.y, variant.transforms.hyper_latents(encoding.y, quality), quality, tile
    )
    found = variant.coder.read(contents)
    assert all(np.array_equal(one, other) for one, other in zip(found, symbols, strict=True))
    assert np.array_equal(np.asarray(variant.decompress(data)), encoding.decoded(quality))
    assert np.array_equal(found.z, variant.coder.read(bitstream.unpack(variant.compress(photo, quality / 256))).z)
    streams = sum(map(len, contents.streams))
    assert abs(encoding.bits(quality) / 8 - streams) <= 0.005 * streams + 32 * len(contents.streams)
    assert contents.correction
    correction_bytes = 1 + len(contents.correction)
    assert encoding.overhead_bytes == len(data) - streams - correction_bytes


def test_a_tile_is_coded_as_a_picture_of_its_own(codec, pictures):
    """Its stream is that of the same integers without any neighbours."""
    data = codec.compress(pictures["astronaut 100x130"], tile=1)
    contents = bitstream.unpack(data)
    symbols = codec.coder.read(contents)
    for stream, cell in zip(contents.streams, whole((2, 3)).tiles(1), strict=True):
        rows, columns = cell.finer(PLANE_CELLS).slices
        z = symbols.z[:, *cell.slices]
        alone = symbols._replace(z=z, index=codec.coder.scale_index(z, 1024), r=symbols.r[:, :, rows, columns])
        assert codec.coder.write(alone, contents.header._replace(width=64, height=64, tile=0)) == [stream]


def test_only_big_pictures_are_tiled_unless_asked_for(codec, monkeypatch):
    picture = np.zeros((200, 300, 3), np.uint8)

    def tile(**settings):
        return bitstream.unpack(codec.compress(picture, 1, **settings)).header.tile

    monkeypatch.setattr(grid, "CODING_TILE", 4)
    assert tile() == 4 and tile(tile=0) == 0 and tile(tile=9) == 9
    monkeypatch.setattr(grid, "CODING_TILE", 5)  # 4 x 5 cells are not more than 5 x 5
    assert tile() == 0 and tile(tile=2) == 2


# --- regions --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(variant, photo):
    """Coded tile → a file with alpha, and its whole picture as an array."""
    alpha = np.arange(photo[:, :, 0].size, dtype=np.uint32).reshape(photo.shape[:2]) % 251
    rgba = np.dstack([photo, alpha.astype(np.uint8)])
    found = {tile: variant.compress(rgba, 1, tile=tile) for tile in (0, 2)}
    return {tile: (data, np.asarray(variant.decompress(data))) for tile, data in found.items()}


@pytest.mark.parametrize("tile", [0, 2])
@pytest.mark.parametrize("side", [3, 96])
def test_a_region_is_a_crop_of_the_picture(variant, files, region, monkeypatch, tile, side):
    monkeypatch.setattr(transforms, "TRANSFORM_TILE", side)
    data, picture = files[tile]
    x, y, width, height = region
    found = variant.decompress(data, region=region)
    assert found.size == (width, height) and found.mode == "RGBA"
    crop = picture[y : y + height, x : x + width]
    assert_same_pixels(found, crop)
    assert np.array_equal(np.asarray(found)[:, :, 3], crop[:, :, 3])


def test_a_region_of_a_grey_picture_is_grey(codec, photo):
    data = codec.compress(photo[:, :, 1], tile=1)
    region = codec.decompress(data, region=(50, 60, 70, 80))
    assert region.mode == "L"
    assert_same_pixels(region, np.asarray(codec.decompress(data))[60:140, 50:120])


def test_what_comes_with_a_picture_comes_with_a_region(codec, photo):
    image = Image.fromarray(photo)
    image.info["icc_profile"] = b"\0" * 16 + b"RGB " + b"\0" * 108
    assert codec.decompress(codec.compress(image), region=(1, 2, 3, 4)).info == image.info


def test_only_the_tiles_that_a_region_needs_are_read(codec):
    """The others may be damaged. One cell for the pixel, and four around it for its context."""
    assert (codec.transforms.latent_margin, codec.transforms.synthesis_margin) == (4, 3)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (40, 1100, 3), dtype=np.uint8)
    data = codec.compress(picture, 2, tile=2)
    contents = bitstream.unpack(data)
    assert len(contents.streams) == 9
    expected = {x: codec.decompress(data, region=(x, 3, 1, 1)) for x in (0, 600, 1099)}
    needed = {0: {0, 1, 2}, 600: {2, 3, 4, 5, 6, 7}, 1099: {6, 7, 8}}
    for tile in range(9):
        streams = [*contents.streams]
        streams[tile] = rng.bytes(len(streams[tile]))
        damaged = bitstream.pack(contents.header, streams, contents.correction, filtering=contents.filtering)
        for x, tiles in needed.items():
            if tile in tiles:
                with pytest.raises(InvalidFile):
                    codec.decompress(damaged, region=(x, 3, 1, 1))
            else:
                assert codec.decompress(damaged, region=(x, 3, 1, 1)) == expected[x]


@pytest.mark.parametrize(
    "region",
    [
        (-1, 0, 5, 5),
        (0, -1, 5, 5),
        (0, 0, 0, 5),
        (0, 0, 5, 0),
        (0, 0, 5, -5),
        (296, 0, 5, 5),
        (0, 196, 5, 5),
        (300, 0, 1, 1),
        (0, 0, 2**70, 1),
        (0, 0, 5),
        (0, 0, 5, 5, 5),
        (0.0, 0, 5, 5),
        (0, 0, float("nan"), 5),
        (0, 0, "5", 5),
        "0, 0, 5, 5",
        "0055",
        (),
        5,
    ],
    ids=str,
)
def test_a_region_that_is_none_is_refused(codec, photo, region):
    with pytest.raises(InvalidInput, match=r"region .*(must be four whole numbers|is not within the picture of 300 x)"):
        codec.decompress(codec.compress(photo, 1), region=region)
