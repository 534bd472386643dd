"""Specialists by region: each cell is decoded by its own weights, at the cost of one, in both backends."""

import dataclasses
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from conftest import VARIANTS, bank_tables, correction_tables, lively
from torch.utils.flop_counter import FlopCounterMode

import slimcodec
from slimcodec import InvalidFile, InvalidModel
from slimcodec.codec import bitstream, maps, models
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.complexity import decoder_macs_per_pixel, encoder_macs_per_pixel, macs_per_pixel
from slimcodec.codec.grid import CELL, LATENTS, Window, whole
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.codec.regions import Regions
from slimcodec.codec.tiling import synthesis_margin
from slimcodec.codec.torch_networks import TorchNetworks
from slimcodec.training import onnx_export, specialists
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.teach import save_trained

COUNT = 3
WHO = np.random.default_rng(0).integers(0, COUNT, (5, 7)).astype(np.uint8)
GRID = whole(WHO.shape).finer(LATENTS)
# Small, with layers that see what is around at both levels and in the last layer, and a segment from block to block.
SMALL = VARIANTS["four stages"] | {
    "g_s": [
        {"scale": 16, "channels": 12, "blocks": [{"kind": "depthwise", "hidden": 8}] * 2},
        {"scale": 8, "channels": 8},
    ],
    "stages": [[0, 1, 2, 3]],
    "context": [8],
    "specialists": COUNT,
}
TABLES = {
    "r_frequencies": np.full(128, 32768, np.uint16),
    "r_sizes": np.full(64, 2, np.int32),
    "r_offsets": np.zeros(64, np.int16),
    "r_skip": np.zeros(1, np.int32),
}


def several(codec, *, seed=0):
    """A codec of specialists that are like the given one's."""
    architecture = dataclasses.replace(codec.architecture, specialists=COUNT)
    found = HyperpriorCodec(architecture)
    found.load_state_dict(codec.state_dict(), strict=False)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for own in found.specialists.values():
            for part, given in ((own.head, codec.g_a.head), (own.g_s, codec.g_s)):
                part.load_state_dict(given.state_dict())
                for weight in part.parameters():
                    spread = 0.2 * weight.std(unbiased=False)
                    weight += spread * torch.randn(weight.shape, generator=random)
    return found.eval()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model of specialists with corrections and banks."""
    architecture = Architecture.from_dict(SMALL | {"specialists": 1})
    codec, prior = several(lively(architecture)), FactorizedPrior(architecture.hypers, architecture.rungs)
    path = save_trained(tmp_path_factory.mktemp("models") / "several", codec, prior, role="student")
    more = correction_tables(architecture) | bank_tables(architecture)
    models.copy_with_tables(path, path, models.load(path).tables | more)
    return path


@pytest.fixture(scope="module")
def codec(directory):
    return slimcodec.load(directory, backend="torch")


@pytest.fixture(scope="module")
def photo():
    return skimage.data.astronaut()[:200, :300]


@pytest.fixture(scope="module")
def data(codec, photo):
    return codec.compress(photo, quality=4)


def selected(outputs):
    """What each specialist makes of all → each cell's own: [1, C, h, w]."""
    side = outputs[0].shape[2] // WHO.shape[0]
    who = torch.from_numpy(np.kron(WHO, np.ones((side, side), np.uint8)))
    return sum(torch.where(who == number, output, 0) for number, output in enumerate(outputs))


def layer_by_layer(g_s, y_hat):
    """Every layer by all specialists, and then chosen from."""
    x = y_hat
    for number, level in enumerate(g_s[0].levels):
        x = selected([each.levels[number].enter(x) for each in g_s])
        for place, block in enumerate(level.blocks):
            found = x
            for name in block.names:
                found = torch.relu(found) if name != block.names[0] else found
                found = selected([each.levels[number].blocks[place].get_submodule(name)(found) for each in g_s])
            x = x + found
    return selected([each.head(x) for each in g_s]) + 0.5


@pytest.mark.parametrize("name", VARIANTS)
def test_every_place_has_its_own_weights_and_its_neighbours_features(name):
    """Of the whole and of a piece with its margin; and where all are one specialist's it is that one's g_s."""
    one = HyperpriorCodec(Architecture.from_dict(VARIANTS[name] | {"upsampling": "subpixel"}))
    codec = several(one)
    networks, y_hat = TorchNetworks(codec, TABLES), torch.randn(1, one.architecture.latents, *GRID.shape)
    regions = Regions(networks, WHO)
    with torch.inference_mode():
        expected = layer_by_layer([codec.specialist(number).g_s for number in range(COUNT)], y_hat)
        found = regions.g_s(y_hat, GRID, GRID, GRID, None)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        piece = Window(5, 9, 13, 15)
        seen = piece.grown(synthesis_margin(one.architecture), GRID).coarser(LATENTS).finer(LATENTS)
        found = regions.g_s(y_hat[:, :, *seen.slices], seen, piece, GRID, None)
        torch.testing.assert_close(found, expected[:, :, *piece.finer(16).slices], rtol=1e-5, atol=1e-5)
        alone = Regions(networks, np.full_like(WHO, 2)).g_s(y_hat, GRID, GRID, GRID, None)
        torch.testing.assert_close(alone, codec.specialist(2).g_s(y_hat), rtol=1e-5, atol=1e-5)


def test_operations_are_those_of_one_specialist():
    architecture = Architecture.from_dict(SMALL)
    codec, y_hat = HyperpriorCodec(architecture), torch.randn(1, architecture.latents, *GRID.shape)
    regions = Regions(networks := TorchNetworks(codec, TABLES), WHO)
    products, depthwise = [], networks.depthwise

    def counted(x, around, layer, **named):
        products.append(len(around) * layer.weight.numel())
        return depthwise(x, around, layer, **named)

    networks.depthwise = counted
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        regions.g_s(y_hat, GRID, GRID, GRID, None)
    one = dataclasses.replace(architecture, specialists=1)
    assert macs_per_pixel(architecture) == macs_per_pixel(one)
    assert decoder_macs_per_pixel(architecture) == decoder_macs_per_pixel(one)
    assert (counter.get_total_flops() / 2 + sum(products)) / (WHO.size * CELL**2) == macs_per_pixel(one)["g_s"]
    assert encoder_macs_per_pixel(architecture) > encoder_macs_per_pixel(one)


def test_one_specialist_is_todays_architecture():
    values = Architecture.from_dict(SMALL | {"specialists": 1}).to_dict()
    assert "specialists" not in values and Architecture.from_dict(values).specialists == 1
    assert Architecture.from_dict(SMALL).to_dict()["specialists"] == COUNT
    for wrong in ({"specialists": 0}, {"specialists": 17}, {"specialists": 2, "upsampling": "transposed"}):
        with pytest.raises(InvalidModel, match=r"architecture\.specialists: must be"):
            Architecture.from_dict(SMALL | wrong)


@pytest.mark.parametrize("settings", [{"quality": 1}, {"quality": 6.4, "tile": 2}, {"quality": 4, "effort": 1}])
def test_the_encoder_knows_what_the_decoder_gives(codec, photo, settings):
    data = codec.compress(photo, **settings)
    encoding = codec.encoding(photo, **{name: value for name, value in settings.items() if name != "quality"})
    decoded, fixed = np.asarray(codec.decompress(data)), codec.fixed_quality(settings["quality"])
    assert data[4] == bitstream.MAPPED
    assert np.abs(encoding.decoded(fixed).astype(int) - decoded).max() <= 1
    assert encoding.bits(fixed) / 8 == pytest.approx(len(data), rel=0.005, abs=150)
    region = np.asarray(codec.decompress(data, region=(70, 60, 101, 99))).astype(int)
    assert np.abs(region - decoded[60:159, 70:171]).max() <= 1


def test_cells_have_the_specialist_that_costs_them_least(codec, photo, data):
    contents = bitstream.unpack(data)
    who = maps.decode(contents.cell_map, contents.header.cells, COUNT)
    assert len(np.unique(who)) > 1
    assert contents.correction  # of all specialists' last layers
    assert len(codec.compress(photo, target_bpp=0.8)) * 8 / photo[..., 0].size == pytest.approx(0.8, rel=0.02)
    assert codec.decompress_batch(codec.compress_batch([photo, photo], quality=4))[1] == codec.decompress(data)


def test_a_big_picture_is_coded_window_by_window(codec):
    picture = np.tile(skimage.data.astronaut(), (5, 5, 1))[: 33 * CELL, : 33 * CELL]
    data = codec.compress(picture, quality=3)
    decoded = np.asarray(codec.decompress(data)).astype(int)
    part = np.asarray(codec.decompress(data, region=(2000, 900, 100, 200))).astype(int)
    assert np.abs(part - decoded[900:1100, 2000:2100]).max() <= 1
    who = maps.decode(bitstream.unpack(data).cell_map, (33, 33), COUNT)
    assert (np.bincount(who.ravel(), minlength=COUNT) > 0).sum() > 1


def test_both_backends_read_each_others_files(directory, codec, photo, data):
    onnx_export.add_graphs(directory)
    onnx = slimcodec.load(directory, backend="onnx")
    for file in (data, onnx.compress(photo, quality=4), onnx.compress(photo, quality=4, effort=1)):
        found = [np.asarray(each.decompress(file)).astype(int) for each in (codec, onnx)]
        assert np.abs(found[0] - found[1]).max() <= 1


def with_map(data, cell_map):
    contents = bitstream.unpack(data)
    return bitstream.join(
        contents.header, contents.streams, contents.chunks, contents.adapted._replace(cell_map=cell_map)
    )


def cut_in_the_map(data):
    """The same, whose first stream ends within the map, with the right checksum."""
    contents = bitstream.unpack(data)
    kept = 1 + len(contents.correction) + 1
    fields = data[: bitstream.HEADER_BYTES - 4]
    rest = struct.pack("<I", kept) + data[bitstream.HEADER_BYTES + 4 :][:kept]
    return fields + struct.pack("<I", zlib.crc32(rest, zlib.crc32(fields))) + rest


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: with_map(data, b"\xff" * 40), "map of specialists is damaged"),
        (lambda data: with_map(data, bitstream.unpack(data).cell_map + b"\0"), "map of specialists is damaged"),
        (lambda data: with_map(data, None), "the file has no map of specialists, but its model has some"),
        (cut_in_the_map, "it ends before its map of specialists does"),
    ],
)
def test_hostile_maps_are_refused_in_one_line(codec, data, damage, message):
    with pytest.raises(InvalidFile, match=message) as raised:
        codec.decompress(damage(data))
    assert "\n" not in str(raised.value)


def test_a_map_for_a_model_without_specialists_is_refused():
    golden = slimcodec.load(Path(__file__).with_name("golden") / "model")
    data = golden.compress(np.zeros((64, 64, 3), np.uint8), quality=1)
    with pytest.raises(InvalidFile, match="the file has a map of specialists, but its model has none"):
        golden.decompress(with_map(data, b"\1"))


@pytest.mark.parametrize("count", [2, 3, 4, 16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (8, 12)])
def test_maps_come_back(count, shape):
    random = np.random.default_rng(count)
    for who in (random.integers(0, count, shape), np.full(shape, count - 1), np.indices(shape).sum(0) // 3 % count):
        who = who.astype(np.uint8)
        assert (maps.decode(maps.encode(who, count), shape, count) == who).all()
    assert len(maps.encode(np.full((8, 12), 1, np.uint8), count)) <= 3
    noise = random.integers(0, count, (30, 30)).astype(np.uint8)
    assert len(maps.encode(noise, count)) * 8 <= noise.size * (np.log2(count) + 0.2)


def test_the_format_of_maps_does_not_drift():
    who = (np.indices((6, 8)).prod(0) % 5 % 4).astype(np.uint8)
    assert maps.encode(who, 4).hex() == "d092396d9e5858bbf82eb7"


def test_any_bytes_are_a_map_or_refused():
    random = np.random.default_rng(0)
    for size in range(200):
        data = random.integers(0, 256, size % 30, dtype=np.uint8).tobytes()
        try:
            found = maps.decode(data, (8, 12), 5)
        except InvalidFile as error:
            assert "\n" not in str(error)
        else:
            assert maps.encode(found, 5) == data


def test_trained_codecs_are_joined_if_they_share_the_rest(tmp_path):
    architecture = Architecture.from_dict(VARIANTS["one stage"] | {"upsampling": "subpixel"})
    codec, prior = lively(architecture), FactorizedPrior(architecture.hypers, architecture.rungs)
    whole_codec = several(codec)
    for number in range(COUNT):
        save_trained(tmp_path / str(number), whole_codec.specialist(number), prior, role="student")
    path = specialists.join([tmp_path / str(number) for number in range(COUNT)], tmp_path / "joined")
    for name, tensor in models.load(path).codec.state_dict().items():
        if not name.startswith("h_scale."):
            torch.testing.assert_close(tensor, whole_codec.state_dict()[name], rtol=0, atol=0.04)  # of log_gain
    other = whole_codec.specialist(1)
    with torch.no_grad():
        other.h_mean[0].bias += 1
    with pytest.raises(InvalidModel, match=r"specialist 1: h_mean\.0\.bias is not that of specialist 0"):
        specialists.joined([codec, other])
