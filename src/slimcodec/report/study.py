"""A study: models and other codecs on one set of photos → points.csv, summary.json, figures and the page.

    photos ─► points.measure ─► points.csv ─► summary ─► summary.json ─► figures/, report.html

What a folder holds adds up: other codecs may be measured into it later, and the page shows them all.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from slimcodec import InvalidFile, InvalidInput
from slimcodec.codec import zoo
from slimcodec.codec.progress import bar
from slimcodec.evaluation import anchors, comparison, memory, provenance, published, summary
from slimcodec.evaluation import metrics as quality_metrics
from slimcodec.evaluation.codecs import ModelCodec
from slimcodec.evaluation.locks import alone
from slimcodec.evaluation.photos import Photo, names_of
from slimcodec.evaluation.points import Codec, Failure, Point, codec_key, measure, read_points
from slimcodec.evaluation.summary import SUMMARY, CodecEntry, Data, Provenance, QuotedEntry, Summary, readable
from slimcodec.report import page, plots, viewer
from slimcodec.report.style import main_codec, main_first

POINTS, PAGE, FIGURES, CROPS = "points.csv", "report.html", "figures", "crops"
TARGET_MACS_PER_PIXEL = 2000
FAMILIAR = "jpeg", "avif", "webp"  # codecs that all readers know, and browsers show
EMPTY = Summary(Data("", [], {}, 0.0, {}), Provenance(), {}, [], None, [], {}, [], {}, [], {})  # says nothing yet


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
    main: str | None = None,
) -> Summary:
    """Measure the codecs on the photos (a set called `name`) into the folder `out`; the summary.

    `qualities`, `metrics` and `jobs` are those of `points.measure`; `rounds` names the codecs that are steps of
    pruning, in their order; `with_memory` measures peak memory, too, a few seconds a codec; `main` names the model that
    figures and page are about from now on. What cannot be read, coded or computed is told in the summary, and the rest
    goes on. A second study in the same folder waits for the first, and then adds to it. Raises `InvalidInput` when
    nothing could be measured, a file in `out` is not a study's, or `main` is no model of it.
    """
    with alone(out):
        commit = provenance.commit(without=out)  # before hours of measuring, in which the checkout may change
        before = _before(out, main, codecs)
        chosen, unavailable = _available(quality_metrics.resolve(metrics))
        usable, failures = _usable(codecs)
        measured = measure(usable, photos, out / POINTS, qualities=qualities or {}, metrics=chosen, jobs=jobs)
        failures += measured.failures
        coded = _coded(name, measured.points, failures)
        photos = [photo for photo, picture in zip(photos, names_of(photos), strict=True) if picture in coded]
        found = EMPTY._replace(
            data=_data(name, coded.values(), failures),
            provenance=provenance.provenance(command, jobs, commit, before.provenance),
            unavailable=unavailable,
            failures=_failures(failures, before, usable),
            target_macs_per_pixel=target_macs_per_pixel,
            rounds=list(rounds) or before.rounds,
            codecs=_entries(usable, qualities or {}, before, photos if with_memory else []),
            main=main or before.main,
        )
        summary.write(_with_figures(found, read_points(out / POINTS)), out)
        _draw(out, photos, usable)
        return summary.read(out)


def draw(
    out: Path,
    photos: Sequence[Photo] = (),
    codecs: Sequence[Codec] = (),
    figures_folder: Path | None = None,
    pictures: int = viewer.PICTURES,
) -> None:
    """Write the figures and the page of the study in `out`.

    Where the photos are given, so many `pictures` are shown; else those that were shown before.

    Raises `InvalidInput` when there is no study, or a damaged one.
    """
    summary.read(out)  # a folder that holds no study gets no lock either
    with alone(out):
        _draw(out, photos, codecs, figures_folder, pictures)


def _draw(
    out: Path,
    photos: Sequence[Photo] = (),
    codecs: Sequence[Codec] = (),
    figures_folder: Path | None = None,
    pictures: int = viewer.PICTURES,
) -> None:
    found = summary.read(out)
    points = _of_study(read_points(out / POINTS), found)
    plots.write_all(readable(found), figures_folder or out / FIGURES)
    views = _views(found, points, photos, codecs, out, pictures)
    page.write(readable(found), readable(points), readable(views), out / PAGE)


def picture(out: Path, metric: str) -> Path:
    """The figure of a metric's curves."""
    return out / FIGURES / f"{metric}.png"


def is_whole(out: Path) -> bool:
    """Whether the study in `out` is all there: its mean curves are those of its points, of which none was lost.

    Raises `InvalidInput` when a file of it is damaged.
    """
    if not (out / POINTS).is_file() or not (out / SUMMARY).is_file():
        return False
    kept = summary.read(out)
    by_codec, same_size = _by_codec(read_points(out / POINTS), kept), defaultdict(lambda: 1.0)
    for name, entry in kept.codecs.items():
        found = comparison.with_figures(entry, by_codec[name], kept.metrics, same_size)
        if found.pictures != entry.pictures or summary.plain(found.curves) != summary.plain(entry.curves):
            return False
    return True


# -------------------------------------------------------------------------------------------------------- the summary


def _available(wanted: Iterable[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The metrics that can run here, and the reasons of the others."""
    reasons = {name: quality_metrics.unavailable(name) for name in wanted}
    unavailable = {name: reason for name, reason in reasons.items() if reason}
    return tuple(name for name in reasons if name not in unavailable), unavailable


def _usable(codecs: Sequence[Codec]) -> tuple[list[Codec], list[Failure]]:
    """The codecs that can run here, and failures with the reasons of the others."""
    reasons = {codec.name: codec.unavailable() for codec in codecs if hasattr(codec, "unavailable")}
    failures = [Failure("", name, None, reason) for name, reason in reasons.items() if reason]
    return [codec for codec in codecs if not reasons.get(codec.name)], failures


def _coded(name: str, points: Iterable[Point], failures: Sequence[Failure]) -> dict[str, Point]:
    """Picture → one of its points. Raises InvalidInput, with the first reason, where there is none."""
    if not (coded := {point.picture: point for point in points}):
        raise InvalidInput(f"{name}: nothing could be measured; {failures[0].codec or 'photo'}: {failures[0].reason}")
    return coded


def _before(out: Path, main: str | None, codecs: Sequence[Codec]) -> Summary:
    """What the folder knows. Raises InvalidInput unless `main` is None, or a model of it or of what is measured now."""
    before = summary.read(out) if (out / SUMMARY).is_file() else EMPTY
    known = [name for name, entry in before.codecs.items() if entry.kind == "model"]
    known += [codec.name for codec in codecs if codec.kind == "model" and codec.name not in known]
    if main is not None and main not in known:
        raise InvalidInput(f"--main {main}: is no model of this study; those are {', '.join(known) or 'none'}")
    return before


def _data(name: str, coded: Iterable[Point], failures: Sequence[Failure]) -> Data:
    """The set of photos, from a point of each, and those that could not be read."""
    hashes = {point.picture: point.picture_sha256 for point in coded}
    left_out = {failure.picture: failure.reason for failure in failures if failure.codec is None}
    return Data(name, list(hashes), hashes, sum(map(_megapixels, coded)), left_out)


def _megapixels(point: Point) -> float:
    return 8e-6 * point.bytes / point.bpp


def _failures(failures: Sequence[Failure], before: Summary, codecs: Sequence[Codec]) -> list[Failure]:
    """Those of this time, and those of codecs that were measured another time."""
    names = {failure.codec for failure in failures} | {codec.name for codec in codecs}
    earlier = [failure for failure in before.failures if failure.codec not in names]
    return earlier + [failure for failure in failures if failure.codec is not None]


def _entries(
    codecs: Sequence[Codec],
    qualities: Mapping[str, Sequence[float]],
    before: Summary,
    photos: Sequence[Photo],
) -> dict[str, CodecEntry]:
    """What each codec is: those of before, and the ones of now in their place or after them."""
    known = dict(before.codecs)
    largest = max((photo for photo in photos if isinstance(photo, Path)), key=_size, default=None)
    for codec in bar(codecs, desc="memory", unit="codecs"):
        entry = _described(codec, list(qualities.get(codec.name, codec.qualities)))
        old = known.get(codec.name)
        peak = old.peak_memory_mib if old and old.key == entry.key else None
        if peak is None and largest is not None:
            peak = memory.peak_mib(codec, largest, entry.qualities[len(entry.qualities) // 2])
        known[codec.name] = entry._replace(peak_memory_mib=peak)
    return known


def _size(path: Path) -> int:
    return path.stat().st_size


def _described(codec: Codec, qualities: list[float]) -> CodecEntry:
    entry = CodecEntry(
        kind=codec.kind,
        role=None,
        settings=codec.settings,
        key=codec_key(codec),
        complexity=None,
        weights_sha256=None,
        qualities=qualities,
        peak_memory_mib=None,
        pictures=0,
        curves={},
        encode_ms_per_megapixel=None,
        decode_ms_per_megapixel=None,
    )
    if not isinstance(codec, ModelCodec):
        return entry
    described = zoo.describe(codec.directory)
    return entry._replace(
        role=codec.role,
        weights_sha256=codec.weights_sha256,
        complexity=comparison.complexity(described.architecture, described.parameters),
    )


def _with_figures(found: Summary, points: Sequence[Point]) -> Summary:
    """The summary with all that the points say of its codecs on its pictures."""
    by_codec = _by_codec(points, found)
    measured_points = [point for of_codec in by_codec.values() for point in of_codec]
    megapixels = {point.picture: _megapixels(point) for point in measured_points}
    metrics = {name for point in measured_points for name in point.metrics}
    measured = [name for name in quality_metrics.METRICS if name in metrics]
    codecs = {
        name: comparison.with_figures(entry, by_codec[name], measured, megapixels)
        for name, entry in found.codecs.items()
        if by_codec[name]
    }
    rounds = [name for name in found.rounds if name in codecs]
    kodak = comparison.is_kodak(found.data.pictures)
    against = comparison.references(codecs, kodak)
    return found._replace(
        metrics=measured,
        rounds=rounds,
        codecs=_with_first_widths(codecs, rounds),
        quoted=_quoted() if kodak else {},
        anchors=against,
        bd_rate=comparison.bd_rates({name: by_codec[name] for name in codecs}, measured, against, kodak),
    )


def _of_study(points: Iterable[Point], found: Summary) -> list[Point]:
    """The points of the study's codecs, pictures and qualities: others may have been measured into the same file."""
    hashes, codecs = found.data.sha256, found.codecs
    return [
        point
        for point in points
        if point.codec in codecs
        and point.codec_key == codecs[point.codec].key
        and point.quality in codecs[point.codec].qualities
        and point.picture_sha256 == hashes.get(point.picture)
    ]


def _by_codec(points: Iterable[Point], found: Summary) -> dict[str, list[Point]]:
    """Codec → its points of the study."""
    by_codec: dict[str, list[Point]] = defaultdict(list)
    for point in _of_study(points, found):
        by_codec[point.codec].append(point)
    return by_codec


def _with_first_widths(codecs: dict[str, CodecEntry], rounds: Sequence[str]) -> dict[str, CodecEntry]:
    """The codecs with, at every place of a pruned one, the number of channels before the first round."""
    complexities = {name: codecs[name].complexity for name in rounds}
    first = complexities[rounds[0]].widths if rounds else {}
    for name, complexity in complexities.items():
        widths = {
            place: width._replace(of=first[place].channels if place in first else None)
            for place, width in complexity.widths.items()
        }
        codecs = codecs | {name: codecs[name]._replace(complexity=complexity._replace(widths=widths))}
    return codecs


def _quoted() -> dict[str, QuotedEntry]:
    found = {name: published.quoted(name) for name in published.quoted_names()}
    return {
        name: QuotedEntry(entry.source, entry.decoder_kmacs_per_pixel, {quality_metrics.PSNR: entry.curve})
        for name, entry in found.items()
    }


# -------------------------------------------------------------------------------------------------------- the pictures


def _views(
    found: Summary,
    points: Sequence[Point],
    photos: Sequence[Photo],
    codecs: Sequence[Codec],
    out: Path,
    pictures: int,
) -> list[viewer.View]:
    """Pictures by the codecs at hand: those that were just measured, and those of before that can be found again."""
    if not photos:
        return viewer.again(points, out / CROPS)
    available = {codec.name: codec for codec in [*_found_again(found), *codecs]}
    known = {name: available[name] for name in main_first(found) if name in available}
    known = {name: codec for name, codec in known.items() if codec_key(codec) == found.codecs[name].key}
    if not known:
        return []
    at_hand = found._replace(codecs={name: found.codecs[name] for name in known})
    main = main_codec(at_hand) or next(iter(known))
    rivals = {name: known[name] for name in _rivals(at_hand, main)}
    return viewer.views(photos, points, rivals, main, folder=out / CROPS, pictures=pictures)


def _rivals(found: Summary, main: str) -> list[str]:
    """The codecs of the viewer, those first that must not be missing: of other models and codecs the quick ones."""
    quick = sorted(found.codecs, key=lambda name: found.codecs[name].encode_ms_per_megapixel or 0)
    others = [name for name in quick if name not in (main, *FAMILIAR, *found.rounds)]
    familiar = [name for name in FAMILIAR if name in found.codecs and name != main]
    models = [name for name in others if found.codecs[name].kind == "model"]
    return list(dict.fromkeys([main, *familiar[:2], *models[:1], *familiar, *others]))


def _found_again(found: Summary) -> Iterator[Codec]:
    for name, entry in found.codecs.items():
        if entry.kind == "anchor" and name in anchors.NAMES:
            yield anchors.codec(name)
        elif entry.kind == "model" and entry.weights_sha256:
            try:
                directory = zoo.by_hash(entry.weights_sha256)
            except InvalidFile:
                continue
            yield ModelCodec.find(directory, name=name, role=entry.role)
