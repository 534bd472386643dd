"""summary.json: all that the figures and the page of a study show, and nothing that a photo is needed for.

    points ──comparison──► Summary ──write──► summary.json ──read──► Summary ──► report

Only this file knows the names in the JSON. They are those of the fields.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from slimcodec import InvalidInput
from slimcodec.codec import json_files
from slimcodec.codec.atomic import write_text
from slimcodec.evaluation.curves import Curve
from slimcodec.evaluation.points import DIGITS, NAMES, Failure

SUMMARY = "summary.json"
REMEDY = "remove it and evaluate again: what is in points.csv is not measured again"


class Data(NamedTuple):
    """The set of photos."""

    name: str
    pictures: list[str]
    sha256: dict[str, str]  # picture → first digits of its file's
    megapixels: float  # of all
    left_out: dict[str, str]  # picture → why it could not be read


class Command(NamedTuple):
    """A command that measured into this study. What is not known is None."""

    date: str | None
    version: str | None
    commit: str | None
    command: str
    processor: str | None


class Machine(NamedTuple):
    cpu: str | None = None
    cores: int | None = None
    memory_gib: float | None = None
    system: str | None = None
    python: str | None = None
    libraries: Mapping[str, str] = {}  # name → version


class Provenance(NamedTuple):
    """How the results were made, by the last command; all commands are in `commands`, the oldest first."""

    date: str | None = None
    version: str | None = None
    commit: str | None = None
    machine: Machine | None = None
    jobs: int | None = None
    threads: int | None = None
    commands: tuple[Command, ...] = ()


class Width(NamedTuple):
    """The channels at a place in the decoder."""

    label: str
    channels: int
    of: int | None  # how many there were before the first round of pruning


class Complexity(NamedTuple):
    encoder_macs_per_pixel: float
    decoder_macs_per_pixel: float
    parameters: int
    encoder: dict[str, float]  # part → MAC/pixel
    decoder: dict[str, float]
    widths: dict[str, Width]

    def parts(self, side: str) -> dict[str, float]:
        """Part → MAC/pixel of the encoder or the decoder."""
        return self.encoder if side == "encoder" else self.decoder


class CodecEntry(NamedTuple):
    """A codec that ran: what it is, and what its points come to."""

    kind: str  # model or anchor
    role: str | None  # of a model: teacher, student, round or rival
    settings: str
    key: str  # of the settings
    complexity: Complexity | None
    weights_sha256: str | None
    qualities: list[float]
    peak_memory_mib: float | None
    pictures: int  # that have every quality
    curves: dict[str, Curve]  # by metric
    encode_ms_per_megapixel: float | None
    decode_ms_per_megapixel: float | None


class QuotedEntry(NamedTuple):
    """A published curve of the same pictures."""

    source: str
    decoder_kmacs_per_pixel: float | None
    curves: dict[str, Curve]


class FixedRange(NamedTuple):
    """A BD-rate over the range that every published curve covers."""

    low: float
    high: float
    percent: float | None
    coverage: float


class BdRateEntry(NamedTuple):
    """A BD-rate with all that has to be known of it. `percent` is None where there is none, for `reason`."""

    percent: float | None
    low: float | None = None  # the range, in the metric's unit
    high: float | None = None
    coverage: float | None = None
    monotonic: bool | None = None
    cubic_percent: float | None = None  # by one polynomial instead of piecewise
    bd_quality: float | None = None  # in the metric's unit
    fixed: FixedRange | None = None
    interval: list[float] | None = None  # ends of the bootstrap's, in per cent
    interval_reason: str | None = None  # why there is none
    pictures_percent: float | None = None  # mean of the pictures' own BD-rates
    pictures: int | None = None  # that have one
    pictures_left_out: dict[str, str] | None = None  # the others → why
    reason: str | None = None


class Summary(NamedTuple):
    data: Data
    provenance: Provenance
    unavailable: dict[str, str]  # metric → why it could not be computed here
    failures: list[Failure]
    target_macs_per_pixel: float | None
    rounds: list[str]  # names of the codecs that are steps of pruning, in their order
    codecs: dict[str, CodecEntry]
    metrics: list[str]
    quoted: dict[str, QuotedEntry]
    anchors: list[str]  # what BD-rates are against, the headline's first
    bd_rate: dict[str, dict[str, dict[str, BdRateEntry]]]  # anchor → codec → metric
    main: str | None = None  # the model that the study is about; None: its last student


# ------------------------------------------------------------------------------------------------------------ as JSON

# Of an entry, what is not there is left out, but for these, where null says something.
ALWAYS = {
    Provenance: set(Provenance._fields),
    CodecEntry: set(CodecEntry._fields) - {"weights_sha256"},
    BdRateEntry: {"percent"},
}


def read(folder: Path) -> Summary:
    """The summary of the study in a folder. Raises InvalidInput when it is missing or damaged."""
    path = folder / SUMMARY
    found = json_files.read(path, remedy=REMEDY if path.is_file() else "run slimcodec evaluate first")
    optional = Summary._field_defaults
    if missing := [name for name in Summary._fields if name not in found and name not in optional]:
        raise InvalidInput(f"{path}: is no summary of a study ({missing[0]} is missing); {REMEDY}")
    try:
        return from_json(found)
    except ValueError as error:
        raise InvalidInput(f"{path}: is damaged ({error}); {REMEDY}") from error


def from_json(values: dict[str, Any]) -> Summary:
    """Raises ValueError, naming the field, where the values are no summary's."""
    made, codecs = values.get("provenance"), values.get("codecs")
    if isinstance(made, dict):
        values = values | {"provenance": _with_commands(made)}
    if isinstance(codecs, dict):
        values = values | {"codecs": {name: _with_weights(entry) for name, entry in codecs.items()}}
    return json_files.record(Summary, values)


def _with_weights(entry: Any) -> Any:
    """Only models have weights."""
    return {"weights_sha256": None} | entry if isinstance(entry, dict) else entry


def _with_commands(made: dict[str, Any]) -> dict[str, Any]:
    """A provenance as it is written now; before, it held the last command alone."""
    found = {name: value for name, value in made.items() if name != "command"}
    if "commands" in made or not made.get("command"):
        return {"commands": []} | found
    last = {name: made.get(name) for name in ("date", "version", "commit", "command")}
    return found | {"commands": [last | {"processor": (made.get("machine") or {}).get("cpu")}]}


def write(summary: Summary, folder: Path) -> None:
    write_text(folder / SUMMARY, to_json(summary))


def to_json(summary: Summary) -> str:
    """The summary as text: six digits after the point, null for what is not finite, lists of numbers on one line."""
    text = json.dumps(plain(summary), indent=1, ensure_ascii=False)
    return re.sub(r'\[\s[^][{}"]*\]', _on_one_line, text) + "\n"


def _on_one_line(numbers: re.Match[str]) -> str:
    return "[" + " ".join(numbers[0][1:-1].split()) + "]"


def plain(value: Any) -> Any:
    """Entries as dicts of what they hold, numbers rounded."""
    if hasattr(value, "_fields"):
        return plain(_fields_of(value))
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value


def _fields_of(entry: Any) -> dict[str, Any]:
    kind, values = type(entry), entry._asdict()
    shown = ALWAYS.get(kind, set(values))
    if kind is BdRateEntry and entry.pictures is not None:
        shown = shown | {"interval", "interval_reason"}  # of these two, one is null
    return {name: value for name, value in values.items() if value is not None or name in shown}


def readable(value: Any) -> Any:
    """The same with every name as people can read it: bytes of a file's name that are no UTF-8 are spelt, as \\xe9."""
    if isinstance(value, str):
        return value.encode("utf-8", NAMES).decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {readable(name): readable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        items = map(readable, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
