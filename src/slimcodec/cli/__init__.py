"""The command line: slimcodec compress | decompress | info | models | evaluate | anchors | report | shards | export.

Exit codes: 0 done, 1 our fault, 2 bad input, 130 stopped by Ctrl-C, 141 nobody read to the end of what was written.
"""

import argparse
import sys
import warnings

from slimcodec import SlimcodecError, __version__
from slimcodec.cli import anchors, compress, decompress, evaluate, export, info, models, report, shards
from slimcodec.cli.streams import (
    BAD_INPUT,
    NOBODY_READS,
    STOPPED,
    STREAM,
    checked_streams,
    complain,
    flushed,
    one_line,
    open_closed_streams,
    require_streams,
    show_warning,
)

VERBS = compress, decompress, info, models, evaluate, anchors, report, shards, export


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; bad input ends in one line on stderr and exit code 2."""
    closed = open_closed_streams()
    with checked_streams():
        try:
            return flushed(run_verb(arguments, closed))
        except SystemExit as ending:  # argparse's, after --help or a wrong option
            sys.exit(flushed(ending.code))


def run_verb(arguments: list[str] | None, closed: set[str]) -> int:
    options = read_options(arguments)
    try:
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


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """argparse's, but options may also stand between the INs and OUT."""
    parser = build_parser()
    options, more = parser.parse_known_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    if more and (not hasattr(options, "inputs") or any(m.startswith("-") and m != STREAM for m in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        *options.inputs, options.output = [*options.inputs, options.output, *more]
    return options


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slimcodec", description="Learned image compression with a slim decoder.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    return parser
