"""Model directories: what training writes and everything else reads. Nothing in them is a pickle.

    model.json            format version, architecture, provenance, figures, sha256 of the weights
    weights.safetensors   all that compressing and decompressing needs, the integer tables and scale path among it
    training.safetensors  optional: what only further training needs (the prior, h_scale's float weights)
    README.md             the model card, rendered from model.json

A directory appears under its name only when it is complete: it is written beside and renamed.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor

import slimcodec
from slimcodec import InvalidModel
from slimcodec.codec.complexity import decoder_macs_per_pixel, encoder_macs_per_pixel, macs_per_pixel
from slimcodec.codec.network import GAIN_UNIT, Architecture, HyperpriorCodec

FORMAT_VERSION = 1
DESCRIPTION, WEIGHTS, TRAINING, CARD = "model.json", "weights.safetensors", "training.safetensors", "README.md"
LICENCE = "BSD-3-Clause, as the code; the training photos keep their own licences and are not contained"
ACCUMULATOR_LIMIT = 2**31
TABLES, SCALE_MASTERS = "tables.", "codec.h_scale."  # prefixes of tensor names

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


class Model(NamedTuple):
    codec: HyperpriorCodec  # in eval mode, on the CPU
    tables: dict[str, Tensor]  # z_frequencies [Q, N, 256], r_frequencies [S], r_sizes [64]: integers
    info: dict[str, Any]  # model.json
    directory: Path

    @property
    def sha256(self) -> str:
        return self.info["weights_sha256"]


def save(
    directory: Path,
    codec: HyperpriorCodec,
    tables: dict[str, Tensor],
    *,
    role: str,
    teacher: dict[str, str] | None = None,
    configuration: dict[str, Any] | None = None,
    figures: dict[str, Any] | None = None,
    training: dict[str, Tensor] | None = None,
    git_commit: str | None = None,
) -> Path:
    """Write a complete model directory, replacing one of that name. `role` is teacher or student.

    Raises InvalidModel, and replaces nothing, when the weights cannot be stored: not finite, or too large.
    """
    directory = Path(directory)
    _check_weights(codec)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in _shipped(codec).items()}
    tensors |= {TABLES + name: table.contiguous().cpu() for name, table in tables.items()}
    (partial / WEIGHTS).write_bytes(serialise_tensors(tensors))  # save_file would make it readable by its owner alone
    if training:
        masters = {SCALE_MASTERS + name: tensor for name, tensor in codec.h_scale.state_dict().items()}
        state = {name: tensor.detach().contiguous().cpu() for name, tensor in (training | masters).items()}
        (partial / TRAINING).write_bytes(serialise_tensors(state))
    info = {
        "format_version": FORMAT_VERSION,
        "slimcodec_version": slimcodec.__version__,
        "role": role,
        "licence": LICENCE,
        "architecture": codec.architecture.to_dict(),
        "parameters": sum(tensor.numel() for tensor in _shipped(codec).values()),
        "macs_per_pixel": macs_per_pixel(codec.architecture),
        "decoder_macs_per_pixel": decoder_macs_per_pixel(codec.architecture),
        "encoder_macs_per_pixel": encoder_macs_per_pixel(codec.architecture),
        "weights_sha256": hashlib.sha256((partial / WEIGHTS).read_bytes()).hexdigest(),
        "teacher": teacher,
        "git_commit": git_commit,
        "configuration": configuration or {},
        "figures": figures or {},
    }
    _write_description(partial, directory.name, info)
    _replace(partial, directory)
    return directory


def add_figures(directory: Path, figures: dict[str, Any]) -> None:
    """Add measured figures to model.json and the card of an existing model directory."""
    directory = Path(directory)
    info = read_description(directory)
    info["figures"] = info["figures"] | figures
    _write_description(directory, directory.name, info)


def copy(source: Path, target: Path) -> None:
    """Copy a model directory; one of that name is replaced when the copy is complete."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    _write_description(partial, target.name, read_description(partial))  # the card bears the directory's name
    _replace(partial, target)


def load(name_or_directory: str | Path) -> Model:
    """Load a model by its name in students/ or teachers/, or by its directory.

    Raises InvalidModel, naming the file or field, when something is missing, damaged, edited or of another version.
    """
    directory = find(name_or_directory)
    info = read_description(directory)
    try:
        architecture = Architecture.from_dict(info["architecture"])
    except InvalidModel as error:
        raise InvalidModel(f"{directory / DESCRIPTION}: {error}") from error
    tensors = _read_tensors(directory / WEIGHTS, info["weights_sha256"])
    tables = _take_prefixed(tensors, TABLES)
    return Model(_build(architecture, tensors, directory / WEIGHTS), tables, info, directory)


def load_training_state(model: Model) -> dict[str, Tensor]:
    """What further training needs: puts h_scale's float weights into `model.codec`, returns the rest (the prior's)."""
    path = model.directory / TRAINING
    if not path.is_file():
        raise InvalidModel(f"{path}: missing; this model can be used, but not trained further or distilled from")
    state = _read_tensors(path)
    before = _shipped(model.codec)
    try:
        model.codec.h_scale.load_state_dict(_take_prefixed(state, SCALE_MASTERS), strict=True)
    except RuntimeError as error:
        raise InvalidModel(f"{path}: does not fit the architecture ({_last_line(error)})") from error
    if changed := _difference(before, _shipped(model.codec)):
        raise InvalidModel(f"{path}: {changed} is not the one in {WEIGHTS}; the two files are of different models")
    return state


def find(name_or_directory: str | Path) -> Path:
    """A directory with a model.json, or one of that name in a zoo; else InvalidModel with the names there are."""
    path = Path(name_or_directory)
    for candidate in (path, *(zoo / path for zoo in zoos())):
        if os.path.isfile(candidate / DESCRIPTION):  # unlike Path.is_file, False for names no file can have
            return candidate
    known = ", ".join(sorted(directory.name for directory in list_models())) or "none"
    raise InvalidModel(f"{name_or_directory}: no model directory (with a {DESCRIPTION}) and no model of that name; "
                       f"known names: {known}")  # fmt: skip


def zoos() -> list[Path]:
    """Folders of models: shipped beside the package, then those of a checkout two folders up."""
    package = Path(slimcodec.__file__).resolve().parent
    folders = [root / zoo for root in (package, package.parents[1]) for zoo in ("students", "teachers")]
    return [folder for folder in folders if folder.is_dir()]


def list_models() -> list[Path]:
    """Every model directory of the zoos; those still being written have hidden names."""
    return [path.parent for zoo in zoos() for path in sorted(zoo.glob(f"[!.]*/{DESCRIPTION}"))]


def render_card(name: str, info: dict[str, Any]) -> str:
    """The model card: everything it says is in model.json."""
    teacher = info["teacher"]
    lines = [
        f"# {name}",
        "",
        f"A slimcodec {info['role']}: {info['decoder_macs_per_pixel']:,.0f} MAC/pixel to decode, "
        f"{info['encoder_macs_per_pixel']:,.0f} to encode, {info['parameters']:,} parameters.",
        "",
        f"- weights: sha256 `{info['weights_sha256'][:16]}…`, licence: {info['licence']}",
        f"- made by: slimcodec {info['slimcodec_version']}, commit {info['git_commit'] or 'unknown'}",
        *([f"- teacher: {teacher['name']} (sha256 `{teacher['sha256'][:16]}…`)"] if teacher else []),
        "",
        "| part | MAC/pixel |",
        "|---|---:|",
        *(f"| {part} | {macs:,.1f} |" for part, macs in info["macs_per_pixel"].items()),
    ]
    for title, figure in info["figures"].items():
        lines += ["", f"## {title}", "", *_figure_lines(figure)]
    return "\n".join(lines) + "\n"


def _figure_lines(figure: Any) -> list[str]:
    """A figure is a dict: its `curve`, if any, becomes a table, everything else a list."""
    if not isinstance(figure, dict):
        return [str(figure)]
    lines = [f"- {key}: {_number(value)}" for key, value in figure.items() if key != "curve"]
    if curve := figure.get("curve"):
        lines += ["", "| quality | bpp | PSNR-RGB (dB) |", "|---:|---:|---:|"]
        rows = zip(curve["quality"], curve["bpp"], curve["psnr_db"], strict=True)
        lines += [f"| {quality:g} | {bpp:.4f} | {psnr:.2f} |" for quality, bpp, psnr in rows]
    return lines


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_number(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " to ".join(_number(item) for item in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _shipped(codec: HyperpriorCodec) -> dict[str, Tensor]:
    """Name → tensor of weights.safetensors: floats but for log_gain (int16) and h_scale (int8, int32)."""
    tensors = {name: t for name, t in codec.state_dict().items() if not name.startswith("h_scale.")}
    tensors["log_gain"] = (codec.log_gain.detach() * GAIN_UNIT).round().to(torch.int16)
    for index, layer in enumerate(codec.h_scale.layers):
        weight, bias, exponent = layer.quantised()
        tensors[f"h_scale.layers.{index}.weight"] = weight.detach().to(torch.int8)
        tensors[f"h_scale.layers.{index}.bias"] = bias.detach().to(torch.int32)
        tensors[f"h_scale.layers.{index}.exponent"] = exponent.to(torch.int32)
    return tensors


def _check_weights(codec: HyperpriorCodec) -> None:
    for name, tensor in codec.state_dict().items():
        if not tensor.isfinite().all():
            raise InvalidModel(f"{name}: holds NaN or infinity, nothing was saved; training has diverged")
    if codec.log_gain.abs().max() * GAIN_UNIT >= 2**15:
        raise InvalidModel("log_gain: does not fit int16, nothing was saved; training has diverged")
    for index, layer in enumerate(codec.h_scale.layers):
        if layer.accumulator_bound() >= ACCUMULATOR_LIMIT:
            raise InvalidModel(
                f"h_scale.layers.{index}: a 32-bit accumulator could overflow; train with smaller weights"
            )


def _build(architecture: Architecture, tensors: dict[str, Tensor], path: Path) -> HyperpriorCodec:
    """A codec from the tensors of weights.safetensors: every one, with its exact shape and type."""
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced anyway
        codec = HyperpriorCodec(architecture).eval()
        expected = _shipped(codec)
    if missing := sorted(set(expected) - set(tensors)):
        raise InvalidModel(f"{path}: tensor {missing[0]} is missing")
    if extra := sorted(set(tensors) - set(expected)):
        raise InvalidModel(f"{path}: tensor {extra[0]} is not part of this architecture")
    for name, wanted in expected.items():
        tensor = tensors[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            found, needed = (f"{tuple(t.shape)} {t.dtype}" for t in (tensor, wanted))
            raise InvalidModel(f"{path}: tensor {name} is {found}, the architecture needs {needed}")
    floats = {name: t for name, t in tensors.items() if not name.startswith("h_scale.")}
    floats["log_gain"] = tensors["log_gain"] / GAIN_UNIT
    codec.to_empty(device="cpu").load_state_dict(floats, strict=False)
    for index, layer in enumerate(codec.h_scale.layers):
        layer.load_quantised(*(tensors[f"h_scale.layers.{index}.{part}"] for part in ("weight", "bias", "exponent")))
    if changed := _difference(_shipped(codec), tensors):
        raise InvalidModel(f"{path}: tensor {changed} holds values that no trained model has; the file was edited")
    return codec


def _difference(before: dict[str, Tensor], after: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that is not the same in both."""
    return next((name for name, tensor in before.items() if not torch.equal(tensor, after[name])), None)


def _take_prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Move the tensors of that prefix into a dict of their own, without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def read_description(directory: Path) -> dict[str, Any]:
    """model.json with all of `FIELDS`. Raises InvalidModel, naming the field, when it is damaged."""
    path = Path(directory) / DESCRIPTION
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InvalidModel(f"{path}: is not JSON ({error}); the file is damaged") from error
    if not isinstance(info, dict) or info.get("format_version") != FORMAT_VERSION:
        found = info.get("format_version") if isinstance(info, dict) else None
        raise InvalidModel(f"{path}: format_version is {found}, this slimcodec reads {FORMAT_VERSION}")
    for name, kind in FIELDS.items():
        if name not in info or not isinstance(info[name], kind):
            raise InvalidModel(f"{path}: {name} is missing or of the wrong type; the file was edited")
    try:
        render_card("", info)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidModel(f"{path}: no card can be rendered from it ({error!r}); the file was edited") from error
    return info


def _write_description(directory: Path, name: str, info: dict[str, Any]) -> None:
    write_text(directory / DESCRIPTION, json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    write_text(directory / CARD, render_card(name, info))


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none: under a temporary name first, then renamed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _replace(partial: Path, directory: Path) -> None:
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    partial.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _read_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file, which must have that hash, if one is given, and no NaN."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidModel(f"{path}: cannot be read ({error.strerror}); copy the whole model directory") from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise InvalidModel(f"{path}: its sha256 is not the one in {DESCRIPTION}; the file is damaged or edited")
    try:
        tensors = parse_tensors(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise InvalidModel(f"{path}: is no safetensors file ({_last_line(error)}); it is damaged") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InvalidModel(f"{path}: tensor {name} holds NaN or infinity")
    return tensors


def _last_line(error: Exception) -> str:
    return str(error).strip().split("\n")[-1].strip()
