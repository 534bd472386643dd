"""A model directory as a codec that can be measured beside the others."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from slimcodec import __version__
from slimcodec.codec import zoo

if TYPE_CHECKING:
    from slimcodec.codec.inference import Codec

QUALITIES = tuple(range(1, 9))


@dataclass(frozen=True)
class ModelCodec:
    """A model directory as a codec that `points.measure` takes. Workers load it when they first need it."""

    name: str
    directory: Path
    weights_sha256: str
    role: str  # teacher, student, round, or rival: beside those that the study is about
    effort: int = 0
    device: str = "cpu"
    qualities: tuple[float, ...] = QUALITIES
    kind: str = "model"

    @classmethod
    def find(
        cls,
        name_or_directory: str | Path,
        *,
        name: str | None = None,
        role: str | None = None,
        effort: int = 0,
        **settings: Any,
    ) -> "ModelCodec":
        """Of a model in the zoos, or of a directory. Raises InvalidModel where there is none."""
        directory = zoo.find(name_or_directory)
        described = zoo.describe(directory)
        name = name or directory.resolve().name
        return cls(
            name=f"{name} effort {effort}" if effort else name,
            directory=directory,
            weights_sha256=described.weights_sha256,
            role=role or described.role,
            effort=effort,
            **settings,
        )

    @property
    def settings(self) -> str:
        return (
            f"slimcodec {code_version()}, weights {zoo.short(self.weights_sha256)}, effort {self.effort}, {self.device}"
        )

    def compress(self, picture: Image.Image, quality: float) -> bytes:
        return _loaded(self.directory, self.weights_sha256, self.device).compress(
            picture, quality, effort=self.effort, strip=True
        )

    def decompress(self, data: bytes) -> Image.Image:
        return _loaded(self.directory, self.weights_sha256, self.device).decompress(data)


@cache
def _loaded(directory: Path, weights_sha256: str, device: str) -> "Codec":
    from slimcodec.codec.inference import load  # late: it imports torch

    return load(directory, device)


@cache
def code_version() -> str:
    """The package's version, and digits of the codec's source: another one may write other files."""
    sources = sorted(Path(zoo.__file__).parent.glob("*.py"))
    return f"{__version__}+{hashlib.sha256(b''.join(path.read_bytes() for path in sources)).hexdigest()[:8]}"


def with_steps(
    codecs: Sequence[ModelCodec], teacher: Path | None, steps: Sequence[tuple[str, Path]], **settings: Any
) -> tuple[list[ModelCodec], list[str]]:
    """These models and those of a run: its teacher, and its student at every step, by name and model directory.

    Beside them the names of the steps in their order. What has the same weights is not taken twice.
    """
    found = list(codecs)
    if teacher:
        _add(found, ModelCodec.find(teacher, **settings))
    return found, [_add(found, ModelCodec.find(path, name=name, role="round", **settings)) for name, path in steps]


def _add(codecs: list[ModelCodec], codec: ModelCodec) -> str:
    """Add it unless it is there already; the name that it has in the list."""
    for known in codecs:
        if known.settings == codec.settings:
            return known.name
    codecs.append(codec)
    return codec.name
