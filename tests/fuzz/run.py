"""Decode many mutants and keep count; the first that does anything but what it may ends the run."""

import contextlib
import re
import resource
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage.data
import torch
from conftest import VARIANTS, save_lively
from PIL import Image
from tqdm import tqdm

from fuzz.mutations import MAX_PIXELS, Mutant, Seed, declared_size, mutant
from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import bitstream, inference, models, zoo
from slimcodec.codec.network import Architecture
from slimcodec.codec.symbols import Symbols

MAX_SECONDS = 2.0  # of processor time, so that a busy machine changes nothing
GOLDEN = Path(__file__).parents[1] / "golden"
MIB = 1 << 20


class BadMutant(Exception):
    """What must not happen, with how to see it again."""


class Summary(NamedTuple):
    files: int
    pictures: int
    refusals: Counter  # message without its numbers → files
    slowest_seconds: float
    slowest: str
    memory_growth_bytes: int
    seconds: float

    def __str__(self):
        lines = [
            f"{self.files:,} files in {self.seconds:.0f} s: {self.pictures:,} pictures, "
            f"{self.files - self.pictures:,} refusals",
            *(f"{count:8,}  {message}" for message, count in self.refusals.most_common()),
            f"slowest: {self.slowest_seconds:.2f} s ({self.slowest})",
            f"memory growth: {self.memory_growth_bytes / MIB:.0f} MiB",
        ]
        return "\n".join(lines)


def fuzz(codecs: list[inference.Codec], seeds: list[Seed], *, files: range, seed: int, seconds: float) -> Summary:
    """Raises BadMutant. Ends early when the time is up."""
    by_hash = {codec.model_hash: codec for codec in codecs}
    for valid in seeds:  # compiles all there is to compile, and takes the memory that any file takes
        by_hash[valid.model_hash].decompress(valid.data)
    pictures, refusals, slowest = 0, Counter(), (0.0, "none")
    # Forget the peak of what came before. Where that cannot be, growth looks smaller than it is.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    began, before = time.monotonic(), peak_bytes()
    done = 0
    for number in tqdm(files, unit="file", mininterval=0.5, disable=None):
        if time.monotonic() - began > seconds:
            break
        one = mutant(number, seeds, seed=seed)
        message, cost = decode(by_hash[one.model_hash], one, f"seed {seed}, file {number} ({one.how})")
        pictures += message is None
        if message is not None:
            refusals[_without_particulars(message)] += 1
        slowest = max(slowest, (cost, f"file {number}: {one.how}"))
        done += 1
    return Summary(done, pictures, refusals, *slowest, peak_bytes() - before, time.monotonic() - began)


def _without_particulars(message: str) -> str:
    """The same for all files that are refused for the same reason."""
    message = re.sub(r"""b(['"]).*?\1|[0-9a-f]{16}|0x..|\d[\d,.]*""", "#", message)
    return re.sub(r"\(Error.*\)", "(zlib)", message)


def decode(codec: inference.Codec, one: Mutant, name: str) -> tuple[str | None, float]:
    """Why the file is refused, None for a picture, and the seconds of processor time that it took."""
    began, message = time.process_time(), None
    try:
        picture = codec.decompress(one.data, region=one.region, allow_partial=one.allow_partial, max_pixels=MAX_PIXELS)
        check_picture(picture, one, name)
    except InvalidFile as error:
        message = str(error)
    except InvalidInput as error:
        raise BadMutant(f"{name}: region {one.region} was refused: {error}") from error
    except Exception as error:
        raise BadMutant(f"{name}: {type(error).__name__} instead of InvalidFile") from error
    if message is not None and (not message or "\n" in message or len(message) > 300):
        raise BadMutant(f"{name}: the message is not one line: {message!r}")
    cost = time.process_time() - began
    if cost > MAX_SECONDS:
        raise BadMutant(f"{name}: took {cost:.1f} s")
    return message, cost


def check_picture(picture: Image.Image, one: Mutant, name: str) -> None:
    expected = one.region[2:] if one.region else declared_size(one.data)
    mode = ("L" if one.data[5] & 1 else "RGB") + ("A" if one.data[5] & 8 else "")
    if not isinstance(picture, Image.Image) or (picture.size, picture.mode) != (expected, mode):
        raise BadMutant(f"{name}: gives {picture}, expected {mode} {expected}")
    picture.load()


def peak_bytes() -> int:
    """The most resident memory that this process has had."""
    with contextlib.suppress(OSError):  # unlike ru_maxrss not that of the process that started this one
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# --- valid files ----------------------------------------------------------------------------------------------------


def make_seeds(folder: Path) -> tuple[list[inference.Codec], list[Seed]]:
    """Files of every kind, by two lively models and by those in tests/golden, and the codecs that read them."""
    lively, other = (
        inference.load(save_lively(folder / name, Architecture.from_dict(VARIANTS[name])))
        for name in ("four stages", "two stages")
    )
    # As a trained model's, the narrowest scales are not coded.
    skipping = other.model.tables | {"r_skip": torch.tensor([9], dtype=torch.int32)}
    other = inference.load(models.save(folder / "skipping", other.network, skipping, role="student"))
    codecs = [lively, other]
    seeds = [_seed(name, lively, lively.compress(*arguments)) for name, arguments in _pictures().items()]
    seeds += [
        _seed(f"tiled {name}", lively, lively.compress(*arguments, tile=1 + side % 2))
        for side, (name, arguments) in enumerate(_pictures().items())
    ]
    photo = _photo(64, 90)
    seeds += [_seed(f"two stages {tile}", other, other.compress(photo, 2.4, tile=tile)) for tile in (0, 1)]
    seeds += [_seed(f"extreme {tile}", codec, _extreme(codec, tile)) for codec in codecs for tile in (0, 1)]
    for path in sorted(GOLDEN.rglob("*.slim")):
        codec = _golden_codec(path)
        codecs.append(codec)
        seeds.append(_seed(f"golden {path.name}", codec, path.read_bytes()))
    return codecs, seeds


def _extreme(codec: inference.Codec, tile: int) -> bytes:
    """A valid file of integers that no encoder would choose: any z, and residuals as far from 0 as they go."""
    rng = np.random.default_rng(tile)
    architecture = codec.network.architecture
    header = bitstream.Header(codec.model_hash, 90, 70, 256 * architecture.rungs, tile)
    z = rng.integers(-128, 128, (architecture.hypers, 2, 2)).astype(np.int8)
    index = codec.coder.scale_index(z, header.quality, tile)
    r = rng.choice(np.int16([-32768, -32767, -1, 0, 1, 32767]), index.shape)
    r[index < codec.coder.r_tables.skip] = 0
    return bitstream.pack(header, codec.coder.write(Symbols(z, index, r), header))


def _seed(name: str, codec: inference.Codec, data: bytes) -> Seed:
    return Seed(name, data, codec.model_hash, codec.network.architecture.rungs)


def _golden_codec(path: Path) -> inference.Codec:
    """The model that made a golden file: beside it, or in the zoo."""
    model_hash = bitstream.unpack(path.read_bytes()).header.model_hash
    for description in sorted(GOLDEN.rglob("model.json")):
        codec = inference.load(description.parent)
        if codec.model_hash == model_hash:
            return codec
    return inference.load(zoo.by_hash(model_hash.hex()))


def _photo(height: int, width: int) -> np.ndarray:
    return skimage.data.astronaut()[80 : 80 + height, 150 : 150 + width]


def _pictures() -> dict[str, tuple[Image.Image, float]]:
    """Name → picture and quality."""
    photo = Image.fromarray(_photo(100, 130))
    described = photo.copy()
    exif = Image.Exif()
    exif[0x010F] = "camera"
    described.info |= {"exif": exif.tobytes(), "icc_profile": b"\0" * 16 + b"RGB " + zlib.compress(bytes(range(256)))}
    noise = np.random.default_rng(0).integers(0, 256, (40, 70, 4), dtype=np.uint8)
    everything = Image.fromarray(noise).convert("LA")
    everything.info |= {"exif": exif.tobytes(), "icc_profile": b"\0" * 16 + b"GRAY" + b"\0" * 108}
    return {
        "RGB": (photo, 4),
        "lowest quality": (photo, 1),
        "highest quality": (photo.crop((0, 0, 65, 64)), 8),
        "grey": (photo.convert("L"), 3.3),
        "RGBA": (photo.convert("RGBA"), 2),
        "noisy RGBA": (Image.fromarray(noise), 6.50390625),
        "ICC and EXIF": (described, 5),
        "LA, ICC and EXIF": (everything, 2.5),
        "1x1": (photo.crop((0, 0, 1, 1)), 4),
        "300x1": (photo.resize((300, 1)), 7),
        "flat": (Image.new("RGB", (70, 50), (200, 30, 90)), 1.5),
    }
