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


def add_files(verb: argparse.ArgumentParser, inputs: str, output: str, *, compresses: bool) -> None:
    verb.set_defaults(compresses=compresses)
    verb.add_argument("inputs", nargs="+", metavar="IN", help=f"{inputs}, or with -r a folder; the last may be OUT")
    verb.add_argument("-o", "--output", metavar="OUT", help=f"{output}; a folder for several INs; default: beside IN")
    verb.add_argument("-r", "--recursive", action="store_true", help="take folders, with all their folders")
    there = verb.add_mutually_exclusive_group()
    there.add_argument("-f", "--force", action="store_true", help="overwrite files that are there; else it is refused")
    there.add_argument("-n", "--no-clobber", action="store_true", help="leave out what is there already")
    verb.add_argument("-j", "--jobs", type=count, default=1, metavar="N", help="files at a time (default: 1)")
    said = verb.add_mutually_exclusive_group()
    said.add_argument("-v", "--verbose", action="store_true", help="say what it took, and what came of it")
    said.add_argument("--quiet", action="store_true", help="say nothing but what went wrong")


def speed(done: Any) -> str:
    """Of what compress_file or decompress_file returned."""
    return f"{done.seconds:.2f} s, {done.width * done.height / 1e6 / done.seconds:.2f} MP/s"


def add_model(verb: argparse.ArgumentParser, default: str) -> None:
    verb.add_argument("--model", metavar="NAME", help=f"name or directory; default: {default}")
    verb.add_argument("--device", default="cpu", metavar="D", help="where the networks run: cpu (default), cuda, auto")


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
    if min(x, y) < 0 or min(width, height) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no part of a picture; X and Y are from 0, W and H from 1")
    return x, y, width, height


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
