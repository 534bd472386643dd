"""The command line: slimcodec VERB, with a file for each of VERBS.

Exit codes: 0 done, 1 our fault, 2 bad input, 130 stopped by Ctrl-C, 141 nobody read to the end of what was written.
"""

import argparse
import sys
import warnings
from collections.abc import Iterable
from importlib import import_module

from slimcodec import SlimcodecError, __version__
from slimcodec.cli.plan import split
from slimcodec.cli.streams import (
    BAD_INPUT,
    NOBODY_READS,
    STOPPED,
    checked_streams,
    complain,
    flushed,
    one_line,
    open_closed_streams,
    require_streams,
    show_warning,
)

VERBS = (
    "compress", "decompress", "info", "models", "evaluate", "anchors", "report", "shards", "export", "completion"
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; bad input ends in one line on stderr and exit code 2."""
    closed = open_closed_streams()
    with checked_streams():
        try:
            return flushed(run_verb(arguments, closed))
        except SystemExit as ending:  # argparse's, after --help or a wrong option
            sys.exit(flushed(ending.code))


def run_verb(arguments: list[str] | None, closed: set[str]) -> int:
    try:
        options = read_options(sys.argv[1:] if arguments is None else arguments)
        require_streams(options, closed)
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            code: int = options.verb(options)
            return code
    except BrokenPipeError:
        return NOBODY_READS
    except (SlimcodecError, OSError) as error:
        complain(one_line(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        return STOPPED


def read_options(arguments: list[str]) -> argparse.Namespace:
    """A verb's own parser reads what follows: its usage is the one that helps. Options may stand between names."""
    name, *rest = arguments or [""]
    if name not in VERBS:
        build_parsers()[0].parse_args(arguments)  # --help, --version, or an error
    options: argparse.Namespace = build_parsers([name])[1][name].parse_intermixed_args(rest)
    options.arguments = arguments
    if hasattr(options, "compresses"):
        options.inputs, options.output = split(options.inputs, options.output, compresses=options.compresses)
    return options


def build_parsers(
    names: Iterable[str] = VERBS,
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """That of the command line, and those of its verbs. A verb that is not among the names is not even imported."""
    parser = argparse.ArgumentParser(prog="slimcodec", description="Learned image compression with a slim decoder.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name in names:
        import_module(f"slimcodec.cli.{name}").add(verbs)
    return parser, verbs.choices
