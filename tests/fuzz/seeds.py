"""Valid files of every kind. In a module of its own: what it imports takes more memory than the decoder."""

import zlib
from pathlib import Path

import numpy as np
import skimage.data
import torch
from conftest import VARIANTS, save_lively
from PIL import Image

from fuzz.mutations import Seed
from slimcodec.codec import bitstream, inference, models, zoo
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.symbols import Symbols

GOLDEN = Path(__file__).parents[1] / "golden"


def make_seeds(folder: Path) -> tuple[list[inference.Codec], list[Seed]]:
    """Files of every kind, by two lively models and by those in tests/golden, and the codecs that read them."""
    lively, other = (
        inference.load(save_lively(folder / name, Architecture.from_dict(VARIANTS[name])))
        for name in ("four stages", "two stages")
    )
    # As a trained model's, the narrowest scales are not coded.
    skipping = other.model.tables | {"r_skip": torch.tensor([9], dtype=torch.int32)}
    other = inference.load(models.save(folder / "skipping", other.model.codec, skipping, role="student"))
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
