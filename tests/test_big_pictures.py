"""Big pictures: how much memory and time a photo takes, in processes of their own, and what a region of it takes.

    python tests/test_big_pictures.py photo 8000 6000 photo.ppm       what the tests below run
    python tests/test_big_pictures.py compress photo.ppm photo.slim
    python tests/test_big_pictures.py decompress photo.slim photo.ppm '{"region": [0, 0, 640, 480]}'

The last two print their seconds and their peak of resident memory as JSON.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in conftest, which the processes do not import

import numpy as np
import pytest
import skimage.data
from PIL import Image

from slimcodec import InvalidFile
from slimcodec.codec import bitstream
from slimcodec.codec.bitstream import unpack
from slimcodec.codec.decoding import _Decoding
from slimcodec.codec.files import compress_file, decompress_file
from slimcodec.codec.grid import CELL, CODING_TILE, whole
from slimcodec.codec.inference import BACKENDS, load

MODEL = Path(__file__).parents[1] / "students/slim-2k"
MIB = 1 << 20
PILLOW_BYTES = 4  # of a pixel in colour, as Pillow keeps it
CONSTANT_MIB = 500  # what a picture may take beyond its pixels, library and model; the encoder of slim-2k is wide
REGION = 2048 - 301, 587, 640, 480  # x, y, width, height: over a border of two coding tiles, and on no grid


class Measured(NamedTuple):
    seconds: float  # from the file to the file, with the model loaded before
    peak_mib: float  # of the process, Python and torch included
    base_mib: float  # what it had taken before the picture


def there_and_back(folder: Path, width: int, height: int) -> dict[str, Measured]:
    """What a photo of that size takes to compress and to decompress, each in its own process."""
    photo, slim, decoded = (folder / name for name in ("photo.ppm", "photo.slim", "decoded.ppm"))
    make_photo(width, height).save(photo)
    measured = {"compress": measure("compress", photo, slim), "decompress": measure("decompress", slim, decoded)}
    bpp = 8 * slim.stat().st_size / (width * height)
    print(f"\n{width * height / 1e6:.1f} megapixels, {bpp:.2f} bpp:")
    show(measured)
    with Image.open(decoded) as picture:
        assert picture.size == (width, height) and picture.mode == "RGB"
    return measured


def check_estimate(slim: Path, measured: Measured, threads: int = 1) -> None:
    """What `max_memory` is compared with is no less than what decoding takes."""
    contents = unpack(slim.read_bytes())
    area = whole((contents.header.height, contents.header.width))
    needed = _Decoding(load(MODEL).transforms, contents, area).bytes_needed(contents, threads) / MIB
    print(f"  at most {needed:.0f} MiB to decompress, by the estimate")
    assert measured.peak_mib - measured.base_mib <= needed


def show(measured: dict[str, Measured]) -> None:
    for name, (seconds, peak_mib, base_mib) in measured.items():
        print(f"  {name:10}  {seconds:6.1f} s  {peak_mib:6.0f} MiB, of which {base_mib:.0f} before the picture")


def check_part(folder: Path, part: Image.Image) -> None:
    """The decoded region is the crop of the decoded picture, and that is the photo's."""
    x, y, width, height = REGION
    with Image.open(folder / "decoded.ppm") as decoded, Image.open(folder / "photo.ppm") as photo:
        box = x, y, x + width, y + height
        expected, original = (np.asarray(whole.crop(box)).astype(int) for whole in (decoded, photo))
    assert part.size == (width, height)
    assert np.abs(np.asarray(part).astype(int) - expected).max() <= 1  # floats may round differently
    assert np.abs(expected - original).mean() < 12 < original.std()  # far nearer to it than one colour would be


def test_a_photo_of_several_tiles(tmp_path):
    width, height = 2560, 1760
    assert -(-width // CELL) * -(-height // CELL) > CODING_TILE**2  # the size from which there are tiles
    measured = there_and_back(tmp_path, width, height)
    for name, (_, peak_mib, base_mib) in measured.items():
        assert peak_mib - base_mib - PILLOW_BYTES * width * height / MIB < CONSTANT_MIB, name
    check_estimate(tmp_path / "photo.slim", measured["decompress"])
    data = (tmp_path / "photo.slim").read_bytes()
    assert unpack(data).header.tiles == (1, 2)
    check_part(tmp_path, load(MODEL).decompress(data, region=REGION))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1024, 1024), (2048, 2048), (4000, 3000)])
def test_decoding_takes_no_more_memory_than_is_foreseen(tmp_path, size):
    make_photo(*size).save(tmp_path / "photo.ppm")
    slim, decoded = tmp_path / "photo.slim", tmp_path / "decoded.ppm"
    measure("compress", tmp_path / "photo.ppm", slim)
    for backend in BACKENDS:
        for threads in (1, 2):
            measured = measure("decompress", slim, decoded, threads=threads, backend=backend)
            show({f"{backend}, {threads}": measured})
            check_estimate(slim, measured, threads if size[0] > 2048 else 1)


@pytest.mark.slow
def test_a_photo_of_100_megapixels(tmp_path):
    """What it takes beyond its own pixels is what a photo of any size takes; a region takes less."""
    measured = there_and_back(tmp_path, 10_000, 10_000)
    check_estimate(tmp_path / "photo.slim", measured["decompress"])
    part = measure("decompress", tmp_path / "photo.slim", tmp_path / "part.ppm", region=REGION)
    show({"region": part})
    with Image.open(tmp_path / "part.ppm") as picture:
        check_part(tmp_path, picture)
    for name, (_, peak_mib, base_mib) in measured.items():
        assert peak_mib - base_mib - PILLOW_BYTES * 1e8 / MIB < CONSTANT_MIB, name
    assert part.seconds < 0.1 * measured["decompress"].seconds
    assert part.peak_mib - part.base_mib < CONSTANT_MIB


@pytest.mark.slow
def test_a_header_that_promises_200_megapixels(tmp_path):
    """44 bytes: the picture of nothing takes its own pixels, or is refused, and no time either way."""
    codec = load(MODEL)
    head = bitstream.pack(bitstream.Header(codec.model_hash, 14142, 14142, 1024), [bytes(1000)])[:44]
    (tmp_path / "head.slim").write_bytes(head)
    whole = measure(
        "decompress", tmp_path / "head.slim", tmp_path / "head.ppm", allow_partial=True, max_memory=4096 * MIB
    )
    show({"44 bytes": whole})
    assert whole.peak_mib - whole.base_mib - PILLOW_BYTES * 14142**2 / MIB < CONSTANT_MIB and whole.seconds < 60
    began = time.process_time()
    with pytest.raises(InvalidFile, match=r"decoding takes up to [0-9,]+ MiB, more than the limit of 1,536"):
        codec.decompress(head, allow_partial=True)
    assert time.process_time() - began < 1


@pytest.mark.slow
def test_a_region_of_a_large_untiled_picture(tmp_path):
    """A valid stream, all of which must be parsed; kept is what the region needs."""
    Image.new("RGB", (9459, 9459), (90, 120, 160)).save(tmp_path / "flat.ppm")
    show({"compress": measure("compress", tmp_path / "flat.ppm", tmp_path / "flat.slim", tile=0)})
    part = measure("decompress", tmp_path / "flat.slim", tmp_path / "part.ppm", region=(4000, 5000, 64, 64))
    print(f"  {(tmp_path / 'flat.slim').stat().st_size:,} bytes")
    show({"region": part})
    assert part.peak_mib - part.base_mib < CONSTANT_MIB


# --- in processes of their own --------------------------------------------------------------------------------------


def measure(verb: str, source: Path, target: Path, threads: int = 1, **settings) -> Measured:
    command = [sys.executable, __file__, verb, str(source), str(target), json.dumps(settings)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Measured(**json.loads(done.stdout))


def make_photo(width: int, height: int) -> Image.Image:
    """Photos side by side, each enlarged as a large sensor's lens would blur it, turned another way, and noise."""
    names = "astronaut", "coffee", "chelsea", "rocket"
    sources = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    photo = Image.new("RGB", (width, height))
    side = 800
    for number, (top, left) in enumerate(
        (top, left) for top in range(0, height, side) for left in range(0, width, side)
    ):
        piece = sources[number % len(sources)].resize((side, side), Image.Resampling.BICUBIC)
        photo.paste(piece.transpose(Image.Transpose(number % 7)), (left, top))
    rng = np.random.default_rng(0)
    pixels = np.array(photo)
    for row in pixels:  # one at a time: noise for all of it would be the largest thing here
        row[:] = np.clip(row + rng.normal(0, 4, row.shape), 0, 255)
    return Image.fromarray(pixels)


def peak_mib() -> float:
    """The most resident memory that this process has had."""
    try:  # ru_maxrss may be that of the process that started this one
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MIB
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


def main(verb: str, *arguments: str) -> None:
    if verb == "photo":
        width, height, target = arguments
        make_photo(int(width), int(height)).save(target)
        return
    source, target, *more = arguments
    settings = json.loads(more[0]) if more else {}
    Image.MAX_IMAGE_PIXELS = None
    codec = load(MODEL, backend=settings.pop("backend", None))
    codec.decompress(codec.compress(np.zeros((64, 64, 3), np.uint8)))  # compiles
    base_mib, began = peak_mib(), time.perf_counter()
    if verb == "compress":
        compress_file(source, target, model=codec, **settings)
    else:
        decompress_file(source, target, model=codec, **settings)
    seconds = time.perf_counter() - began
    print(json.dumps(Measured(seconds, peak_mib(), base_mib)._asdict()))


if __name__ == "__main__":
    main(*sys.argv[1:])
