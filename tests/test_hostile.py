"""What comes from outside and means no good: pictures, models, files, full disks, and being killed in the middle."""

import io
import json
import random
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_models import edit_weights, replaced

from slimcodec import InvalidFile, InvalidInput, InvalidModel, SlimcodecError, compress_file, decompress_file
from slimcodec.codec import bitstream, inference, pictures

GOLDEN_MODEL = Path(__file__).with_name("golden") / "model"


@pytest.fixture
def photo(pictures):
    return Image.fromarray(pictures["astronaut 100x130"])


@pytest.fixture
def directory(model_directory, tmp_path):
    """A copy of a model that may be damaged."""
    return shutil.copytree(model_directory, tmp_path / "damaged")


def one_line(error):
    return bool(str(error)) and "\n" not in str(error)


# --- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "picture",
    [
        np.full((4, 4, 3), np.inf, np.float32),
        np.full((4, 4, 3), 0.5, np.float16),
        np.zeros((4, 4, 3), np.complex64),
        np.zeros((4, 4, 3), object),
        np.zeros((4, 4), "u1,u1"),
        np.zeros((4, 4, 3), "M8[s]"),
        np.zeros((4, 4, 3), np.int8),
        np.array(b"picture"),
        torch.full((3, 4, 4), float("nan")),
        torch.zeros(4, 4, 3, dtype=torch.uint8),
    ],
    ids=lambda picture: str(picture.dtype),
)
def test_numbers_that_are_no_picture_get_one_clear_error(codec, picture):
    for call in (codec.compress, codec.estimate):
        with pytest.raises(InvalidInput, match="the picture is") as caught:
            call(picture)
        assert one_line(caught.value)


def test_a_picture_whose_file_is_gone_is_refused(codec, photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    picture = Image.open(path)
    picture.close()
    with pytest.raises(InvalidInput, match=rf"^{path}: ") as caught:
        codec.compress(picture)
    assert one_line(caught.value)


def encoded(photo):
    """Name → bytes of the photo in many formats."""
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [(name, "RGB") for name in ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "PPM", "QOI")]
    for name, mode in [*kinds, ("PNG", "P"), ("JPEG", "CMYK"), ("TIFF", "CMYK"), ("WEBP", "RGBA"), ("PNG", "LA")]:
        file = io.BytesIO()
        photo.convert(mode).save(file, name, **({"exif": exif} if name in ("PNG", "JPEG", "TIFF", "WEBP") else {}))
        yield f"{name} {mode}", file.getvalue()


def damaged(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(rng.choice((len(data), min(len(data), 200))) + 1)
        size = rng.choice((1, 4, 40))
        data[at : at + rng.choice((0, size))] = rng.choice((b"", rng.randbytes(size)))
    return bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data) + 1)))])


def test_damaged_pictures_are_read_or_refused_whatever_their_format(photo, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # a damaged size must not take gigabytes of the test's memory
    found = {True: 0, False: 0}
    for name, data in encoded(photo):
        rng = random.Random(name)
        for number in range(40):
            with warnings.catch_warnings(action="ignore"):
                try:
                    picture = pictures.from_picture(pictures.open_picture(io.BytesIO(damaged(data, rng))))
                except InvalidInput as error:
                    assert one_line(error), (name, number)
                    found[False] += 1
                else:
                    assert picture.pixels.dtype == np.uint8 and picture.pixels.ndim == 3, (name, number)
                    found[True] += 1
    assert min(found.values()) > 50


# --- what comes with a picture --------------------------------------------------------------------------------------

NO_PROFILES = [
    b"",
    b"\xff\xfe no text",
    b"x",
    b"II*\0",
    b"II*\0\x08\0\0\0\xff\xff",
    b"MM\0*\0\0\0\x08\0\1",
    bytes(range(256)),
    bytes(70_000),
]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif", ".jp2", ".gif", ".bmp"])
@pytest.mark.parametrize("chunk", ["icc", "exif", "xmp"])
def test_a_chunk_that_is_no_profile_ends_in_a_picture_or_a_refusal(codec, pictures, tmp_path, chunk, suffix):
    """Nobody checks what is in the chunks before a picture format's writer gets it."""
    contents = bitstream.unpack(codec.compress(pictures["17x31"]))
    target = tmp_path / f"out{suffix}"
    for profile in NO_PROFILES:
        file = io.BytesIO(bitstream.pack(contents.header, contents.streams, contents.correction, **{chunk: profile}))
        try:
            assert decompress_file(file, target, model=codec).mode == "RGB"
        except SlimcodecError as error:
            assert one_line(error) and not target.exists()
        else:
            with Image.open(target) as picture:
                picture.load()
                assert picture.size == (31, 17)
            target.unlink()


# --- models ---------------------------------------------------------------------------------------------------------


def filled(name, value, dtype=None):
    return replaced(f"tables.{name}", lambda table: torch.full_like(table, value, dtype=dtype))


def retyped(name, dtype):
    return replaced(f"tables.{name}", lambda table: table.to(dtype))


def without(name):
    return lambda tensors: tensors.pop(f"tables.{name}")


def costing(table):
    return lambda tensors: tensors.update({"tables.r_error_bits": table})


@pytest.mark.parametrize(
    "change, named",
    [
        (without("r_skip"), "tables.r_skip"),
        (without("r_offsets"), "tables.r_offsets"),
        (filled("r_skip", -1), "tables.r_skip"),
        (filled("r_skip", 65), "tables.r_skip"),
        (filled("r_offsets", 257), "tables.r_offsets"),
        (filled("r_offsets", -257), "tables.r_offsets"),
        (filled("r_offsets", -(2**15)), "tables.r_offsets"),
        (replaced("tables.r_skip", lambda table: table.repeat(2)), "tables.r_skip"),
        (replaced("tables.r_skip", lambda table: table[0].clone()), "tables.r_skip"),
        (replaced("tables.r_offsets", lambda table: table[:-1].clone()), "tables.r_offsets"),
        (retyped("r_skip", torch.float32), "tables.r_skip"),
        (retyped("r_skip", torch.complex64), "tables.r_skip"),
        (retyped("r_offsets", torch.float16), "tables.r_offsets"),
        (retyped("r_offsets", torch.complex64), "tables.r_offsets"),
        (retyped("r_offsets", torch.uint16), "tables.r_offsets"),
        (retyped("r_offsets", torch.bool), "tables.r_offsets"),
        (retyped("z_frequencies", torch.complex64), "tables.z_frequencies"),
        (replaced("tables.r_sizes", lambda table: table.long() + 2**32), "tables.r_sizes"),
        (costing(torch.tensor([0], dtype=torch.int16)), "tables.r_error_bits"),
        (costing(torch.tensor([160])), "tables.r_error_bits"),
        (costing(torch.tensor(160, dtype=torch.int16)), "tables.r_error_bits"),
        (filled("r_sizes", 0), "sizes"),
        (filled("r_sizes", -4), "sizes"),
        (lambda tensors: tensors.update({"tables.more": torch.ones(1)}), "tables.more"),
    ],
)
def test_tables_that_were_edited(directory, change, named):
    edit_weights(directory, change)
    with pytest.raises(InvalidModel) as caught:
        inference.load(directory)
    message = str(caught.value)
    assert message.startswith(f"{directory / 'weights.safetensors'}: ") and named in message and one_line(message)


@pytest.mark.parametrize("version", [1, 3, "2", None, 2.5])
def test_a_model_of_another_format_version_names_both(directory, version):
    path = directory / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
    with pytest.raises(InvalidModel, match=rf"^{path}: format_version is {version}, this slimcodec reads 2") as caught:
        inference.load(directory)
    assert one_line(caught.value)


@pytest.mark.parametrize("length", [0, 1, 50, 500])
def test_a_truncated_description_is_named(directory, length):
    path = directory / "model.json"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InvalidModel, match=rf"^{path}: ") as caught:
        inference.load(directory)
    assert one_line(caught.value)


@pytest.mark.parametrize("name", ["model.json", "weights.safetensors"])
def test_a_folder_in_place_of_a_file_is_refused(directory, name):
    (directory / name).unlink()
    (directory / name).mkdir()
    with pytest.raises(InvalidModel) as caught:
        inference.load(directory)
    assert str(caught.value).startswith(str(directory)) and one_line(caught.value)


def test_a_file_says_which_model_it_needs(codec, photo, tmp_path):
    slim, target = tmp_path / "photo.slim", tmp_path / "photo.png"
    slim.write_bytes(codec.compress(photo))
    needed = codec.model.sha256[:16]
    for model in (GOLDEN_MODEL, None):  # another one, and whatever is installed
        with pytest.raises(InvalidFile, match=rf"^{slim}: made with model {needed}") as caught:
            decompress_file(slim, target, model=model)
        assert one_line(caught.value) and not target.exists()


# --- in processes of their own --------------------------------------------------------------------------------------

# Starts once and forks: a child may be killed, and may be short of disk or memory.
CHILDREN = '''
import contextlib, io, json, os, resource, signal, sys, time, zlib
from pathlib import Path
from PIL import Image
import slimcodec
from slimcodec.cli import main
from slimcodec.codec import bitstream

folder, model = Path(sys.argv[1]), sys.argv[2]
photo, slim, target = folder / "photo.png", folder / "photo.slim", folder / "target"
codec = slimcodec.load(model)


def compress(to):
    return main(["compress", str(photo), str(to), "--force", "--model", model])


def decompress(to):
    return main(["decompress", str(slim), str(to), "--force", "--model", model])


def child(work, delay=None):
    """Exit code and stderr of a forked process that does the work, and is killed after so many seconds."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 99
        try:
            code = work()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode()[:1000])
        finally:
            os._exit(code)
    os.close(write)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(read) as pipe:
        return os.waitstatus_to_exitcode(status), pipe.read()


# --- disk

def full_disk(work):
    """Every write beyond the limit fails, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    return work()


def killed_while_writing(work):
    """The same limit, but the signal that Python ignores ends the process within its write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return full_disk(work)


def killed_before_the_name(work):
    os.replace = os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return work()


disk = []
for verb, suffix in ((compress, ".slim"), (decompress, ".png")):
    whole = folder / f"whole{suffix}"
    verb(whole)  # loads the model, for the children too
    began = time.perf_counter()
    assert child(lambda: verb(whole)) == (0, "")
    seconds = time.perf_counter() - began
    for before in (None, b"before"):
        for number, how in enumerate([full_disk, killed_while_writing, killed_before_the_name, *[None] * 5]):
            out = folder / verb.__name__ / f"{number}{before}" / f"out{suffix}"
            out.parent.mkdir(parents=True)
            if before:
                out.write_bytes(before)
            delay = None if how else seconds * (number - 3) / 4
            code, text = child(lambda: how(lambda: verb(out)) if how else verb(out), delay)
            found = out.read_bytes() if out.exists() else None
            state = "before" if found == before else "whole" if found == whole.read_bytes() else "half"
            names = [path.name for path in out.parent.iterdir()]
            visible = [name for name in names if not name.startswith(".")]
            how = how.__name__ if how else "killed"
            disk.append([verb.__name__, how, code, text, state, visible, len(names), str(out)])


# --- memory

HASH = codec.model_hash


def header(width, height, tile, *, flags=0, sizes, rest=b""):
    fields = bitstream._FIELDS.pack(b"SLIM", 2, flags, HASH, width, height, 1024, tile)
    rest = b"".join(size.to_bytes(4, "little") for size in sizes) + rest
    return fields + zlib.crc32(rest, zlib.crc32(fields)).to_bytes(4, "little") + rest


LIMIT = 65535, 3051  # as many pixels as are accepted
deflate = zlib.compressobj()
first, again = (deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
bomb = first + 1023 * again  # 1 GiB
tiny = b"\\0\\0\\0\\x80\\0\\0\\0\\0" * 2
bombed = lambda flag, width, height: header(width, height, 0, flags=flag, sizes=[len(bomb), 16], rest=bomb + tiny)
files = {
    "more pixels than the limit": (header(65535, 65535, 0, sizes=[16], rest=tiny), {}),
    "a million tiles": (header(65535, 65535, 1, sizes=[16], rest=tiny), {"max_pixels": 1 << 32}),
    "a million tiles, partial": (
        header(65535, 65535, 1, sizes=[16], rest=tiny), {"max_pixels": 1 << 32, "allow_partial": True}
    ),
    "a huge picture in no bytes": (header(*LIMIT, 0, sizes=[0]), {}),
    "a huge picture in a stream that ends": (header(*LIMIT, 0, sizes=[16], rest=tiny[:12] + b"\\1" * 4), {}),
    "50,000 tiles in no bytes": (header(*LIMIT, 1, sizes=[0] * 1024 * 48), {}),
    "a stream of 4 GiB": (header(64, 64, 0, sizes=[2**32 - 1], rest=tiny), {}),
    "an ICC bomb": (bombed(2, 64, 64), {}),
    "an EXIF bomb": (bombed(4, 64, 64), {}),
    "an alpha bomb": (bombed(8, 64, 64), {}),
    "an XMP bomb": (bombed(16, 64, 64), {}),
    "an alpha bomb, partial": (bombed(8, 64, 64)[:-1], {"allow_partial": True}),
}
del bomb


def limited(more_mib, work):
    """As much address space as there is now, and some."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (more_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return work()


def refused(data, settings):
    try:
        codec.decompress(data, **settings)
    except slimcodec.InvalidFile:
        return 0
    return 1


def decode_a_corner(data):
    """Nothing is there of the file but its sizes, and only one of its tiles is looked at."""
    picture = codec.decompress(data, region=(65000, 3000, 100, 50), allow_partial=True)
    return 0 if picture.size == (100, 50) else 1


memory = []
for name, (data, settings) in files.items():
    began = time.perf_counter()
    memory.append([name, *child(lambda: limited(64, lambda: refused(data, settings))), time.perf_counter() - began])
began = time.perf_counter()
data = header(*LIMIT, 1, sizes=[16] * 1024 * 48)
memory.append(["a corner", *child(lambda: limited(256, lambda: decode_a_corner(data))), time.perf_counter() - began])
control = child(lambda: limited(64, lambda: len(bytearray(128 << 20))))
print(json.dumps({"control": control, "disk": disk, "memory": memory}))
'''


@pytest.fixture(scope="module")
def children(model_directory, codec, pictures, tmp_path_factory):
    """What became of the children."""
    if sys.platform != "linux":
        pytest.skip("needs limits that can be set, and /proc")
    folder = tmp_path_factory.mktemp("children")
    photo = Image.fromarray(pictures["astronaut 100x130"])
    photo.save(folder / "photo.png")
    (folder / "photo.slim").write_bytes(codec.compress(photo))
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, str(folder), str(model_directory)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_full_disk_and_a_kill_leave_no_half_file(children):
    states = set()
    for verb, how, code, text, state, visible, count, out in children["disk"]:
        case = verb, how, code, text
        assert state in ("before", "whole") and visible in ([], [Path(out).name]), case
        states.add((how, state))
        if how == "full_disk":
            assert code == 2 and text.startswith("slimcodec: ") and text.count("\n") == 1 and out in text, case
            assert state == "before" and count == len(visible), case
        elif how == "killed":
            assert code in (0, -signal.SIGKILL) and text == "", case
        else:
            assert (
                code == -(signal.SIGXFSZ if how == "killed_while_writing" else signal.SIGKILL) and state == "before"
            ), case
            assert count == len(visible) + 1, case  # what was written so far, under a hidden name
    assert ("killed", "before") in states


def test_what_a_header_declares_is_refused_before_it_is_allocated(children):
    assert children["control"][1].startswith("MemoryError")  # the limit is one
    for name, code, text, seconds in children["memory"]:
        assert (code, text) == (0, ""), name
        assert seconds < 20, name


def test_compress_file_of_a_folder_or_nothing_is_one_line(codec, tmp_path):
    for source in (tmp_path, tmp_path / "missing", Path("/dev/null")):
        with pytest.raises(InvalidInput, match=rf"^{source}: ") as caught:
            compress_file(source, tmp_path / "out.slim", model=codec)
        assert one_line(caught.value) and not (tmp_path / "out.slim").exists()
