"""slimcodec compress | decompress | info | models | evaluate | anchors | report.

Exit codes: 0 done, 1 our fault, 2 bad input, 130 stopped by Ctrl-C, 141 nobody read to the end of what was written.
"""

import argparse
import sys
import warnings

from slimcodec import SlimcodecError, __version__
from slimcodec.cli import anchors, compress, decompress, evaluate, info, models, report, streams
from slimcodec.cli.streams import BAD_INPUT, NOBODY_READS, STOPPED

VERBS = {
    "compress": compress,
    "decompress": decompress,
    "info": info,
    "models": models,
    "evaluate": evaluate,
    "anchors": anchors,
    "report": report,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Bad input ends in one line on stderr and exit code 2."""
    closed = streams.open_closed()
    with streams.checked():
        try:
            return streams.flushed(_run(arguments, closed))
        except SystemExit as ending:  # argparse's, after --help or a wrong option
            sys.exit(streams.flushed(ending.code))


def _run(arguments: list[str] | None, closed: set[str]) -> int:
    options = _options(arguments)
    try:
        streams.require(options, closed)
        with warnings.catch_warnings():
            warnings.showwarning = streams.show_warning
            return options.verb.run(options)
    except BrokenPipeError:
        return NOBODY_READS
    except (SlimcodecError, OSError) as error:
        streams.complain(streams.one_line(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        return STOPPED


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """argparse's, but options may also stand between the INs and OUT."""
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    if more and (not hasattr(options, "inputs") or any(m.startswith("-") and m != streams.STREAM for m in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        *options.inputs, options.output = [*options.inputs, options.output, *more]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slimcodec", description="Learned image compression with a slim decoder.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, module in VERBS.items():
        verb = verbs.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.set_defaults(verb=module)
        module.add_arguments(verb)
    return parser
