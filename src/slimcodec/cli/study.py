"""What evaluate, anchors and report share: measuring, and a few lines about the outcome."""

import argparse
import contextlib
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slimcodec import InvalidInput
from slimcodec.cli import streams
from slimcodec.cli.streams import BAD_INPUT


@contextlib.contextmanager
def needs_evaluation() -> Iterator[None]:
    """Raises InvalidInput where a library is missing: who only compresses pictures has not installed them all."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "slimcodec":
            raise
        raise InvalidInput(
            f"measuring needs {error.name}, which is not installed: pip install 'slimcodec[eval]'"
        ) from error


def find_anchors(names: list[str]) -> list[Any]:
    """The codecs of these names. Raises InvalidInput for an unknown one."""
    from slimcodec.evaluation import anchors

    return [anchors.codec(name) for name in names]


def measure(options: argparse.Namespace, codecs: list[Any], **settings: Any) -> int:
    """Measure the codecs on the photos and print the outcome; returns the exit code."""
    from slimcodec.evaluation import points, study

    out = Path(options.out)
    summary = study.evaluate(
        codecs,
        points.find_photos(options.data, options.limit),
        out,
        name=Path(options.data).resolve().name,
        metrics=options.metrics,
        jobs=options.jobs or default_jobs(codecs),
        command=shlex.join(["slimcodec", *options.arguments]),
        **settings,
    )
    streams.show(_outcome(summary))
    for line in _troubles(summary):
        streams.complain(line)
    streams.show(f"{out / study.PAGE}")
    return BAD_INPUT if summary["failures"] or summary["data"]["left_out"] else 0


def default_jobs(codecs: list[Any]) -> int:
    """A process a core. One alone where a model runs on another device: each would take a share of its memory."""
    return os.cpu_count() or 1 if all(getattr(codec, "device", "cpu") == "cpu" for codec in codecs) else 1


def _outcome(summary: dict[str, Any]) -> str:
    """A table of the BD-rates by RGB PSNR, each with the range of PSNR that it covers."""
    anchors = summary["anchors"]
    rows = [("codec", "decoder kMAC/pixel", *(f"BD-rate against {name}" for name in anchors))]
    for name, codec in summary["codecs"].items():
        macs = codec["complexity"] and f"{codec['complexity']['decoder_macs_per_pixel'] / 1000:.2f}"
        entries = [summary["bd_rate"][anchor].get(name, {}).get("psnr_rgb_db") for anchor in anchors]
        rows.append((name, macs or "", *map(_bd_rate, entries)))
    return streams.table(rows)


def _bd_rate(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["percent"] is None:
        return "–"
    return f"{entry['percent']:+.1f} % ({entry['low']:.1f} to {entry['high']:.1f} dB)"


def _troubles(summary: dict[str, Any]) -> Iterator[str]:
    """What could not be done, a line each."""
    yield from (f"left out: {reason}" for reason in summary["data"]["left_out"].values())
    yield from (f"metric {name}: {reason}" for name, reason in summary["unavailable"].items())
    yield from _failures(summary)
    yield from _missing_bd_rates(summary)


def _failures(summary: dict[str, Any]) -> Iterator[str]:
    """A line for each reason that a codec failed, with the first place and the number of others."""
    failures = defaultdict(list)
    for failure in summary["failures"]:
        place = " at ".join(str(part) for part in (failure["picture"], failure["quality"]) if part not in ("", None))
        failures[failure["codec"], failure["reason"]].append(place)
    for (codec, reason), (place, *more) in failures.items():
        where = f" ({place}{f' and {len(more)} more' if more else ''})" if place else ""
        yield f"{codec}{where}: {reason}"


def _missing_bd_rates(summary: dict[str, Any]) -> Iterator[str]:
    for anchor, of_codecs in summary["bd_rate"].items():
        for name, of_metrics in of_codecs.items():
            entry = of_metrics.get("psnr_rgb_db")
            if name in summary["codecs"] and entry and entry["percent"] is None:
                yield f"no BD-rate of {name} against {anchor}: {entry['reason']}"
