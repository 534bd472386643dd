"""Encoding and decoding time of a model, networks and entropy coding apart, beside CompressAI's mbt2018_mean and
Pillow's JPEG, WebP, JPEG 2000 and AVIF.

    python benchmarks/codec.py MODEL --photos KODAK --large CLIC [--threads 1 2] [--json FILE]

Everything is measured in turn on the same pictures in one process: the ratios mean more than the milliseconds, which
depend on the machine. --large is a folder of photos, of which one picture of 4000 x 3000 pixels is put together.
"""

import argparse
import datetime
import io
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

import slimcodec
from slimcodec.codec import bitstream
from slimcodec.codec.files import writing
from slimcodec.evaluation.photos import find_photos, open_photo

QUALITY = 4
LARGE, QUARTER = (4000, 3000), (2000, 1500)
# Settings that give about the size of the model's files at QUALITY on Kodak, 0.7 to 0.9 bpp.
PILLOW = {
    "JPEG": {"quality": 60},
    "WEBP": {"quality": 70},
    "JPEG2000": {"quality_mode": "rates", "quality_layers": [28]},
    "AVIF": {"quality": 65},
}
REFERENCE = "slimcodec decode"


def main() -> None:
    options = _options()
    sets = {"photos": [open_photo(path) for path in find_photos(options.photos)[: options.limit]]}
    if options.large:
        sets["large"] = [mosaic(find_photos(options.large))] * options.repeats
    codec = slimcodec.load(options.model, backend="torch")
    results = []
    for threads, (name, pictures) in product(options.threads, sets.items()):
        torch.set_num_threads(threads)
        # It would take minutes for every large picture.
        results.append(_measured(codec, pictures, threads, options.compressai and name == "photos"))
        print(_table(results[-1]), flush=True)
    print(_targets(results))
    if options.json:
        report = {"machine": _machine(), "model": options.model, "results": results}
        with writing(options.json) as file:
            file.write(json.dumps(report, indent=1).encode())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photos", required=True, type=Path, help="a folder of pictures such as Kodak's")
    parser.add_argument("--limit", type=int, help="so many of them")
    parser.add_argument("--large", type=Path, help="a folder of photos to make the large picture of")
    parser.add_argument("--repeats", type=int, default=3, help="of the large picture")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--no-compressai", dest="compressai", action="store_false", help="it takes minutes")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    return parser.parse_args()


def mosaic(photos: list[Path]) -> Image.Image:
    """Four photos, each cut to 2000 x 1500, as one picture."""
    picture = Image.new("RGB", LARGE)
    for number, (x, y) in enumerate(product((0, QUARTER[0]), (0, QUARTER[1]))):
        picture.paste(ImageOps.fit(open_photo(photos[number % len(photos)]), QUARTER), (x, y))
    return picture


def _measured(codec: slimcodec.Codec, pictures: list[Image.Image], threads: int, compressai: bool) -> dict:
    """Medians over the pictures in milliseconds, and the mean bpp of each codec's files."""
    seconds: dict[str, list[float]] = {}
    bpp: dict[str, list[float]] = {}
    size = pictures[0].size
    for position, picture in enumerate(tqdm([pictures[0], *pictures], desc=f"{size[0]}x{size[1]}, {threads} threads")):
        makers = [lambda picture=picture: _slimcodec(codec, picture), lambda picture=picture: _pillow(picture)]
        if compressai:
            makers.append(lambda picture=picture: _compressai(picture))
        for make in makers:
            steps, sizes = make()
            for name, step in steps.items():
                began = time.perf_counter()
                step()
                if position:  # the first picture warms up
                    seconds.setdefault(name, []).append(time.perf_counter() - began)
            for name, value in sizes.items():
                bpp.setdefault(name, []).append(8 * value / (picture.width * picture.height))
    return {
        "threads": threads,
        "pictures": len(pictures),
        "megapixels": size[0] * size[1] / 1e6,
        "milliseconds": {name: 1000 * statistics.median(values) for name, values in seconds.items()},
        "bpp": {name: statistics.mean(values) for name, values in bpp.items()},
    }


def _slimcodec(codec: slimcodec.Codec, picture: Image.Image) -> tuple[dict[str, Callable], dict[str, int]]:
    data = codec.compress(picture, QUALITY)
    contents = bitstream.unpack(data)
    header = contents.header
    pixels = np.asarray(picture)
    symbols = codec.coder.read(contents)
    y, y_hat = codec.transforms.analyse(pixels), codec.transforms.latents(symbols, header.quality)
    z_hat = codec.transforms.hyper_latents(y, header.quality)
    steps = {
        "slimcodec encode": lambda: codec.compress(picture, QUALITY),
        "  g_a": lambda: codec.transforms.analyse(pixels),
        "  h_a": lambda: codec.transforms.hyper_latents(y, header.quality),
        "  h_scale, h_mean, context, r": lambda: codec.transforms.code(y, z_hat, header.quality, header.tile),
        "  entropy encoding": lambda: codec.coder.write(symbols, header),
        REFERENCE: lambda: codec.decompress(data),
        "  h_scale": lambda: codec.coder.scale_index(symbols.z, header.quality, header.tile),
        "  h_scale and entropy decoding": lambda: codec.coder.read(contents),
        "  h_mean, context": lambda: codec.transforms.latents(symbols, header.quality),
        "  g_s": lambda: codec.transforms.synthesise(y_hat, header.width, header.height),
    }
    return steps, {"slimcodec": len(data)}


_NETWORK = []


def _compressai(picture: Image.Image) -> tuple[dict[str, Callable], dict[str, int]]:
    """N=128, M=192: quality 4. The weights are random, and the time is that of trained ones but for entropy coding."""
    from compressai.zoo import mbt2018_mean

    if not _NETWORK:
        _NETWORK.append(mbt2018_mean(quality=4, pretrained=False).eval())
        _NETWORK[0].update()
    network = _NETWORK[0]
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    x = torch.nn.functional.pad(x, (0, -x.shape[3] % 64, 0, -x.shape[2] % 64))
    coded = {}

    @torch.inference_mode()
    def encode() -> None:
        coded.update(network.compress(x))

    @torch.inference_mode()
    def decode() -> None:
        network.decompress(coded["strings"], coded["shape"])

    return {"mbt2018_mean encode": encode, "mbt2018_mean decode": decode}, {}


def _pillow(picture: Image.Image) -> tuple[dict[str, Callable], dict[str, int]]:
    steps, sizes = {}, {}
    for name, settings in PILLOW.items():

        def encode(name=name, settings=settings) -> bytes:
            file = io.BytesIO()
            picture.save(file, name, **settings)
            return file.getvalue()

        data = encode()

        def decode(data=data) -> None:
            Image.open(io.BytesIO(data)).load()

        steps |= {f"{name} encode": encode, f"{name} decode": decode}
        sizes[name] = len(data)
    return steps, sizes


def _table(result: dict) -> str:
    milliseconds = result["milliseconds"]
    lines = [
        f"\n### {result['megapixels']:.1f} megapixels, {result['threads']} thread{'s' * (result['threads'] > 1)}, "
        f"median of {result['pictures']}",
        "",
        "| | ms | ns/pixel | × slimcodec decode | bpp |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, value in milliseconds.items():
        label = name if not name.startswith(" ") else f"– {name.strip()}"
        bpp = result["bpp"].get(name.removesuffix(" encode"))
        lines.append(
            f"| {label} | {value:,.1f} | {value / result['megapixels']:,.1f} | "
            f"{value / milliseconds[REFERENCE]:.2f} | {f'{bpp:.2f}' if bpp else ''} |"
        )
    return "\n".join(lines)


def _targets(results: list[dict]) -> str:
    lines = ["", "| threads | Mpixel | mbt2018_mean decode / ours | entropy decoding's share | ns/pixel |",
             "|---:|---:|---:|---:|---:|"]  # fmt: skip
    for result in results:
        ms = result["milliseconds"]
        entropy = (ms["  h_scale and entropy decoding"] - ms["  h_scale"]) / ms[REFERENCE]
        ratio = f"{ms['mbt2018_mean decode'] / ms[REFERENCE]:.1f}" if "mbt2018_mean decode" in ms else "–"
        per_pixel = ms[REFERENCE] / result["megapixels"]
        lines.append(
            f"| {result['threads']} | {result['megapixels']:.1f} | {ratio} | {100 * entropy:.1f} % | {per_pixel:.1f} |"
        )
    return "\n".join(lines)


def _machine() -> dict[str, str]:
    processor = platform.processor() or "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = f"{names[0]}, {len(names)} cores" if names else processor
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "processor": processor,
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
