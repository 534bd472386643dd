"""Reading JSON that may be damaged, edited or hostile: plain values, or one line that names the file and a remedy.

model.json, summary.json, rounds.json, ... ──read──► dicts, lists, strings, finite numbers
"""

import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from slimcodec import InvalidInput

MAX_BYTES = 64 << 20  # none of ours comes near it, and parsed it takes many times as much memory
MAX_DEPTH = 64  # of lists and objects in each other; whatever walks through the values may then call itself
MAX_DIGITS = 18  # of a whole number: it fits 64 bits, and a float

Record = TypeVar("Record", bound=tuple[Any, ...])


def read(path: Path, *, remedy: str, kind: type = dict) -> Any:
    """The object (or the list, by `kind`) in a JSON file.

    Raises InvalidInput, with the file and the remedy, when it cannot be read, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            value = parse(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise InvalidInput(f"{path}: is damaged ({error}); {remedy}") from error
    if not isinstance(value, kind):
        raise InvalidInput(f"{path}: is damaged (no {'list' if kind is list else 'object'}); {remedy}")
    return value


def parse(data: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """The value of JSON in UTF-8.

    Raises ValueError with the reason. Refused are also what standard JSON does not have (NaN, infinity, a name twice),
    numbers beyond 64 bits, values nested deeper than 64, and more than `max_bytes`.
    """
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes:,} bytes")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_number,
            parse_int=_whole_number,
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    _require_shallow(value)
    return value


def record(kind: type[Record], values: Any) -> Record:
    """A NamedTuple from an object that has its fields, each of its type; those with a default may be missing.

    A field may hold other NamedTuples, and lists, tuples and dicts of them. Whole numbers are floats too; true and
    false are no numbers. Raises ValueError, naming the field.
    """
    if not isinstance(values, dict):
        raise ValueError("no object")
    hints = typing.get_type_hints(kind)
    if unknown := values.keys() - hints.keys():
        raise ValueError(f"there is no {min(unknown)}")
    if missing := hints.keys() - values.keys() - _defaults(kind):
        raise ValueError(f"{min(missing)} is missing")
    return kind(**{name: _built(hints[name], value, name) for name, value in values.items()})


def _defaults(kind: Any) -> set[str]:
    return set(kind._field_defaults)


def _built(hint: Any, value: Any, name: str) -> Any:
    """A field's value, with a NamedTuple for every object that is one."""
    inner = typing.get_args(hint)
    if isinstance(value, dict) and typing.get_origin(hint) in (dict, Mapping):
        return {key: _built(inner[1], item, name) for key, item in value.items()}
    if isinstance(value, list) and typing.get_origin(hint) in (list, tuple):  # of one kind of items
        return typing.get_origin(hint)(_built(inner[0], item, name) for item in value)
    for each in inner if isinstance(hint, types.UnionType) else (hint,):
        if isinstance(value, dict) and hasattr(each, "_fields"):
            return _named(each, value, name)
    if not fits(value, hint):
        raise ValueError(f"{name} is of the wrong type")
    return value


def _named(kind: type[Record], value: Any, name: str) -> Record:
    try:
        return record(kind, value)
    except ValueError as error:
        raise ValueError(f"in {name} {error}") from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type such as int, dict[str, float] or str | None. Whole numbers are floats too."""
    inner = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(fits(value, each) for each in inner)
    if typing.get_origin(hint) in (dict, Mapping):
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    return hint is Any or type(value) is hint or (hint is float and type(value) is int)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in found if names.count(name) > 1)!r} is there twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _whole_number(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _require_shallow(value: Any) -> None:
    """Level by level: a function that calls itself would itself fail."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for parent in level if isinstance(parent, dict | list) for item in _items(parent)]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _items(parent: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return parent.values() if isinstance(parent, dict) else parent
