"""How long models take beside other codecs and CompressAI's mbt2018_mean, and what the cores could do at most.

    python benchmarks/codec.py --photos KODAK --large CLIC --json results/performance/speed.json
    python benchmarks/tables.py

Every row is a process of its own, with so many threads on so many cores; a model is run by both backends. --large is a
folder of photos, of which one picture of 4000 x 3000 pixels is put together. All are medians. The second command puts
the tables into docs/performance.md.
"""

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import AvifImagePlugin, Image, ImageOps
from tqdm import tqdm

import slimcodec
from slimcodec.codec import bitstream
from slimcodec.codec.atomic import write_text
from slimcodec.codec.inference import BACKENDS
from slimcodec.codec.zoo import DEFAULT_STUDENT
from slimcodec.evaluation.photos import find_photos, open_photo

QUALITY = 4
LARGE, QUARTER = (4000, 3000), (2000, 1500)
# Settings that give about the size of the model's files at QUALITY on Kodak, 0.7 to 1.1 bpp, at the default speed.
PILLOW: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 60},
    "WEBP": {"quality": 70},
    "JPEG2000": {"quality_mode": "rates", "quality_layers": [28]},
    "AVIF": {"quality": 65},
}
JPEG_XL, JPEG_XL_DISTANCE, JPEG_XL_EFFORT = "JPEG XL", 2.5, 7
RIVAL = "mbt2018_mean"
REFERENCE = "AVIF"
PRODUCT_SIDE, PRODUCT_SECONDS = 1024, 2.0
Coder = tuple[Callable[[Image.Image], Any], Callable[[Any], Any]]  # encode, decode


def main() -> None:
    options = _options()
    if options.row:  # one of the processes that this script starts
        print(json.dumps(_row(options)))
        return
    names = [f"{model} {backend}" for model, backend in product(options.models, BACKENDS)] + [*PILLOW, JPEG_XL]
    tasks = [(threads, size, name) for threads, size in product(options.threads, _sizes(options))
             for name in [*names, *([RIVAL] if size == "photos" and options.compressai else [])]]  # fmt: skip
    found = {
        "command": "python benchmarks/codec.py " + " ".join(sys.argv[1:]),
        "machine": _machine(),
        "macs_per_pixel": {model: _macs(model) for model in options.models},
        "peak_gmacs_per_second": {threads: _in_a_process(threads, "product") for threads in options.threads},
        "rows": [_in_a_process(threads, name, size) for threads, size, name in tqdm(tasks)],
    }
    print(tables(found))
    if options.json:
        write_text(options.json, json.dumps(found, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[DEFAULT_STUDENT], metavar="MODEL")
    parser.add_argument("--photos", required=True, type=Path, help="a folder of pictures such as Kodak's")
    parser.add_argument("--limit", type=int, default=12, help="so many of them")
    parser.add_argument("--large", type=Path, help="a folder of photos to make the large picture of")
    parser.add_argument("--repeats", type=int, default=3, help="of the large picture")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--no-compressai", dest="compressai", action="store_false", help=f"leave out {RIVAL}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--row", nargs=2, metavar=("CODEC", "SIZE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _sizes(options: argparse.Namespace) -> list[str]:
    return ["photos", "large"] if options.large else ["photos"]


def _pictures(options: argparse.Namespace, size: str) -> list[Image.Image]:
    if size == "large":
        return [mosaic(find_photos(options.large))] * options.repeats
    return [open_photo(path) for path in find_photos(options.photos)[: options.limit]]


def mosaic(photos: list[Path]) -> Image.Image:
    """Four photos, each cut to 2000 x 1500, as one picture."""
    picture = Image.new("RGB", LARGE)
    for number, (x, y) in enumerate(product((0, QUARTER[0]), (0, QUARTER[1]))):
        picture.paste(ImageOps.fit(open_photo(photos[number % len(photos)]), QUARTER), (x, y))
    return picture


# --- one row ----------------------------------------------------------------------------------------------------------


def _in_a_process(threads: int, codec: str, size: str = "") -> Any:
    """On the first cores, so that libraries which ask for no number of threads take no more either."""
    cores = ["taskset", "-c", ",".join(map(str, range(threads)))] if sys.platform == "linux" else []
    command = [*cores, sys.executable, *sys.argv, "--threads", str(threads), "--row", codec, size]
    settings = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return json.loads(subprocess.run(command, env=settings, stdout=subprocess.PIPE, check=True).stdout)


def _row(options: argparse.Namespace) -> Any:
    (name, size), (threads,) = options.row, options.threads
    if name == "product":
        return _peak()
    encode, decode = _coder(name, threads)
    pictures, seconds, sizes, parts = _pictures(options, size), [], [], []
    for position, picture in enumerate([pictures[0], *pictures]):
        data, encoding = _clocked(encode, picture)
        _, decoding = _clocked(decode, data)
        if position:  # the first picture warms up
            seconds.append((encoding, decoding))
            sizes.append(len(data) if isinstance(data, bytes) else None)
            parts.append(_parts(decode, data) if name.endswith(" onnx") else {})
    pixels = pictures[0].width * pictures[0].height
    encode_ms, decode_ms = (1000 * statistics.median(values) for values in zip(*seconds, strict=True))
    return {
        "codec": name,
        "threads": threads,
        "megapixels": pixels / 1e6,
        "pictures": len(pictures),
        "encode_ms": encode_ms,
        "decode_ms": decode_ms,
        "bpp": None if None in sizes else 8 * statistics.mean(sizes) / pixels,
        "parts_ms": {part: 1000 * statistics.median(found[part] for found in parts) for part in parts[0]},
    }


def _clocked(work: Callable, *arguments: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - began


def _coder(name: str, threads: int) -> Coder:
    if name in PILLOW:
        return _pillow(name, threads)
    if name == JPEG_XL:
        return _jpeg_xl(threads)
    if name == RIVAL:
        return _compressai()
    model, backend = name.rsplit(" ", 1)
    codec = slimcodec.load(model, backend=backend)
    return lambda picture: codec.compress(picture, QUALITY), codec.decompress


def _pillow(name: str, threads: int) -> Coder:
    AvifImagePlugin.DEFAULT_MAX_THREADS = threads  # of decoding; Pillow has no other way to say so
    settings = PILLOW[name] | ({"max_threads": threads} if name == "AVIF" else {})

    def encode(picture: Image.Image) -> bytes:
        file = io.BytesIO()
        picture.save(file, name, **settings)
        return file.getvalue()

    return encode, lambda data: Image.open(io.BytesIO(data)).load()


def _jpeg_xl(threads: int) -> Coder:
    import imagecodecs

    settings = {"distance": JPEG_XL_DISTANCE, "effort": JPEG_XL_EFFORT, "numthreads": threads}
    return (
        lambda picture: imagecodecs.jpegxl_encode(np.asarray(picture), **settings),
        lambda data: imagecodecs.jpegxl_decode(data, numthreads=threads),
    )


def _compressai() -> Coder:
    """N=128, M=192: quality 4. The weights are random, and the time is that of trained ones but for entropy coding."""
    import torch
    from compressai.zoo import mbt2018_mean

    network = mbt2018_mean(quality=4, pretrained=False).eval()
    network.update()

    @torch.inference_mode()
    def encode(picture: Image.Image) -> dict[str, Any]:
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
        return network.compress(torch.nn.functional.pad(x, (0, -x.shape[3] % 64, 0, -x.shape[2] % 64)))

    @torch.inference_mode()
    def decode(coded: dict[str, Any]) -> None:
        network.decompress(coded["strings"], coded["shape"])

    return encode, decode


def _parts(decode: Any, data: bytes) -> dict[str, float]:
    """Seconds of what decoding consists of, one after the other. A large picture passes in windows instead."""
    codec = decode.__self__
    contents = bitstream.unpack(data)
    header = contents.header
    symbols, reading = _clocked(codec.coder.read, contents)
    _, scales = _clocked(codec.coder.scale_index, symbols.z, header.quality, header.tile)
    y_hat, latents = _clocked(codec.transforms.latents, symbols, header.quality)
    _, synthesis = _clocked(codec.transforms.synthesise, y_hat, header.width, header.height)
    return {"h_scale": scales, "entropy decoding": reading - scales, "h_mean, context": latents, "g_s": synthesis}


def _peak() -> float:
    """GMAC/s of the best product of two matrices of float32."""
    import torch

    a, best, end = torch.rand(PRODUCT_SIDE, PRODUCT_SIDE), float("inf"), time.perf_counter() + PRODUCT_SECONDS
    while time.perf_counter() < end:
        best = min(best, _clocked(torch.mm, a, a)[1])
    return PRODUCT_SIDE**3 / best / 1e9


def _macs(model: str) -> dict[str, float]:
    info = slimcodec.load(model).model.info
    return {side: info[f"{side}_macs_per_pixel"] for side in ("encoder", "decoder")}


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line] \
        if cpuinfo.is_file() else [platform.processor() or "unknown"]  # fmt: skip
    versions = {name: version(name) for name in ("numpy", "onnxruntime", "pillow", "imagecodecs", "torch")}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {"processor": names[0], "cores": os.cpu_count(), "date": date.today().isoformat(),
            "load": os.getloadavg()[0], "commit": commit.stdout.strip() or "unknown"} | versions  # fmt: skip


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(found: dict[str, Any]) -> str:
    """One a size and number of threads, and one of the parts of decoding."""
    groups = dict.fromkeys((row["megapixels"], row["threads"]) for row in found["rows"])
    return "\n\n".join([*(_table(found, *group) for group in groups), _parts_table(found)])


def _table(found: dict[str, Any], megapixels: float, threads: int) -> str:
    rows = [row for row in found["rows"] if (row["megapixels"], row["threads"]) == (megapixels, threads)]
    reference = next(row for row in rows if row["codec"] == REFERENCE)
    lines = [
        f"### {megapixels:.1f} megapixels, {threads} thread{'s' * (threads > 1)}, median of {rows[0]['pictures']}",
        "",
        f"| | bpp | encode, ms | × {REFERENCE} | decode, ms | × {REFERENCE} | limit of encoding | limit of decoding |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        model, _, backend = row["codec"].rpartition(" ")
        cells = [f"`{model}`, {backend}" if model in found["macs_per_pixel"] else row["codec"]]
        cells.append("" if row["bpp"] is None else f"{row['bpp']:.2f}")
        for side in ("encode_ms", "decode_ms"):
            cells += [f"{row[side]:,.1f}", f"{row[side] / reference[side]:.2f}"]
        lines.append("| " + " | ".join(cells + _limits(found, model, megapixels, threads)) + " |")
    return "\n".join(lines)


def _limits(found: dict[str, Any], model: str, megapixels: float, threads: int) -> list[str]:
    """Milliseconds that the multiply-accumulates alone would take at the speed of a matrix product."""
    peak = {int(count): value for count, value in found["peak_gmacs_per_second"].items()}[threads]
    macs = found["macs_per_pixel"].get(model)
    return [f"{macs[side] * megapixels / peak:,.1f}" if macs else "" for side in ("encoder", "decoder")]


def _parts_table(found: dict[str, Any]) -> str:
    rows = [row for row in found["rows"] if row["parts_ms"]]
    names = [f"`{row['codec'].rpartition(' ')[0]}`, {row['megapixels']:.1f} Mpixel, {row['threads']} thread"
             + "s" * (row["threads"] > 1) for row in rows]  # fmt: skip
    lines = ["### What decoding consists of, in ms, by ONNX Runtime", "",
             "| | " + " | ".join(rows[0]["parts_ms"]) + " | all of it |",
             "|---|" + "---:|" * (len(rows[0]["parts_ms"]) + 1)]  # fmt: skip
    for name, row in zip(names, rows, strict=True):
        lines.append(
            f"| {name} | " + " | ".join(f"{ms:,.1f}" for ms in [*row["parts_ms"].values(), row["decode_ms"]]) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
