"""Model directories as far as they can be read without tensors: finding one, and what its model.json says.

    model.json            format version, architecture, provenance, figures, sha256 of the weights
    weights.safetensors   all that compressing and decompressing needs, the integer tables and scale path among it;
                          other weights are float32, or float16 where that was asked for when it was saved
    *.onnx                optional: the networks' graphs, for ONNX Runtime; their weights are in weights.safetensors
    training.safetensors  optional: what only further training needs (the prior, h_scale's float weights)
    README.md             the model card, rendered from model.json

codec/models writes them and reads their tensors.
"""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import slimcodec
from slimcodec import InvalidFile, InvalidInput, InvalidModel
from slimcodec.codec import complexity, hub, json_files
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.atomic import write_text
from slimcodec.codec.cards import render_card as render_card
from slimcodec.codec.cards import short as short

FORMAT_VERSION = 2
MAX_BYTES = 4 << 20  # of model.json: those of trained models have some 10 kB, 65,536 channels a megabyte
DESCRIPTION, WEIGHTS, TRAINING, CARD = "model.json", "weights.safetensors", "training.safetensors", "README.md"
DEFAULT_STUDENT = "slim-2k"
GRAPHS = "graphs"  # of model.json, if it has any: name of the network → SHA-256 of its file

# What every model.json holds beside the version of its format.
FIELDS = {
    "slimcodec_version": str,
    "role": str,
    "licence": str,
    "architecture": dict,
    "parameters": int,
    "macs_per_pixel": dict,
    "decoder_macs_per_pixel": int | float,
    "encoder_macs_per_pixel": int | float,
    "weights_sha256": str,
    "teacher": dict | None,
    "git_commit": str | None,
    "configuration": dict,
    "figures": dict,
}


def graph_file(name: str) -> str:
    """The file of a network that ONNX Runtime runs; its weights are those in WEIGHTS."""
    return f"{name}.onnx"


def graphs(directory: Path) -> dict[str, str]:
    """The networks that ONNX Runtime can run, and the SHA-256 of each graph; none if only PyTorch can."""
    found = read_description(directory, count=False).get(GRAPHS, {})
    return found if isinstance(found, dict) else {}


def find(name_or_directory: str | os.PathLike) -> Path:
    """A directory with a model.json, one of that name in a zoo, or one from the Hub for hf://owner/name.

    Else InvalidModel, with the names there are.
    """
    if isinstance(name_or_directory, str) and hub.is_address(name_or_directory):
        found = hub.download(name_or_directory, [DESCRIPTION, WEIGHTS])
        if names := graphs(found):
            hub.download(f"{name_or_directory.partition('@')[0]}@{found.name}", list(map(graph_file, names)))
        return found
    path = Path(name_or_directory)
    for candidate in (path, *(zoo / path for zoo in zoos())):
        if os.path.isfile(candidate / DESCRIPTION):  # unlike Path.is_file, False for names no file can have
            return candidate
    known = ", ".join(sorted(list_models())) or "none"
    raise InvalidModel(f"{name_or_directory}: no model directory (with a {DESCRIPTION}) and no model of that name; "
                       f"known names: {known}")  # fmt: skip


def zoos() -> list[Path]:
    """Folders of models: shipped beside the package, then those of a checkout two folders up."""
    package = Path(slimcodec.__file__).resolve().parent
    folders = [root / zoo for root in (package, package.parents[1]) for zoo in ("students", "teachers")]
    return [folder for folder in folders if folder.is_dir()]


def list_models() -> list[str]:
    """The names of the models that are installed, students first; `load` takes them."""
    return [directory.name for directory in directories()]


def directories() -> list[Path]:
    """Every model directory of the zoos; those still being written have hidden names."""
    return [path.parent for zoo in zoos() for path in sorted(zoo.glob(f"[!.]*/{DESCRIPTION}"))]


def default_student() -> Path:
    """The student called slim-2k, or the only one; InvalidInput, with their names, for several others or none."""
    students = [directory for directory in directories() if directory.parent.name == "students"]
    students = [directory for directory in students if directory.name == DEFAULT_STUDENT] or students
    if len(students) != 1:
        names = ", ".join(directory.name for directory in students) or "none"
        raise InvalidInput(f"name a model (--model, or model= in Python): the students installed are {names}")
    return students[0]


def by_hash(prefix: str) -> Path:
    """The installed model whose weights' SHA-256 begins with these hexadecimal digits, as a .slim file names it.

    Raises InvalidFile, with the hash, when there is none.
    """
    for directory in directories():
        # A damaged neighbour must not stop a file that does not need it.
        with contextlib.suppress(InvalidModel):
            if read_description(directory)["weights_sha256"].startswith(prefix):
                return directory
    raise InvalidFile(
        f"made with model {prefix}, which is not installed; name its directory (--model, or model= in Python)"
    )


def read_description(directory: Path, *, count: bool = True) -> dict[str, Any]:
    """model.json with all of `FIELDS`, and costs that are those of its architecture, unless told not to `count` them.

    Raises InvalidModel, naming the field, when it is damaged or edited.
    """
    path = Path(directory) / DESCRIPTION
    try:
        with open(path, "rb") as file:
            info = json_files.parse(file.read(MAX_BYTES + 1), max_bytes=MAX_BYTES)
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read ({error.strerror}); copy the whole model directory") from error
    except ValueError as error:
        raise InvalidModel(f"{path}: is not JSON ({error}); the file is damaged, copy it again") from error
    version = info.get("format_version") if isinstance(info, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise InvalidModel(f"{path}: format_version is {version}, this slimcodec reads {FORMAT_VERSION}")
    for name, kind in FIELDS.items():
        if name not in info or not isinstance(info[name], kind) or isinstance(info[name], bool):
            raise InvalidModel(f"{path}: {name} is missing or of the wrong type; the file was edited")
    try:
        render_card("", info).encode()  # a card is a file: half a surrogate pair cannot be in one
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidModel(f"{path}: no card can be rendered from it ({error!r}); the file was edited") from error
    if count:
        require_costs(path, info, architecture_of(path, info))
    return info


def architecture_of(path: Path, info: dict[str, Any]) -> Architecture:
    """The architecture in the model.json at `path`. Raises InvalidModel, naming file and field, where it is none."""
    try:
        return Architecture.from_dict(info["architecture"])
    except InvalidModel as error:
        raise InvalidModel(f"{path}: {error}") from error


def require_costs(path: Path, info: dict[str, Any], architecture: Architecture, **more: float) -> None:
    """Raises InvalidModel unless the costs in a model.json, and `more` of its numbers, are those of the architecture.

    They are counted anew: a claim that nobody checks is worth nothing.
    """
    parts = complexity.macs_per_pixel(architecture)
    counted = (
        {
            "decoder_macs_per_pixel": complexity.decoder_macs_per_pixel(architecture),
            "encoder_macs_per_pixel": complexity.encoder_macs_per_pixel(architecture),
        }
        | {f"macs_per_pixel.{part}": macs for part, macs in parts.items()}
        | more
    )
    said = info | {f"macs_per_pixel.{part}": macs for part, macs in info["macs_per_pixel"].items()}
    for name, macs in counted.items():
        if type(said.get(name)) not in (int, float) or not math.isclose(said[name], macs, rel_tol=1e-9):
            raise InvalidModel(
                f"{path}: {name} is {said.get(name)}, but of this architecture it is {macs:,g}; the file was edited"
            )
    if unknown := info["macs_per_pixel"].keys() - parts.keys():
        raise InvalidModel(f"{path}: macs_per_pixel.{min(unknown)}: there is no such part; the file was edited")


def write_description(directory: Path, name: str, info: dict[str, Any]) -> None:
    info = _finite(info)
    write_text(directory / DESCRIPTION, json.dumps(info, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(directory / CARD, render_card(name, info))


def write_card(directory: Path) -> None:
    """Render the card of a model directory anew."""
    write_text(directory / CARD, render_card(directory.name, read_description(directory)))


def _finite(value: Any) -> Any:
    """JSON has no infinity: the PSNR of a picture that came back as it was is null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Described(NamedTuple):
    """What others need to know of a model directory."""

    role: str  # teacher or student
    architecture: Architecture
    parameters: int
    decoder_macs_per_pixel: float
    encoder_macs_per_pixel: float
    weights_sha256: str
    teacher: dict[str, str] | None  # name and sha256
    git_commit: str | None
    configuration: dict[str, Any]  # that it was trained with
    figures: dict[str, Any]


def describe(directory: Path) -> Described:
    """Of a model directory. Raises InvalidModel, naming the field, when it is damaged or edited."""
    info = read_description(directory)
    values = {name: info[name] for name in Described._fields}
    return Described(**values | {"architecture": architecture_of(Path(directory) / DESCRIPTION, info)})
