"""What the verbs have in common: options, what is written in them, and tables."""

import argparse
from collections.abc import Callable
from typing import Any


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], int], *, help: str, examples: str, prints: bool = False
) -> argparse.ArgumentParser:
    """A verb that calls `run`; `prints` says that it has nowhere to write to but stdout."""
    shape = argparse.RawDescriptionHelpFormatter
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=help, description=help, epilog=examples, formatter_class=shape
    )
    verb.set_defaults(verb=run, prints=prints)
    return verb


def add_files(verb: argparse.ArgumentParser, inputs: str, output: str) -> None:
    verb.add_argument("inputs", nargs="+", metavar="IN", help=inputs)
    verb.add_argument("output", metavar="OUT", help=f"{output}; a folder for several INs")


def add_model(verb: argparse.ArgumentParser, default: str) -> None:
    verb.add_argument("--model", metavar="NAME", help=f"name or directory; default: {default}")
    verb.add_argument(
        "--device", default="cpu", metavar="D", help="where the networks run, such as cuda (default: cpu)"
    )


def add_max_pixels(verb: argparse.ArgumentParser, default: int | None, said: str) -> None:
    help = f"refuse larger pictures (default: {said})"
    verb.add_argument("--max-pixels", type=count, default=default, metavar="N", help=help)


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(number) for number in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 1,2.5,8") from None


def count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def region(text: str) -> tuple[int, int, int, int]:
    try:
        x, y, width, height = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,W,H in pixels, such as 0,0,640,480") from None
    return x, y, width, height


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
