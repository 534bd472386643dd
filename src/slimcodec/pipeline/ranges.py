"""The kinds of values that settings have, each with its range and the words for what would be right."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, Strict, ValidationError, WrapValidator

from slimcodec.codec.bitstream import MAX_CORRECTIONS, MAX_FILTERS
from slimcodec.codec.grid import CELL

LONGEST_NAME = 100  # characters: a file name may have 255 bytes, and W&B takes 128 characters


def says(message: str) -> WrapValidator:
    """Whatever is wrong with a value, the error says what would be right."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(message) from None

    return WrapValidator(check)


def _quality(value: Any) -> float:
    """As it is: 2 is written without a point."""
    if type(value) not in (int, float) or not 1 <= value < math.inf:
        raise ValueError("must be a number from 1 on")
    return value


def one_of(*names: str, what: str = "") -> WrapValidator:
    """A name among these."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        if value not in names:
            wrong = f"there is no {what} {value!r}; known are" if what else "must be one of"
            raise ValueError(f"{wrong} {', '.join(names)}")
        return handler(value)

    return WrapValidator(check)


Count = Annotated[int, Strict(), Field(ge=1), says("must be a whole number, 1 or more")]
NotNegative = Annotated[int, Strict(), Field(ge=0), says("must be 0 or more")]
Switch = Annotated[bool, Strict(), says("must be true or false")]
Freeze = Annotated[Annotated[bool, Strict()] | Literal["g_a"], says("must be true, false or g_a")]
AsInFiles = Annotated[Annotated[bool, Strict()] | Literal["both", "all"], says("must be true, false, both or all")]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False), says("must be a number above 0")]
Share = Annotated[float, Strict(), Field(ge=0, le=1), says("must be a number from 0 to 1")]
Weight = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False), says("must be a number, 0 or more")]
Quality = Annotated[float, PlainValidator(_quality)]
Text = Annotated[str, Strict(), Field(min_length=1), says("must be a text that is not empty")]
Name = Annotated[
    str,
    Strict(),
    Field(pattern=rf"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]{{0,{LONGEST_NAME - 1}}}$"),
    says(f"must be a name: 1 to {LONGEST_NAME} characters, none of them a slash, and no dot in front"),
]
Corrections = Annotated[
    int,
    Strict(),
    Field(ge=1, le=MAX_CORRECTIONS),
    says(f"must be a whole number from 1 to {MAX_CORRECTIONS}"),
]
Filters = Annotated[
    int,
    Strict(),
    Field(ge=0, le=MAX_FILTERS),
    says(f"must be a whole number from 0 to {MAX_FILTERS}"),
]
Crop = Annotated[
    int,
    Strict(),
    Field(ge=CELL, multiple_of=CELL),
    says(f"must be a multiple of {CELL} pixels"),
]
