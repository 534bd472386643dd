"""Model directories: what training writes and everything else reads. Nothing in them is a pickle.

What is in one, and what of it can be read without tensors, is in codec/zoo. A directory appears under its name only
when it is complete: it is written beside and renamed.
"""

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialise_tensors
from torch import Tensor

import slimcodec
from slimcodec import InvalidModel
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.atomic import write_text  # noqa: F401 - as what is imported from zoo
from slimcodec.codec.cards import render_card as render_card
from slimcodec.codec.complexity import decoder_macs_per_pixel, encoder_macs_per_pixel, macs_per_pixel
from slimcodec.codec.fixed import FixedConv2d
from slimcodec.codec.isolation import isolated
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.codec.stored import read_checked
from slimcodec.codec.torch_networks import TorchNetworks
from slimcodec.codec.transforms import Transforms
from slimcodec.codec.units import GAIN_UNIT, SUM_LIMIT
from slimcodec.codec.zoo import (  # noqa: F401 - who needs tensors too has the rest of a directory through here
    CARD,
    DESCRIPTION,
    FIELDS,
    FORMAT_VERSION,
    GRAPHS,
    TRAINING,
    WEIGHTS,
    architecture_of,
    find,
    graph_file,
    read_description,
    require_costs,
    write_description,
)

LICENCE = "BSD-3-Clause, as the code; the training photos keep their own licences and are not contained"
ACCUMULATOR_LIMIT = 2**31
LEAST_LOG_GAIN = -75.0  # index steps: steps of residuals are below 2^14, and their products with integers exact
MAX_TABLE_BYTES = 64 << 20  # of the probability tables and the names in a weights file
TABLES, SCALE_MASTERS = "tables.", "codec.h_scale."  # prefixes of tensor names


class Model(NamedTuple):
    codec: HyperpriorCodec  # in eval mode, on the CPU
    tables: dict[str, Tensor]  # codec/symbols has their names: integers, but for head_basis
    info: dict[str, Any]  # model.json
    directory: Path

    @property
    def sha256(self) -> str:
        return self.info["weights_sha256"]

    def transforms(self, device: str | torch.device = "cpu", precision: str = "float32") -> Transforms:
        """Raises InvalidInput for a device or precision that cannot be used, InvalidModel for tables that are none."""
        tables = {name: table.numpy() for name, table in self.tables.items()}
        run = partial(TorchNetworks, self.codec, device=device, precision=precision)
        return Transforms(run, self.codec.scales(), tables, self.directory, self.sha256)

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, to which the tables' uint16 mean nothing."""
        tensors = self.codec.state_dict() | {TABLES + name: table for name, table in self.tables.items()}
        data = serialise_tensors({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()})
        return _unpickled, (self.codec.architecture, data, self.info, self.directory)


@isolated
def _unpickled(architecture: Architecture, data: bytes, info: dict[str, Any], directory: Path) -> Model:
    tensors = parse_tensors(data)
    tables = _take_prefixed(tensors, TABLES)
    codec = HyperpriorCodec(architecture, initialise=False, device="meta").eval()
    codec.load_state_dict(tensors, assign=True)
    return Model(codec, tables, info, directory)


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
    half: bool = False,
) -> Path:
    """Write a complete model directory, replacing one of that name. `role` is teacher or student.

    `half` stores float weights in 16 bits; whoever loads them computes with these values in 32.
    Raises InvalidModel, and replaces nothing, when the weights cannot be stored: not finite, or too large.
    """
    directory = Path(directory)
    _check_weights(codec, half=half)
    with _appearing(directory) as partial:
        _write_tensors(partial, codec, tables, training, half=half)
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
        write_description(partial, directory.name, info)
    return directory


def _write_tensors(
    partial: Path, codec: HyperpriorCodec, tables: dict[str, Tensor], training: dict[str, Tensor] | None, *, half: bool
) -> None:
    """weights.safetensors, and training.safetensors where there is a training state."""
    tensors = _halved(_shipped(codec), half=half) | _halved({TABLES + name: t for name, t in tables.items()}, half=half)
    (partial / WEIGHTS).write_bytes(serialise_tensors(tensors))  # save_file would make it readable by its owner alone
    if training:
        masters = {SCALE_MASTERS + name: tensor for name, tensor in codec.h_scale.state_dict().items()}
        state = {name: tensor.detach().contiguous().cpu() for name, tensor in (training | masters).items()}
        (partial / TRAINING).write_bytes(serialise_tensors(state))


def _halved(tensors: dict[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    """Tensors as a file holds them; `half`: floats in 16 bits."""
    stored = {name: t.half() if half and t.dtype == torch.float32 else t for name, t in tensors.items()}
    return {name: tensor.contiguous().cpu() for name, tensor in stored.items()}


def add_figures(directory: Path, figures: dict[str, Any]) -> None:
    """Add measured figures to model.json and the card of an existing model directory."""
    directory = Path(directory)
    info = read_description(directory)
    info["figures"] = info["figures"] | figures
    write_description(directory, directory.name, info)


def copy(source: Path, target: Path) -> None:
    """Copy a model directory; one of that name is replaced when the copy is complete."""
    with _appearing(target) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)
        write_description(partial, target.name, read_description(partial))  # the card bears the directory's name


def copy_with_tables(
    source: Path, target: Path, tables: dict[str, Tensor], *, log_gain: Tensor | None = None, **fields: Any
) -> None:
    """Copy a model directory with other tables; weights and training state stay as they are, bit for bit.

    `fields` are others of its description than it had, `log_gain` other gains [Q, M], in scale-index steps. Figures
    that were measured with its tables are dropped.
    """
    tensors = _read_tensors(source / WEIGHTS)
    half = any(tensor.dtype == torch.float16 for tensor in tensors.values())
    _take_prefixed(tensors, TABLES)
    if log_gain is not None:
        tensors["log_gain"] = _gains(log_gain)
    data = serialise_tensors(tensors | _halved({TABLES + name: t for name, t in tables.items()}, half=half))
    ignore = shutil.ignore_patterns(graph_file("*"))  # which say where the weights were in the file that this replaces
    with _appearing(target) as partial:
        # Not its mode: it is new.
        shutil.copytree(source, partial, dirs_exist_ok=True, copy_function=shutil.copyfile, ignore=ignore)
        (partial / WEIGHTS).write_bytes(data)
        fields |= {"weights_sha256": hashlib.sha256(data).hexdigest(), "figures": {}}
        info = read_description(partial) | fields
        info.pop(GRAPHS, None)
        write_description(partial, target.name, info)


@isolated
def load(name_or_directory: str | Path) -> Model:
    """Load a model by its name in students/ or teachers/, or by its directory.

    Raises InvalidModel, naming the file or field, when something is missing, damaged, edited or of another version.
    """
    directory = find(name_or_directory)
    path, info = directory / DESCRIPTION, read_description(directory, count=False)
    architecture = architecture_of(path, info)
    # No memory for weights that are replaced anyway, and whose sizes may be nonsense.
    codec = HyperpriorCodec(architecture, initialise=False, device="meta").eval()
    expected = _layout(codec)
    parameters = sum(tensor.shape.numel() for tensor in expected.values())
    most = 4 * parameters + MAX_TABLE_BYTES
    tensors = _read_tensors(directory / WEIGHTS, info["weights_sha256"], max_bytes=most)
    tensors = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    tables = _take_prefixed(tensors, TABLES)
    codec = _filled(codec, expected, tensors, directory / WEIGHTS)
    require_costs(path, info, architecture, parameters=parameters)
    return Model(codec, tables, info, directory)


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


def _gains(log_gain: Tensor) -> Tensor:
    """As a file of weights has them."""
    return (log_gain.detach() * GAIN_UNIT).round().to(torch.int16)


def _shipped(codec: HyperpriorCodec) -> dict[str, Tensor]:
    """Name → tensor of weights.safetensors: floats but for log_gain (int16) and h_scale (int8, int32)."""
    tensors = {name: t for name, t in codec.state_dict().items() if not name.startswith("h_scale.")}
    tensors["log_gain"] = _gains(codec.log_gain)
    for index, layer in enumerate(codec.h_scale.integer_layers):
        weight, bias, exponent = layer.quantised()
        tensors[f"h_scale.layers.{index}.weight"] = weight.detach().to(torch.int8)
        tensors[f"h_scale.layers.{index}.bias"] = bias.detach().to(torch.int32)
        tensors[f"h_scale.layers.{index}.exponent"] = exponent.to(torch.int32)
    for name, fixed in _fixed_layers(codec):
        weight, bias = fixed.quantised()
        tensors[f"{name}.weight"] = weight.detach().to(torch.int16)
        tensors[f"{name}.bias"] = bias.detach().to(torch.int32)
    return tensors


def _fixed_layers(codec: HyperpriorCodec) -> list[tuple[str, FixedConv2d]]:
    """Those of a decoder in integers, by their names."""
    return [(name, module) for name, module in codec.named_modules() if isinstance(module, FixedConv2d)]


class _Tensor(NamedTuple):
    shape: torch.Size
    dtype: torch.dtype


def _layout(codec: HyperpriorCodec) -> dict[str, _Tensor]:
    """What `_shipped` holds, without computing it: on the meta device that would take PyTorch seconds to prepare."""
    integers = {"weight": torch.int8, "bias": torch.int32}
    layout = {}
    for name, tensor in codec.state_dict().items():
        dtype = integers[name.rsplit(".")[-1]] if name.startswith("h_scale.") else tensor.dtype
        layout[name] = _Tensor(tensor.shape, torch.int16 if name == "log_gain" else dtype)
    for name, fixed in _fixed_layers(codec):
        layout[f"{name}.weight"] = _Tensor(fixed.weight.shape, torch.int16)
        layout[f"{name}.bias"] = _Tensor(fixed.bias.shape, torch.int32)
    layers = range(len(codec.h_scale.integer_layers))
    return layout | {f"h_scale.layers.{layer}.exponent": _Tensor(torch.Size(), torch.int32) for layer in layers}


def _check_weights(codec: HyperpriorCodec, *, half: bool) -> None:
    for name, tensor in codec.state_dict().items():
        if not (tensor.half() if half else tensor).isfinite().all():
            raise InvalidModel(f"{name}: holds NaN or infinity, nothing was saved; training has diverged")
    if codec.log_gain.abs().max() * GAIN_UNIT >= 2**15:
        raise InvalidModel("log_gain: does not fit int16, nothing was saved; training has diverged")
    for index, layer in enumerate(codec.h_scale.integer_layers):
        if layer.accumulator_bound() >= ACCUMULATOR_LIMIT:
            raise InvalidModel(
                f"h_scale.layers.{index}: a 32-bit accumulator could overflow; train with smaller weights"
            )
    _check_integers(codec)


def _check_integers(codec: HyperpriorCodec) -> None:
    """Of the decoder: that it gives the same everywhere."""
    for name, layer in _fixed_layers(codec):
        if layer.sum_bound().max() >= SUM_LIMIT:
            raise InvalidModel(
                f"{name}: a sum could reach 2^24, where floats are not exact; train with smaller weights"
            )
    if codec.architecture.in_integers and codec.log_gain.min() < LEAST_LOG_GAIN:
        raise InvalidModel("log_gain: a step of a residual is too large for a decoder in integers")


def _filled(
    codec: HyperpriorCodec, expected: dict[str, _Tensor], tensors: dict[str, Tensor], path: Path
) -> HyperpriorCodec:
    """The codec with the tensors of weights.safetensors: every one, with its exact shape and type."""
    if missing := sorted(set(expected) - set(tensors)):
        raise InvalidModel(f"{path}: tensor {missing[0]} is missing")
    if extra := sorted(set(tensors) - set(expected)):
        raise InvalidModel(f"{path}: tensor {extra[0]} is not part of this architecture")
    for name, wanted in expected.items():
        found = _Tensor(tensors[name].shape, tensors[name].dtype)
        if found != wanted:
            has, needs = (f"{tuple(t.shape)} {t.dtype}" for t in (found, wanted))
            raise InvalidModel(f"{path}: tensor {name} is {has}, the architecture needs {needs}")
    floats = {name: tensors.get(name, t) for name, t in codec.state_dict().items()}
    layers = _fixed_layers(codec)
    integers = "h_scale.", *(f"{name}." for name, _ in layers)
    masters = {name: t.shape for name, t in floats.items() if name.startswith(integers) and "shift" not in name}
    floats |= {name: torch.empty(shape, dtype=torch.float32, device="cpu") for name, shape in masters.items()}
    floats["log_gain"] = tensors["log_gain"].float() / GAIN_UNIT
    codec.load_state_dict(floats, assign=True)
    for index, layer in enumerate(codec.h_scale.integer_layers):
        layer.load_quantised(*(tensors[f"h_scale.layers.{index}.{part}"] for part in ("weight", "bias", "exponent")))
    for name, fixed in layers:
        fixed.load_quantised(*(tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift")))
    if changed := _difference(_shipped(codec), tensors):
        raise InvalidModel(f"{path}: tensor {changed} holds values that no trained model has; the file was edited")
    return codec


def _difference(before: dict[str, Tensor], after: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that is not the same in both."""
    return next((name for name, tensor in before.items() if not torch.equal(tensor, after[name])), None)


def _take_prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Move the tensors of that prefix into a dict of their own, without it."""
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


@contextmanager
def _appearing(directory: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `directory` when it is complete; after an error nothing is left.

    Raises OSError with the directory's name: that of a full disk has none.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        _replace(partial, directory)
    except shutil.Error as error:  # of copytree: a list of what went wrong, each with its reason
        raise OSError(errno.EIO, f"cannot be copied to: {error.args[0][0][-1]}", str(directory)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(directory)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(partial: Path, directory: Path) -> None:
    old = directory.with_name(f".{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    partial.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _read_tensors(path: Path, sha256: str | None = None, max_bytes: int | None = None) -> dict[str, Tensor]:
    """The tensors of a file, which must have that hash, if one is given, no more bytes, and no NaN."""
    data = read_checked(path, sha256, max_bytes)
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
