"""Every picture file of a folder through the encoder's front door, against a second reader that shares no code with it.

    python benchmarks/pictures.py FOLDER [--compress MODEL]

Counts by format: coded; refused in one line; wrong, where the pixels that go to the codec are not those of the second
reader; traceback. The last two must be 0. Some of those coded are unchecked, as no second reader reads them, or differ
from it after the warning that Pillow cuts off low bits. The second readers are ffmpeg, and pypng, tifffile, imagecodecs
and OpenCV where they are installed. `--compress` also runs the whole encoder on every file that opens.
"""

import argparse
import contextlib
import io
import multiprocessing
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from slimcodec import InvalidInput, load
from slimcodec.codec.pictures import Picture, from_picture, open_picture

LOSSY = {"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "BLP", "DDS", "PCD"}
MEAN_LEVELS, MOST_LEVELS = 2.0, 1  # how far a lossy format, and another one, may be off
MOST_LEVELS_OF = {"FLI": 3}  # of its palettes of 6 bits Pillow makes 0..252, ffmpeg 0..255
READER_SECONDS = 20
# Files of Pillow's own tests, damaged on purpose or of a rare kind, that the second readers get wrong.
DISPUTED = {
    "badrle.bmp": "ends before its runs do",
    "hopper_mask.ico": "ffmpeg leaves out the mask",
    "hopper_rle8_row_overflow.bmp": "a run goes beyond its row",
    "mmap_error.bmp": "says a wrong offset of its pixels, which Pillow finds",
    "pillow3.icns": "ffmpeg takes a smaller one of its icons",
    "rgb32h52.bmp": "OpenCV takes unused bytes for alpha",
}
OUTCOMES = "coded", "refused", "wrong", "traceback", "unchecked", "cut"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compress", metavar="MODEL", help="a model's name or directory")
    options = parser.parse_args()
    codec = load(options.compress) if options.compress else None
    counts = defaultdict(Counter)
    for path in sorted(path for path in options.folder.rglob("*") if path.is_file()):
        outcome, why = examine(path, codec)
        counts[path.suffix.lower() or "none"].update(
            {"coded", outcome} if outcome in ("unchecked", "cut") else [outcome]
        )
        if why:
            print(f"{outcome}: {path}: {why}", flush=True)
    print_table(counts)
    return int(any(count["wrong"] + count["traceback"] for count in counts.values()))


def print_table(counts: dict[str, Counter]) -> None:
    rows = [(suffix, *(count[name] for name in OUTCOMES)) for suffix, count in sorted(counts.items())]
    rows.append(("all", *(sum(row[column] for row in rows) for column in range(1, len(OUTCOMES) + 1))))
    for row in [("suffix", *OUTCOMES), *rows]:
        print("".join(f"{cell!s:>12}" for cell in row))


def examine(path: Path, codec=None) -> tuple[str, str]:
    """What became of a file, and why where that is not plain."""
    with warnings.catch_warnings(record=True, action="always") as caught:
        try:
            image = open_picture(path)
            picture = from_picture(image)
            if codec is not None:
                codec.compress(picture.pixels, 1, strip=True)
        except InvalidInput as error:
            return (
                ("traceback", f"of {len(str(error).splitlines())} lines")
                if "\n" in str(error)
                else ("refused", str(error))
            )
        except Exception as error:
            return "traceback", repr(error)
        outcome = compare(path, picture, format_of(path))
        cut = outcome[0] == "wrong" and any("cuts off" in str(one.message) for one in caught)
        return ("cut", outcome[1]) if cut else outcome


def format_of(path: Path) -> str:
    with Image.open(path) as image:
        return "LAB" if image.mode == "LAB" else image.format


def compare(path: Path, picture: Picture, format: str) -> tuple[str, str]:
    """coded if any second reader agrees, wrong if one reads it and none does, unchecked if none reads it."""
    reasons = []
    for reader in readers(format):
        reason = in_a_child(lambda reader=reader: difference(picture, reader(path.read_bytes()), format))
        if reason == "":
            return "coded", ""
        if reason is not None:
            reasons.append(f"{reader.__name__}: {reason}")
    if reasons and path.name in DISPUTED:
        return "unchecked", DISPUTED[path.name]
    return ("wrong", "; ".join(reasons)) if reasons else ("unchecked", "no second reader")


def in_a_child(work: Callable[[], str]) -> str | None:
    """None where a second reader raised something or broke the process: not all these libraries agree in one."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        with contextlib.suppress(Exception):
            sender.send(work())

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(READER_SECONDS) else None
    except EOFError:
        return None
    finally:
        child.kill()
        child.join()


def difference(picture: Picture, other: np.ndarray, format: str) -> str:
    """`other`: values of 0..1, [H, W, 1 to 4]. "" where it is the same picture in any orientation, up to rounding."""
    if other.shape[2] in (1, 2):
        other = np.concatenate([other[:, :, :1]] * 3 + [other[:, :, 1:]], axis=2)
    alpha = np.ones(picture.pixels.shape[:2]) if picture.alpha is None else picture.alpha / 255
    mine = np.dstack([picture.pixels.astype(float), 255 * alpha])
    if other.shape[2] == 3:
        other = np.dstack([other, np.ones(other.shape[:2])])
    found = [reason for turned in orientations(255 * other) for reason in [distance(mine, turned, format)]]
    return "" if "" in found else found[0]


def orientations(array: np.ndarray) -> Iterator[np.ndarray]:
    for turns in range(4):
        yield np.rot90(array, turns)
        yield np.rot90(array, turns)[:, ::-1]


def distance(mine: np.ndarray, other: np.ndarray, format: str) -> str:
    if mine.shape != other.shape:
        return f"size {other.shape[1]} x {other.shape[0]} instead of {mine.shape[1]} x {mine.shape[0]}"
    seen = (mine[:, :, 3:] > 0) | (other[:, :, 3:] > 0)  # colours under full transparency are nobody's
    off = np.abs(mine - other) * np.concatenate([seen] * 3 + [np.ones_like(seen)], axis=2)
    if format in LOSSY:
        return "" if off.mean() <= MEAN_LEVELS else f"{off.mean():.1f} levels off on average"
    return (
        ""
        if off.max() <= MOST_LEVELS_OF.get(format, MOST_LEVELS)
        else f"{off.max():.1f} levels off at most, {off.mean():.2f} on average"
    )


# --- second readers: bytes → values of 0..1, [H, W, channels] -------------------------------------------------------


def readers(format: str) -> list[Callable[[bytes], np.ndarray]]:
    first = {"PNG": [by_pypng], "TIFF": [by_tifffile], "AVIF": [by_imagecodecs], "JPEG2000": [by_imagecodecs]}
    if format == "LAB":  # OpenCV does not adapt its white to that of the screen
        return []
    return [*first.get(format, []), by_opencv, *([] if format == "BLP" else [by_ffmpeg])]  # which it takes for a JPEG


def by_pypng(data: bytes) -> np.ndarray:
    import png

    reader = png.Reader(bytes=data)
    reader.preamble()
    reader.sbit = None  # or it would shift the samples
    if reader.transparent is not None:  # of whose bits only as many count as a sample has
        reader.transparent = tuple(value & (1 << reader.bitdepth) - 1 for value in reader.transparent)
    width, height, rows, info = reader.asDirect()
    values = np.array([list(row) for row in rows], float).reshape(height, width, info["planes"])
    return values / ((1 << info["bitdepth"]) - 1)


def by_tifffile(data: bytes) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        values, kind = page.asarray(), page.photometric
        if kind not in (0, 1, 2, 3) or values.dtype.kind not in "ub":
            raise ValueError(kind)
        if page.planarconfig == 2 and values.ndim == 3:
            values = np.moveaxis(values, 0, 2)
        if kind == 3:
            values, bits = np.moveaxis(np.asarray(page.colormap)[:, values.astype(int)], 0, 2), 16
        else:
            bits = page.bitspersample if values.dtype.kind == "u" else 1
    values = np.atleast_3d(values).astype(float) / ((1 << bits) - 1)
    channels = {0: 1, 1: 1, 2: 3, 3: 3}[int(kind)] + bool({1, 2} & set(page.extrasamples))
    if 1 in page.extrasamples:  # colours multiplied by alpha
        values[:, :, :3] = np.minimum(values[:, :, :3] / np.maximum(values[:, :, 3:4], 1e-9), 1)
    return (1 - values if kind == 0 else values)[:, :, :channels]


def by_imagecodecs(data: bytes) -> np.ndarray:
    import imagecodecs

    avif = data[4:12] in (b"ftypavif", b"ftypavis")
    values = np.atleast_3d(imagecodecs.avif_decode(data, index=0) if avif else imagecodecs.jpeg2k_decode(data))
    deep = values.dtype == np.uint16
    bits = next(bits for bits in ((10, 12, 16) if deep else (8,)) if values.max() < 1 << bits)
    return values / ((1 << bits) - 1)


def by_opencv(data: bytes) -> np.ndarray:
    import cv2

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype.kind != "u":
        raise ValueError("not read")
    values = np.atleast_3d(values) / np.iinfo(values.dtype).max
    return values[:, :, [2, 1, 0, 3][: values.shape[2]]] if values.shape[2] > 1 else values


def by_ffmpeg(data: bytes) -> np.ndarray:
    import imageio_ffmpeg

    output = ["-frames:v", "1", "-f", "image2pipe", "-c:v", "pam", "-pix_fmt", "rgba", "-"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", "-", *output]
    done = subprocess.run(command, input=data, capture_output=True, timeout=READER_SECONDS, check=True)
    head, _, pixels = done.stdout.partition(b"ENDHDR\n")
    sizes = dict(line.split(b" ", 1) for line in head.splitlines() if b" " in line)
    return np.frombuffer(pixels, np.uint8).reshape(int(sizes[b"HEIGHT"]), int(sizes[b"WIDTH"]), 4) / 255


if __name__ == "__main__":
    sys.exit(main())
