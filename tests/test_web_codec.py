"""The decoder in JavaScript finds the integers that Python does, and refuses what Python refuses. It needs node."""

import hashlib
import json
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from conftest import filter_tables, with_short_paths
from PIL import Image
from test_regions import directory as several  # noqa: F401 - a fixture

from slimcodec.codec import bilateral, bitstream, heads, inference, maps, models
from slimcodec.codec import dependent as dependent_quantisation
from slimcodec.training import onnx_export
from slimcodec.training.dependent import with_second_quantiser

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden"
MODELS = {"model": ("picture", "tiled"), "corrected-model": ("corrected", "corrected-tiled"), "slim-2k": ("slim-2k",)}
FILES = [(model, file) for model, files in MODELS.items() for file in files]
INTEGER, RUNTIME = GOLDEN / "integer-model", ROOT / "web/node_modules/onnxruntime-web"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Name of a model → a folder with its tensors, without its networks."""
    folder = tmp_path_factory.mktemp("models")
    for name in [*MODELS, INTEGER.name]:
        model = models.load(GOLDEN / name if (GOLDEN / name).is_dir() else name)
        onnx_export.export(model, folder / name, only=())
    return folder


def twice_as_large(path):
    """The file as one of version 5 that is shown at twice its size."""
    data = bytearray(path.read_bytes())
    width, height = struct.unpack_from("<HH", data, 14)
    struct.pack_into("<HH", data, 14, 2 * width, 2 * height)
    features = {2: 0, 3: 1}[data[4]] | 2 << 2  # perhaps a correction; two quarters
    data[4] = 5
    data.insert(25, features)
    struct.pack_into("<I", data, 21, zlib.crc32(data[25:], zlib.crc32(data[:21])))
    return bytes(data)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    path = tmp_path_factory.mktemp("smaller") / "smaller.slim"
    path.write_bytes(twice_as_large(GOLDEN / "corrected.slim"))
    return path


def node(script, *arguments):
    command = ["node", str(ROOT / "tests/web" / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("model", "file"), FILES)
def test_golden_files_decode_to_the_stored_integers(exported, model, file, tmp_path):
    """And a file of one tile is written again with the same bytes."""
    stored = np.load(GOLDEN / f"{file}.npz")
    found = node("integers.mjs", exported / model, GOLDEN / f"{file}.slim", tmp_path / "integers")
    expected = b"".join(
        stored[part].astype(f"<{kind}").tobytes() for part, kind in (("z", "i1"), ("index", "u1"), ("r", "i2"))
    )
    assert (tmp_path / "integers").read_bytes() == expected
    assert found["rewritten"] == ("tiled" not in file)
    assert (found["correction"] is not None) == (model != "model")
    if "q" in stored:
        assert found["correction"] == {"shift": int(stored["shift"]), "q": stored["q"].tolist()}


def test_a_decoder_in_integers_is_corrected_by_the_same_integers(exported, tmp_path):
    file = INTEGER.with_name("integer.slim")
    found = node("integers.mjs", exported / INTEGER.name, file, tmp_path / "integers")
    transforms, contents = inference.load(INTEGER).transforms, bitstream.unpack(file.read_bytes())
    correction = transforms.corrections.read(contents.correction, contents.header.quality)
    weight, bias, _ = transforms.corrections.applied(correction)
    assert found["head"] == hashlib.sha256(weight.tobytes() + bias.tobytes()).hexdigest()
    assert found["rewritten"]


SEVERAL = GOLDEN / "several.slim"  # of the decoder in integers, with three corrections


def test_several_corrections_are_read_as_they_were_written(exported, tmp_path):
    found = node("integers.mjs", exported / INTEGER.name, SEVERAL, tmp_path / "integers")
    transforms = inference.load(INTEGER).transforms
    corrected = heads.read(bitstream.unpack(SEVERAL.read_bytes()), transforms.corrections)
    assert found["correction"] == [{"shift": each.shift, "q": each.q.tolist()} for each in corrected.corrections]
    layers = [transforms.corrections.applied(each) for each in corrected.corrections]
    assert found["head"] == [hashlib.sha256(w.tobytes() + b.tobytes()).hexdigest() for w, b, _ in layers]


@pytest.mark.slow
@pytest.mark.skipif(not RUNTIME.is_dir(), reason="needs npm ci --prefix web")
def test_cells_of_a_decoder_in_integers_are_made_by_their_own_last_layers(exported, tmp_path):
    expected = np.asarray(inference.load(INTEGER).decompress(SEVERAL.read_bytes()))
    found = node("pixels.mjs", exported / INTEGER.name, INTEGER, SEVERAL, tmp_path / "pixels")
    pixels = np.fromfile(tmp_path / "pixels", np.uint8).reshape(found["height"], found["width"], 4)
    assert np.array_equal(pixels[:, :, :3], expected)


@pytest.fixture(scope="module")
def dependent(tmp_path_factory):
    """A model that quantises dependently: its directory, and the folder with its tensors."""
    model, folder = models.load(GOLDEN / "corrected-model"), tmp_path_factory.mktemp("dependent")
    models.save(folder / "dependent", model.codec, with_second_quantiser(model.tables, 64), role="student")
    onnx_export.export(models.load(folder / "dependent"), folder / "tensors", only=())
    return folder / "dependent", folder / "tensors"


@pytest.mark.parametrize("tile", [0, 1, 2, 6])
@pytest.mark.parametrize("long_paths", [True, False])
def test_files_of_two_quantisers_have_the_same_integers(dependent, tile, long_paths, tmp_path):
    directory, tensors = dependent
    codec, photo = inference.load(directory), skimage.data.astronaut()[:300, :510]
    transforms = codec.transforms
    data = codec.compress(photo, quality=2, tile=tile) if long_paths else with_short_paths(codec, photo, 512, tile)
    (tmp_path / "file").write_bytes(data)
    found = node("integers.mjs", tensors, tmp_path / "file", tmp_path / "integers")
    contents = bitstream.unpack(data)
    symbols = transforms.coder.read(contents)
    assert (symbols.index > 63).mean() > 0.1
    assert (tmp_path / "integers").read_bytes() == b"".join(part.tobytes() for part in symbols)
    assert found["rewritten"] == (not tile)


def test_the_cheapest_integers_of_two_quantisers_are_those_that_python_finds(dependent, tmp_path):
    """Sums of doubles here, of floats there: a choice in ten thousand may be another."""
    transforms, random = inference.load(dependent[0]).transforms, np.random.default_rng(0)
    shape = planes, _, rows, columns = 3, transforms.architecture.latents, 10, 6
    exact = random.laplace(0, 2, shape).astype(np.float32)
    index = random.integers(0, 64, shape).astype(np.uint8)
    (tmp_path / "in").write_bytes(exact.tobytes() + index.tobytes())
    node("search.mjs", dependent[1], tmp_path / "in", tmp_path / "out", planes, rows // 2, columns // 2)
    data = (tmp_path / "out").read_bytes()
    r, table = transforms.rounding.path(exact, index, dependent_quantisation.start((rows // 2, columns // 2)))
    assert np.mean(np.frombuffer(data, np.int16, r.size) != r.ravel()) < 1e-3
    assert np.mean(np.frombuffer(data, np.uint8, -1, 2 * r.size) != table.ravel()) < 1e-3
    assert (table > 63).mean() > 0.3 and np.unique(r).size > 20


@pytest.mark.parametrize(("width", "height"), [(3, 1), (97, 42)])
def test_a_picture_is_made_larger_as_pillow_does_it(width, height, tmp_path):
    """Black beside white, so that many sums are beyond a byte. 3 pixels of 3 quarters are other 3 pixels."""
    rows, columns = -(-height // 4), -(-width // 4)
    random = np.random.default_rng(0)
    coded = [random.choice([0, 3, 255], (k * rows, k * columns, 4)).astype(np.uint8) for k in (1, 2, 3)]
    (tmp_path / "coded").write_bytes(b"".join(pixels.tobytes() for pixels in coded))
    read = node("resizing.mjs", tmp_path / "coded", tmp_path / "shown", width, height)["read"]
    found = np.fromfile(tmp_path / "shown", np.uint8).reshape(3, height, width, 4)
    for pixels, mine in zip(coded, found, strict=True):
        for band in range(4):
            image = Image.fromarray(pixels[:, :, band])
            larger = image.resize((4 * columns, 4 * rows), Image.Resampling.LANCZOS)
            assert np.array_equal(mine[:, :, band], np.asarray(larger)[:height, :width])
    assert read == sum(pixels.size for pixels in coded)


def test_a_file_of_version_5_holds_the_integers_of_the_smaller_picture(exported, smaller, tmp_path):
    found = [
        node("integers.mjs", exported / "corrected-model", file, tmp_path / file.name)
        for file in (smaller, GOLDEN / "corrected.slim")
    ]
    assert (tmp_path / "smaller.slim").read_bytes() == (tmp_path / "corrected.slim").read_bytes()
    assert [found[0].pop(side) / found[1].pop(side) for side in ("width", "height")] == [2, 2]
    assert found[0] == found[1]


def test_a_file_that_ends_before_its_features_is_refused(exported, smaller, tmp_path):
    (tmp_path / "bad").write_bytes(smaller.read_bytes()[:25])
    with pytest.raises(AssertionError, match="truncated"):
        node("integers.mjs", exported / "corrected-model", tmp_path / "bad", tmp_path / "integers")


@pytest.mark.slow
@pytest.mark.skipif(not RUNTIME.is_dir(), reason="needs npm ci --prefix web")
@pytest.mark.parametrize("enlarge", [False, True])
def test_a_decoder_in_integers_makes_the_same_pixels(exported, enlarge, tmp_path):
    file, codec = INTEGER.with_name("integer.slim"), inference.load(INTEGER)
    expected = codec.decompress(file.read_bytes())
    if enlarge:
        (tmp_path / "larger").write_bytes(twice_as_large(file))
        file = tmp_path / "larger"
        expected = expected.resize([2 * side for side in expected.size], Image.Resampling.LANCZOS)
    found = node("pixels.mjs", exported / INTEGER.name, INTEGER, file, tmp_path / "pixels")
    pixels = np.fromfile(tmp_path / "pixels", np.uint8).reshape(found["height"], found["width"], 4)
    assert np.array_equal(pixels[:, :, :3], np.asarray(expected))


@pytest.mark.parametrize("of_cells", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2), (41, 70)])
def test_pixels_are_filtered_as_python_does_it(shape, of_cells, tmp_path):
    """Half of them from black to white, half of them nearly the same; in one cell, and in up to four."""
    random, (height, width) = np.random.default_rng(0), shape
    pixels = random.integers(0, 256, (height, width, 4), np.uint8)
    pixels[:, ::2] = 200 + pixels[:, ::2] // 32
    basis, q = filter_tables()[bilateral.BASIS].numpy(), np.array([100, -128, 77], np.int8)
    (tmp_path / "in").write_bytes(pixels.tobytes())
    filtering, who, (top, left) = q.tobytes(), None, (47, 62) if of_cells else (0, 0)
    if of_cells:
        filtering, who = bytes([0, 250, 9]) + filtering, np.array([[0, 1, 0], [1, 0, 1]], np.uint8)
    filter_map = None if who is None else maps.encode(who, 2)
    (tmp_path / "basis").write_bytes(basis.tobytes() + filtering)
    (tmp_path / "map").write_bytes(filter_map or b"")
    files = tmp_path / "in", tmp_path / "out", tmp_path / "basis"
    said = node("filter.mjs", *files, width, len(basis), tmp_path / "map", 2, 3, top, left)
    filters = bilateral.Bilateral({bilateral.BASIS: basis}).read(filtering, filter_map, (2, 3))
    expected = bilateral.filtered(np.ascontiguousarray(pixels[:, :, :3]), filters, top, left)
    assert np.array_equal(expected, pixels[:, :, :3]) == (shape == (1, 1))
    assert (tmp_path / "out").read_bytes() == np.dstack([expected, pixels[:, :, 3]]).tobytes()
    assert "another number" in said[0] and "knows no such filter" in said[1]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory):
    """A decoder in integers that knows a filter: its directory, the folder with its tensors, and a file."""
    folder, tables = tmp_path_factory.mktemp("filtered"), models.load(INTEGER).tables
    models.copy_with_tables(INTEGER, folder / "model", tables | filter_tables())
    onnx_export.export(models.load(folder / "model"), folder / "tensors", only=())
    data = inference.load(folder / "model").compress(skimage.data.astronaut()[:90, :150], quality=1)
    (folder / "file").write_bytes(data)
    return folder / "model", folder / "tensors", folder / "file"


@pytest.mark.slow
@pytest.mark.skipif(not RUNTIME.is_dir(), reason="needs npm ci --prefix web")
@pytest.mark.parametrize(("width", "settings"), [(150, {}), (1600, {}), (300, {"scale": 0.5})])
def test_a_file_with_a_filter_has_the_same_pixels(filtered, width, settings, tmp_path):
    """In one piece; in pieces, each cell by a last layer of its own; and of a smaller picture without colours."""
    directory, tensors, _ = filtered
    codec, picture = inference.load(directory), np.tile(skimage.data.astronaut(), (1, 4, 1))[:90, :width]
    data = codec.compress(Image.fromarray(picture).convert("L" if settings else "RGB"), 1, **settings)
    contents = bitstream.unpack(data)
    assert contents.filtering and (contents.correction_map is not None) == (width == 1600)
    assert (contents.filter_map is not None) == (width == 1600)
    (tmp_path / "file").write_bytes(data)
    node("pixels.mjs", tensors, INTEGER, tmp_path / "file", tmp_path / "pixels")
    pixels = np.fromfile(tmp_path / "pixels", np.uint8).reshape(90, width, 4)
    assert np.array_equal(pixels[:, :, :3], np.asarray(codec.decompress(data).convert("RGB")))


@pytest.mark.parametrize("name", ["corrected", "corrected-tiled", "smaller", "several", "filtered"])
def test_damaged_files_are_refused_in_one_line(exported, smaller, filtered, name):
    """Every truncation, every byte flipped with and without the right checksum: integers come out, or one line."""
    file = {"smaller": smaller, "several": SEVERAL, "filtered": filtered[2]}.get(name, GOLDEN / f"{name}.slim")
    model = exported / (INTEGER.name if name == "several" else "corrected-model")
    found = node("damage.mjs", filtered[1] if name == "filtered" else model, file)
    assert found["others"] == []
    assert found["refused"] > 1000 and found["decoded"] < found["refused"]


def test_a_file_of_specialists_holds_the_same_integers(several, tmp_path):  # noqa: F811
    codec = inference.load(several, backend="torch")
    data = codec.compress(skimage.data.astronaut()[:140, :200], quality=3)
    assert data[4] == 4
    (tmp_path / "file").write_bytes(data)
    onnx_export.export(models.load(several), tmp_path, only=())
    assert node("integers.mjs", tmp_path, tmp_path / "file", tmp_path / "integers")["rewritten"]
    symbols = codec.transforms.coder.read(bitstream.unpack(data))
    assert (tmp_path / "integers").read_bytes() == b"".join(part.tobytes() for part in symbols)


def test_maps_of_specialists_are_read_as_they_were_written(tmp_path):
    """One is long enough that counts are halved, another has carries. Those that none writes are refused."""
    random, given, expected = np.random.default_rng(0), [], []
    for (rows, columns), count in (((1, 1), 2), ((7, 9), 2), ((40, 30), 5), ((150, 150), 16), ((1, 50), 3)):
        who = random.choice(count, (rows, columns), p=random.dirichlet(np.ones(count))).astype(np.uint8)
        data = maps.encode(who, count)
        given += [{"rows": rows, "columns": columns, "specialists": count, "bytes": list(data + end)}
                  for end in (b"", b"\0", b"\1")]  # fmt: skip
        expected += [who.ravel().tolist(), "damaged", "damaged"]
    given += [given[0] | {"specialists": 1}, given[0] | {"bytes": None}]
    expected += ["its model has none", "its model has some"]
    (tmp_path / "maps").write_text(json.dumps(given))
    for mine, right in zip(node("maps.mjs", tmp_path / "maps"), expected, strict=True):
        assert right in mine if isinstance(right, str) else mine == right


def test_streams_of_every_kind_of_symbol_are_read_as_they_were_written():
    assert node("streams.mjs") == {"same": True}
