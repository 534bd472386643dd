"""What evaluate, anchors and report have in common: a study of codecs on a folder of photos."""

import argparse
import contextlib
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimcodec import InvalidInput
from slimcodec.cli.options import count, names, numbers, table
from slimcodec.cli.streams import BAD_INPUT, complain, write

if TYPE_CHECKING:
    from slimcodec.evaluation.summary import BdRateEntry, Summary


def add_study(verb: argparse.ArgumentParser, codecs: str, qualities: str) -> None:
    verb.add_argument("data", metavar="DATA", help="a folder of photos")
    verb.add_argument("--out", required=True, metavar="DIR", help="where the results go; what is there is not redone")
    verb.add_argument(
        "--codec", type=names, default=codecs, metavar="A,B", help="other codecs and models (default: %(default)s)"
    )
    add_commands(verb)
    verb.add_argument("--qualities", type=numbers, metavar="Q,Q", help=f"default: {qualities}")
    verb.add_argument(
        "--metrics",
        type=names,
        default="psnr,ms_ssim,aad",
        metavar="M,M",
        help="groups or names; jpeg_ai is JPEG AI's seven (default: %(default)s)",
    )
    verb.add_argument("--limit", type=count, metavar="N", help="only the first N pictures")
    verb.add_argument(
        "--jobs", type=count, metavar="N", help="processes at a time (default: one a core; one on another device)"
    )


def add_commands(verb: argparse.ArgumentParser) -> None:
    """A codec of the user's own. The options may be repeated, in the same order."""
    verb.add_argument(
        "--codec-command",
        action="append",
        nargs=2,
        default=[],
        metavar=("ENC", "DEC"),
        help="a codec as two commands: 'enc {in} {out} {q}' 'dec {in} {out}', PNG in and PNG out; may be repeated",
    )
    verb.add_argument("--command-name", action="append", default=[], metavar="NAME", help="what that codec is called")
    verb.add_argument("--command-qualities", action="append", type=numbers, default=[], metavar="Q,Q", help="its {q}s")
    verb.add_argument(
        "--command-seconds", type=count, default=600, metavar="S", help="that a command may take (default: %(default)s)"
    )


@contextlib.contextmanager
def extra_packages(what: str = "measuring") -> Iterator[None]:
    """What a user who only compresses pictures has not installed is asked for in one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "slimcodec":
            raise
        raise InvalidInput(
            f"{what} needs {error.name}, which is not installed: pip install 'slimcodec[eval]'"
        ) from error


def find_rivals(options: argparse.Namespace, beside: Sequence[Any] = (), **settings: Any) -> list[Any]:
    """The other codecs that are asked for. `beside` are the models to measure, which are not taken twice."""
    from slimcodec.evaluation import rivals

    return [*rivals.find(options.codec, beside, **settings), *_command_codecs(options)]


def _command_codecs(options: argparse.Namespace) -> Iterator[Any]:
    from slimcodec.evaluation.commands import command_codec

    pairs, names, ladders = options.codec_command, options.command_name, options.command_qualities
    if not len(pairs) == len(names) == len(ladders):
        counts = f"{len(pairs)} --codec-command, {len(names)} --command-name and {len(ladders)} --command-qualities"
        raise InvalidInput(f"a codec as two commands takes a name and its qualities, but there are {counts}")
    for (encode, decode), name, qualities in zip(pairs, names, ladders, strict=True):
        yield command_codec(encode, decode, name=name, qualities=qualities, seconds=options.command_seconds)


def measure(options: argparse.Namespace, codecs: list[Any], **settings: Any) -> int:
    """Measure, and say in a few lines what came of it."""
    from slimcodec.evaluation.photos import find_photos
    from slimcodec.report import study

    out = Path(options.out)
    summary = study.evaluate(
        codecs,
        find_photos(options.data, options.limit),
        out,
        name=Path(options.data).resolve().name,
        metrics=options.metrics,
        jobs=options.jobs or default_jobs(codecs),
        command=shlex.join(["slimcodec", *options.arguments]),
        **settings,
    )
    write(_study_lines(summary))
    for line in _troubles(summary):
        complain(line)
    write(f"{out / study.PAGE}")
    return BAD_INPUT if summary.failures or summary.data.left_out else 0


def default_jobs(codecs: list[Any]) -> int:
    """One a core; but where a model runs on another device, one: processes would each take a share of its memory."""
    return os.cpu_count() or 1 if all(getattr(codec, "device", "cpu") == "cpu" for codec in codecs) else 1


def _study_lines(summary: "Summary") -> str:
    """A table of the BD-rates by RGB PSNR, with the range that they are over."""
    from slimcodec.evaluation.metrics import PSNR

    anchors = summary.anchors
    rows = [("codec", "decoder kMAC/pixel", *(f"BD-rate against {name}" for name in anchors))]
    for name, codec in summary.codecs.items():
        macs = codec.complexity and f"{codec.complexity.decoder_macs_per_pixel / 1000:.2f}"
        entries = [summary.bd_rate[anchor].get(name, {}).get(PSNR) for anchor in anchors]
        rows.append((name, macs or "", *map(_bd_rate, entries)))
    return table(rows)


def _bd_rate(entry: "BdRateEntry | None") -> str:
    if entry is None or entry.percent is None:
        return "–"
    return f"{entry.percent:+.1f} % ({entry.low:.1f} to {entry.high:.1f} dB)"


def _troubles(summary: "Summary") -> Iterator[str]:
    """What could not be done, a line each; why a BD-rate is missing, once per codec."""
    from slimcodec.evaluation.metrics import PSNR

    yield from (f"left out: {reason}" for reason in summary.data.left_out.values())
    yield from (f"metric {name}: {reason}" for name, reason in summary.unavailable.items())
    failures = defaultdict(list)
    for failure in summary.failures:
        place = " at ".join(str(part) for part in (failure.picture, failure.quality) if part not in ("", None))
        failures[failure.codec, failure.reason].append(place)
    for (codec, reason), (place, *more) in failures.items():
        where = f" ({place}{f' and {len(more)} more' if more else ''})" if place else ""
        yield f"{codec}{where}: {reason}"
    for anchor, of_codecs in summary.bd_rate.items():
        for name, of_metrics in of_codecs.items():
            entry = of_metrics.get(PSNR)
            if name in summary.codecs and entry and entry.percent is None:
                yield f"no BD-rate of {name} against {anchor}: {entry.reason}"
