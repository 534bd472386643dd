"""How far a decoded picture's pixels differ between settings, of the same files, for docs/determinism.md.

    python benchmarks/differences.py MODEL [MODEL …] --photos FOLDER

The reference is float32 on one thread. TF32, which GPUs compute in, is simulated: every operand of a convolution is
rounded to 10 bits. The integers of the files are the same in all settings: tests hold that.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import slimcodec
from slimcodec.codec import isolation
from slimcodec.codec.inference import Codec
from slimcodec.evaluation.metrics import psnr_db
from slimcodec.evaluation.photos import find_photos, open_photo

QUALITIES = 2, 5, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=3)
    options = parser.parse_args()
    photos = [np.asarray(open_photo(path)) for path in find_photos(options.photos, options.limit)]
    print("| compared with float32 on one thread | largest difference | values that differ | PSNR |")
    print("|---|---:|---:|---:|")
    with threads(1):
        codecs = [slimcodec.load(name, backend="torch") for name in options.models]
        coded = [
            (codec, photo, data, np.asarray(codec.decompress(data)))
            for codec in codecs
            for photo in photos
            for data in (codec.compress(photo, quality) for quality in QUALITIES)
        ]
    for name, decode in SETTINGS.items():
        print(row(name, [compared(codec, decode, *case) for codec, *case in coded]), flush=True)


def compared(codec: Codec, decode: Callable, photo: np.ndarray, data: bytes, before: np.ndarray) -> tuple:
    """Largest difference in levels, share of values that differ, change of the PSNR in dB."""
    with threads(1):
        after = decode(codec, data)
    difference = np.abs(after.astype(int) - before)
    return difference.max(), (difference > 0).mean(), psnr_db(photo, after) - psnr_db(photo, before)


def row(name: str, found: list[tuple]) -> str:
    levels, shares, changes = zip(*found, strict=True)
    largest = f"{max(levels)} level{'' if max(levels) == 1 else 's'}"
    percent = " to ".join(f"{100 * share:.3g}" for share in (min(shares), max(shares)))
    return f"| {name} | {largest} | {percent} % | {max(changes, key=abs):+.4f} dB |"


# --- settings -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def two_threads(codec: Codec, data: bytes) -> np.ndarray:
    with threads(2):
        return np.asarray(codec.decompress(data))


def another_layout(codec: Codec, data: bytes) -> np.ndarray:
    codec.network.to(memory_format=torch.contiguous_format)
    picture = np.asarray(codec.decompress(data))
    codec.network.to(memory_format=torch.channels_last)
    return picture


def without_onednn(codec: Codec, data: bytes) -> np.ndarray:
    settings, isolation.SETTINGS = isolation.SETTINGS, []  # which would switch it on again
    torch.backends.mkldnn.enabled = False
    picture = np.asarray(codec.decompress(data))
    torch.backends.mkldnn.enabled, isolation.SETTINGS = True, settings
    return picture


def tf32(codec: Codec, data: bytes) -> np.ndarray:
    layers = [layer for layer in codec.network.modules() if isinstance(layer, torch.nn.Conv2d)]
    exact = [layer.weight.data for layer in layers]
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: tuple(map(ten_bits, inputs))) for layer in layers]
    for layer in layers:
        layer.weight.data = ten_bits(layer.weight.data)
    picture = np.asarray(codec.decompress(data))
    for layer, hook, weight in zip(layers, hooks, exact, strict=True):
        layer.weight.data = weight
        hook.remove()
    return picture


def ten_bits(x: Tensor) -> Tensor:
    """float32 rounded to the 10 bits of TF32's mantissa."""
    return ((x.contiguous().view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32).view_as(x)


def bfloat16(codec: Codec, data: bytes) -> np.ndarray:
    codec.transforms.precision = torch.bfloat16
    picture = np.asarray(codec.decompress(data))
    codec.transforms.precision = None
    return picture


SETTINGS = {
    "two threads": two_threads,
    "another memory layout": another_layout,
    "without oneDNN": without_onednn,
    "convolutions in TF32 (simulated), PyTorch's default on recent NVIDIA GPUs": tf32,
    "bfloat16": bfloat16,
}

if __name__ == "__main__":
    main()
