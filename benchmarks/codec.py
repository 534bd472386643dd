"""Decoding time of a model, entropy coding and networks apart, beside CompressAI's mbt2018_mean and Pillow's formats.

    python benchmarks/codec.py MODEL [--picture FILE] [--threads 2] [--repeats 5]

Everything is measured in turn in one process: the ratios mean more than the milliseconds, which depend on the machine.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

import slimcodec
from slimcodec.codec import bitstream
from slimcodec.evaluation.curves import open_photo

SIZE = (768, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--picture", help="default: scikit-image's astronaut, resized to 768x512")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    picture = open_photo(options.picture) if options.picture else _astronaut()
    timed = {**_slimcodec(options.model, picture), **_compressai(picture), **_pillow(picture)}
    milliseconds = _medians(timed, options.repeats)
    ours = milliseconds["slimcodec decode"]
    print(f"{picture.width}x{picture.height}, {options.threads} threads, median of {options.repeats}")
    for name, value in milliseconds.items():
        print(f"{name:<34} {value:9.1f} ms  {value / ours:7.2f} × slimcodec decode")


def _astronaut() -> Image.Image:
    from skimage.data import astronaut

    return Image.fromarray(astronaut()).resize(SIZE, Image.Resampling.LANCZOS)


def _slimcodec(model: str, picture: Image.Image) -> dict[str, Callable]:
    codec = slimcodec.load(model)
    data = codec.compress(picture, 4)
    header, payload = bitstream.unpack(data)
    place = header.width, header.height, header.quality
    symbols = codec.read_symbols(payload, *place)
    return {
        "slimcodec encode": lambda: codec.compress(picture, 4),
        "slimcodec decode": lambda: codec.decompress(data),
        "  scale path and entropy decoding": lambda: codec.read_symbols(payload, *place),
        "  h_mean, context and g_s": lambda: codec.decode(symbols, *place),
    }


def _compressai(picture: Image.Image) -> dict[str, Callable]:
    from compressai.zoo import mbt2018_mean

    network = mbt2018_mean(quality=4, pretrained=False).eval()  # random weights: the time is that of trained ones
    network.update()
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255

    @torch.inference_mode()
    def encode():
        return network.compress(x)

    @torch.inference_mode()
    def decode(coded=encode()):  # noqa: B008 - encoded once, outside the timing
        return network.decompress(coded["strings"], coded["shape"])

    return {"mbt2018_mean encode": encode, "mbt2018_mean decode": decode}


def _pillow(picture: Image.Image) -> dict[str, Callable]:
    timed = {}
    for name in ("JPEG", "WEBP", "AVIF"):

        def encode(name=name) -> bytes:
            file = io.BytesIO()
            picture.save(file, name, quality=75)
            return file.getvalue()

        def decode(data=encode()) -> None:  # noqa: B008 - likewise
            Image.open(io.BytesIO(data)).load()

        timed |= {f"{name} encode": encode, f"{name} decode": decode}
    return timed


def _medians(timed: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Milliseconds by name; the rounds are interleaved so that a slow moment of the machine hits all alike."""
    seconds = {name: [] for name in timed}
    for repeat in range(repeats + 1):
        for name, function in timed.items():
            began = time.perf_counter()
            function()
            if repeat:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
