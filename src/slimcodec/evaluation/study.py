"""A study: models and other codecs on one set of photos → points.csv, summary.json, figures and the page.

    photos ─► points.measure ─► points.csv ─► summary ─► summary.json ─► figures/, report.html

What a folder holds adds up: other codecs may be measured into it later, and the page shows them all.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import json_files, zoo
from slimcodec.codec.architecture import Architecture
from slimcodec.codec.atomic import write_text
from slimcodec.evaluation import anchors, figures, memory, provenance, report, viewer
from slimcodec.evaluation import metrics as quality_metrics
from slimcodec.evaluation.codecs import ModelCodec
from slimcodec.evaluation.locks import alone
from slimcodec.evaluation.points import (
    Codec,
    Failure,
    Photo,
    codec_key,
    measure,
    names_of,
    read_points,
)
from slimcodec.evaluation.summary import bd_rates, codec_figures, complexity, is_kodak, readable, references, to_json

POINTS, SUMMARY, PAGE, FIGURES, CROPS = "points.csv", "summary.json", "report.html", "figures", "crops"
TARGET_MACS_PER_PIXEL = 2000
NOTHING = {"codecs": {}, "failures": [], "rounds": [], "provenance": {}}  # in a folder where there is no study yet
REMEDY = "remove it and evaluate again: what is in points.csv is not measured again"
# What every summary.json holds, of those parts that a later study or the page builds on.
PARTS = {"data": dict, "provenance": dict, "codecs": dict, "failures": list, "rounds": list, "bd_rate": dict}


def evaluate(
    codecs: Sequence[Codec],
    photos: Sequence[Photo],
    out: Path,
    *,
    name: str,
    qualities: Mapping[str, Sequence[float]] | None = None,
    metrics: Iterable[str] = quality_metrics.DEFAULT,
    rounds: Sequence[str] = (),
    target_macs_per_pixel: float = TARGET_MACS_PER_PIXEL,
    jobs: int = 1,
    with_memory: bool = True,
    command: str = "",
) -> dict[str, Any]:
    """Measure the codecs on the photos (a set called `name`) into the folder `out`; the summary as a dict.

    `qualities`, `metrics` and `jobs` are those of `points.measure`; `rounds` names the codecs that are steps of
    pruning, in their order; `with_memory` also measures each codec's peak memory, a few seconds each. What cannot be
    read, coded or computed is told in the summary, and the rest goes on. A second study in the same folder waits for
    the first, and then adds to it.
    Raises `InvalidInput` when nothing could be measured, with the first reason, or a file in `out` is not a study's.
    """
    with alone(out):
        settings = {"name": name, "qualities": qualities or {}, "rounds": rounds, "jobs": jobs, "command": command}
        settings |= {"target_macs_per_pixel": target_macs_per_pixel, "with_memory": with_memory}
        return _evaluate(codecs, photos, out, metrics=metrics, **settings)


def _evaluate(
    codecs, photos, out, *, name, qualities, metrics, rounds, target_macs_per_pixel, jobs, with_memory, command
):
    commit = provenance.commit(without=out)  # before hours of measuring, in which the checkout may change
    before = read_summary(out) if (out / SUMMARY).is_file() else NOTHING
    metrics, unavailable = _available(quality_metrics.resolve(metrics))
    codecs, failures = _usable(codecs)
    measured = measure(codecs, photos, out / POINTS, qualities=qualities, metrics=metrics, jobs=jobs)
    failures += measured.failures
    if not measured.points:
        raise InvalidInput(f"{name}: nothing could be measured; {failures[0].codec or 'photo'}: {failures[0].reason}")
    coded = {point.picture: point for point in measured.points}
    photos = [photo for photo, picture in zip(photos, names_of(photos), strict=True) if picture in coded]
    left_out = {failure.picture: failure.reason for failure in failures if failure.codec is None}
    summary = {
        "data": _data(name, coded.values()) | {"left_out": left_out},
        "provenance": provenance.provenance(command, jobs, commit, before["provenance"]),
        "unavailable": unavailable,
        "failures": _failures(failures, before, codecs),
        "target_macs_per_pixel": target_macs_per_pixel,
        "rounds": list(rounds) or before["rounds"],
        "codecs": _codecs(codecs, qualities, before, photos if with_memory else []),
    }
    write_text(out / SUMMARY, to_json(_with_figures(summary, read_points(out / POINTS))))
    _draw(out, photos, codecs)
    return read_summary(out)


def draw(out: Path, photos: Sequence[Photo] = (), codecs: Sequence[Codec] = (), figures_folder: Path | None = None):
    """Write the figures and the page of the study in `out`; of pictures, where the photos are given.

    Raises `InvalidInput` when there is no study, or a damaged one.
    """
    read_summary(out)  # a folder that holds no study gets no lock either
    with alone(out):
        _draw(out, photos, codecs, figures_folder)


def _draw(out, photos=(), codecs=(), figures_folder=None):
    summary = read_summary(out)
    points = _of_study(read_points(out / POINTS), summary)
    figures.write_all(readable(summary), figures_folder or out / FIGURES)
    views = _views(summary, points, photos, codecs, out) if photos else []
    report.write(readable(summary), readable(points), readable(views), out / PAGE)


def read_summary(out: Path) -> dict[str, Any]:
    """summary.json of the study in the folder `out`. Raises `InvalidInput` when it is missing or damaged."""
    path = out / SUMMARY
    summary = json_files.read(path, remedy=REMEDY if path.is_file() else "run slimcodec evaluate first")
    for name, kind in PARTS.items():
        if not isinstance(summary.get(name), kind):
            raise InvalidInput(f"{path}: is no summary of a study ({name} is missing or damaged); {REMEDY}")
    made = summary["provenance"]
    summary["provenance"] = {name: value for name, value in made.items() if name != "command"} | {
        "commands": provenance.commands(made)
    }
    return summary


def is_whole(out: Path) -> bool:
    """Whether the study in `out` is all there: its mean curves are those of its points, of which none was lost.

    Raises `InvalidInput` when a file of it is damaged.
    """
    if not (out / POINTS).is_file() or not (out / SUMMARY).is_file():
        return False
    summary, points = read_summary(out), read_points(out / POINTS)
    try:
        of_codecs = _by_codec(points, summary)
        found = {
            name: codec_figures(of_codecs[name], summary["metrics"], defaultdict(lambda: 1.0))
            for name in summary["codecs"]
        }
        parts = [(name, part) for name in found for part in ("pictures", "curves")]
        as_kept = json.loads(to_json(found))
        return all(as_kept[name][part] == summary["codecs"][name][part] for name, part in parts)
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{out / SUMMARY}: is damaged ({error!r}); {REMEDY}") from error


# -------------------------------------------------------------------------------------------------------- the summary


def _available(wanted):
    """The metrics that can run here, and the reasons of the others."""
    reasons = {name: quality_metrics.unavailable(name) for name in wanted}
    unavailable = {name: reason for name, reason in reasons.items() if reason}
    return tuple(name for name in wanted if name not in unavailable), unavailable


def _usable(codecs):
    """The codecs that can run here, and failures with the reasons of the others."""
    reasons = {codec.name: codec.unavailable() for codec in codecs if hasattr(codec, "unavailable")}
    failures = [Failure("", name, None, reason) for name, reason in reasons.items() if reason]
    return [codec for codec in codecs if not reasons.get(codec.name)], failures


def _data(name, coded):
    """The set of photos, from a point of each."""
    megapixels = {point.picture: 8e-6 * point.bytes / point.bpp for point in coded}
    hashes = {point.picture: point.picture_sha256 for point in coded}
    return {"name": name, "pictures": list(hashes), "sha256": hashes, "megapixels": megapixels}


def _failures(failures, before, codecs):
    """Those of this time, and those of codecs that were measured another time."""
    names = {failure.codec for failure in failures} | {codec.name for codec in codecs}
    earlier = [entry for entry in before["failures"] if entry["codec"] not in names]
    return earlier + [failure._asdict() for failure in failures if failure.codec is not None]


def _codecs(codecs, qualities, before, photos):
    """What each codec is: those of before, and the ones of now in their place or after them."""
    known = dict(before["codecs"])
    largest = max((photo for photo in photos if isinstance(photo, Path)), key=_size, default=None)
    for codec in tqdm(codecs, desc="memory", unit="codec", disable=None):
        entry = _described(codec) | {"qualities": list(qualities.get(codec.name, codec.qualities))}
        same = known.get(codec.name, {}).get("key") == entry["key"]
        peak = known[codec.name].get("peak_memory_mib") if same else None
        if peak is None and largest is not None:
            peak = memory.peak_mib(codec, largest, entry["qualities"][len(entry["qualities"]) // 2])
        known[codec.name] = entry | {"peak_memory_mib": peak}
    return known


def _size(path):
    return path.stat().st_size


def _described(codec):
    entry = {"kind": codec.kind, "role": None, "settings": codec.settings, "key": codec_key(codec), "complexity": None}
    if isinstance(codec, ModelCodec):
        description = zoo.read_description(codec.directory)
        architecture = Architecture.from_dict(description["architecture"])
        entry |= {
            "role": codec.role,
            "weights_sha256": codec.weights_sha256,
            "complexity": complexity(architecture, description["parameters"]),
        }
    return entry


def _with_figures(summary, points):
    """The summary with all that the points say of its codecs on its pictures."""
    megapixels, codecs = summary["data"]["megapixels"], summary["codecs"]
    by_codec = _by_codec(points, summary)
    metrics = {name for of_codec in by_codec.values() for point in of_codec for name in point.metrics}
    measured = [name for name in quality_metrics.METRICS if name in metrics]
    codecs = {
        name: entry | codec_figures(by_codec[name], measured, megapixels)
        for name, entry in codecs.items()
        if by_codec[name]
    }
    rounds = [name for name in summary["rounds"] if name in codecs]
    kodak = is_kodak(megapixels)
    anchor_names = references(codecs, kodak)
    return summary | {
        "data": summary["data"] | {"megapixels": sum(megapixels.values())},
        "metrics": measured,
        "rounds": rounds,
        "codecs": _with_first_widths(codecs, rounds),
        "quoted": _quoted() if kodak else {},
        "anchors": anchor_names,
        "bd_rate": bd_rates({name: by_codec[name] for name in codecs}, measured, anchor_names, kodak),
    }


def _of_study(points, summary):
    """The points of the study's codecs, pictures and qualities: others may have been measured into the same file."""
    hashes, codecs = summary["data"]["sha256"], summary["codecs"]
    return [
        point
        for point in points
        if point.codec in codecs
        and point.codec_key == codecs[point.codec]["key"]
        and point.quality in codecs[point.codec]["qualities"]
        and point.picture_sha256 == hashes.get(point.picture)
    ]


def _by_codec(points, summary):
    """Codec → its points of the study."""
    found = defaultdict(list)
    for point in _of_study(points, summary):
        found[point.codec].append(point)
    return found


def _with_first_widths(codecs, rounds):
    """The codecs with, at every place of a pruned one, the number of channels before the first round."""
    first = codecs[rounds[0]]["complexity"]["widths"] if rounds else {}
    for name in rounds:
        for place, width in codecs[name]["complexity"]["widths"].items():
            width["of"] = first.get(place, {}).get("channels")
    return codecs


def _quoted():
    found = {name: anchors.quoted(name) for name in anchors.quoted_names()}
    return {
        name: {
            "source": entry.source,
            "decoder_kmacs_per_pixel": entry.decoder_kmacs_per_pixel,
            "curves": {"psnr_rgb_db": entry.curve._asdict()},
        }
        for name, entry in found.items()
    }


# -------------------------------------------------------------------------------------------------------- the pictures


def _views(summary, points, photos, codecs, out):
    """Crops of the codecs at hand: those that were just measured, and those of before that can be found again."""
    available = {codec.name: codec for codec in [*_found_again(summary), *codecs]}
    entries = summary["codecs"]
    known = {name: available[name] for name in entries if name in available}
    known = {name: codec for name, codec in known.items() if codec_key(codec) == entries[name]["key"]}
    if not known:
        return []
    main = figures.main_codec({"codecs": {name: entries[name] for name in known}}) or next(iter(known))
    return viewer.views(photos, points, known, main, folder=out / CROPS)


def _found_again(summary):
    for name, entry in summary["codecs"].items():
        if entry["kind"] == "anchor" and name in anchors.NAMES:
            yield anchors.codec(name)
        elif entry["kind"] == "model":
            try:
                directory = zoo.by_hash(entry["weights_sha256"])
            except InvalidFile:
                continue
            yield ModelCodec.find(directory, name=name, role=entry["role"])
