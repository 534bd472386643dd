"""The tables of docs/{ablations,flagship,evaluation,performance,scaling,tried}.md, from stored results.

    python benchmarks/tables.py

A table stands between `<!-- kind name -->` and `<!-- end -->` and is replaced as a whole:

    arms NAME       results/ablations/NAME.json, of benchmarks/ablations.py
    rows FILE.TABLE results/ablations/FILE.json, of a benchmark that makes the cells of its tables itself
    encoders NAME   results/ablations/NAME.json, of benchmarks/encoders.py
    bits NAME       results/flagship/NAME.json, of benchmarks/bits.py
    extremes NAME   the same: the pictures on which the student gains most and least
    rounds NAME     results/flagship/NAME.json, a copy of a run's rounds/rounds.json
    seconds NAME    results/flagship/NAME.json, a copy of a run's seconds.json
    training NAME   results/training/NAME.json, of benchmarks/train.py
    entries NAME    results/training/NAME.json, of benchmarks/shards.py: memory by how many photos there are
    cutting NAME    the same: crops a second, by where the photos are
    containers NAME results/training/NAME.json, of benchmarks/containers.py
    processes NAME  results/training/NAME.json: seconds of a stage of two lengths, by trainer
    efforts NAME    results/flagship/NAME.json, of benchmarks/encoder.py
    parts NAME      results/flagship/NAME.json, of benchmarks/parts.py
    speed NAME      results/performance/NAME.json, of benchmarks/codec.py
    batch NAME      the same, of benchmarks/batch.py
    bd_rate NAME    results/NAME/summary.json, of slimcodec evaluate: every model of the study
    fixed NAME      the same, of Kodak, over 29 to 37 dB
    ranges NAME     the same: what the models cost, and the PSNR that their curves cover
    quality NAME    the same: bpp and PSNR by quality
    study NAME      the same, of Kodak: everything that was run, against VTM and our VVC
    cost NAME       the same: operations, time and memory of what was run
    seven NAME      the same: JPEG AI's seven metrics, against our VVC
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from codec import tables as speed_tables

from slimcodec.codec.atomic import write_text
from slimcodec.evaluation import summary
from slimcodec.evaluation.comparison import VTM
from slimcodec.evaluation.curves import Curve, bd_rate
from slimcodec.evaluation.metrics import GROUPS, METRICS, PSNR
from slimcodec.evaluation.summary import BdRateEntry, CodecEntry, FixedRange, Summary
from slimcodec.report.style import label

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = tuple(
    ROOT / "docs" / f"{name}.md" for name in ("ablations", "flagship", "evaluation", "performance", "scaling", "tried")
)
MARKED = re.compile(r"<!-- (\w+) (\S+) -->\n.*?<!-- end -->", re.DOTALL)
MS_SSIM = "ms_ssim_db"
VVC = "vvc"  # ours: VVenC
ANCHOR = "mbt2018_mean"  # of benchmarks/train.py
EXTREMES = 3  # pictures shown from either end
ROLES = ("teacher", "student")


def main() -> None:
    for page in PAGES:
        write_text(page, with_tables(page.read_text(encoding="utf-8")))


def with_tables(page: str) -> str:
    """The page with every marked table made anew."""
    return MARKED.sub(lambda match: f"<!-- {match[1]} {match[2]} -->\n{KINDS[match[1]](match[2])}\n<!-- end -->", page)


def arms(name: str) -> str:
    """BD-rate of every arm of an ablation against its first."""
    found = _stored("ablations", name)["arms"]
    first = Curve(**found[0]["curve"])
    rows = []
    for arm in found:
        against = bd_rate(first, Curve(**arm["curve"]))
        rows.append(
            [
                arm["name"],
                f"{arm['decoder_macs_per_pixel']:,.0f}",
                f"{arm['encoder_macs_per_pixel']:,.0f}",
                f"{arm['seconds']:,.0f}",
                _percent(against.percent),
                f"{against.low:.1f}",
                f"{against.high:.1f}",
            ]
        )
    return _table(["", "decoder, MAC/pixel", "encoder, MAC/pixel", "seconds", "BD-rate", "from dB", "to dB"], rows)


def rows_of(name: str) -> str:
    file, _, table = name.partition(".")
    found = _stored("ablations", file)["tables"][table]
    return _table(found["heading"], found["rows"])


def encoders(name: str) -> str:
    """What the encoders of students cost and are worth, against the first's."""
    found = _stored("ablations", name)["arms"]
    first = Curve(**found[0]["curve"])
    rows = [
        [
            arm["name"],
            f"{arm['encoder_macs_per_pixel']:,.0f}",
            _percent(bd_rate(first, Curve(**arm["curve"])).percent),
            f"{arm['seconds']:.2f}" if arm["seconds"] else "–",
        ]
        for arm in found
    ]
    return _table(["", "encoder, MAC/pixel", "BD-rate", "seconds a picture"], rows)


def bits(name: str) -> str:
    """Of teacher and student, bpp of z and of every stage by quality."""
    models = _stored("flagship", name)["models"]
    stages = range(1, len(models["teacher"]["bpp"][0]))
    rows = []
    for quality, pair in enumerate(zip(*(models[role]["bpp"] for role in ROLES), strict=True), start=1):
        for role, parts in zip(ROLES, pair, strict=True):
            rows.append([str(quality), role, *(f"{bpp:.4f}" for bpp in [*parts, sum(parts)])])
    return _table(["quality", "model", "z", *(f"r, stage {stage}" for stage in stages), "all"], rows)


def extremes(name: str) -> str:
    """The pictures that lose least and most, student against teacher."""
    teacher, student = (_stored("flagship", name)["models"][role]["pictures"] for role in ROLES)
    ordered = sorted(
        (bd_rate(_points(before), _points(student[picture])).percent, picture) for picture, before in teacher.items()
    )
    rows = [[picture, _percent(percent)] for percent, picture in [*ordered[:EXTREMES], *ordered[-EXTREMES:]]]
    return _table(["picture", "student against teacher"], rows)


def rounds(name: str) -> str:
    rows = [
        [
            str(record["number"]),
            f"{record['macs_per_pixel']:,.0f}",
            _percent(record["bd_rate_percent"]),
            _percent(record["bd_rate_percent_against_previous"]),
            "yes" if record["accepted"] else "no",
            f"{record['seconds']:,.0f}",
        ]
        for record in _stored("flagship", name)
    ]
    return _table(["round", "MAC/pixel", "against the teacher", "against the step before", "accepted", "seconds"], rows)


def seconds(name: str) -> str:
    rows = [[stage, f"{value:,.0f}"] for stage, value in _stored("flagship", name).items()]
    return _table(["stage", "seconds"], rows)


def training(name: str) -> str:
    """Pictures a second of each phase, what cutting crops takes of it, and the ratio to CompressAI's step."""
    found = _stored("training", name)
    seconds = {phase: parts["draw"] + parts["step"] for phase, parts in found["phases"].items()}
    rows = [
        [
            phase if phase != ANCHOR else f"`{ANCHOR}`, CompressAI",
            f"{found['batch'] / seconds[phase]:.1f}",
            f"{1000 * seconds[phase]:.0f}",
            f"{100 * parts['draw'] / seconds[phase]:.1f} %",
            f"{seconds[ANCHOR] / seconds[phase]:.2f}",
        ]
        for phase, parts in found["phases"].items()
    ]
    heading = ["", "pictures a second", "ms a step", "share of cutting crops", f"pictures a second over `{ANCHOR}`'s"]
    return _table(heading, rows)


def processes(name: str) -> str:
    """Pictures a second by trainer: of the steps by which the longer of two stages was longer."""
    found = _stored("training", name)
    fewer, more = found["steps"]
    speeds = {
        trainer: found["batch"] * (more - fewer) / (longer - shorter)
        for trainer, (shorter, longer) in found["seconds"].items()
    }
    first = next(iter(speeds.values()))
    rows = [[f"`trainer={trainer}`", f"{speed:.1f}", f"{speed / first:.2f}"] for trainer, speed in speeds.items()]
    return _table(["", "pictures a second", "ratio"], rows)


def entries(name: str) -> str:
    """What a process takes that cuts crops from shards."""
    rows = [
        [
            found["store"],
            f"{found['entries']:,}",
            f"{found['bytes'] / 1e6:,.0f}",
            f"{found['index_bytes'] / 1e6:.2f}",
            f"{found['peak_bytes'] / 1e6:,.0f}",
            f"{found['crops_a_second']:,.0f}",
        ]
        for found in _stored("training", name)["entries"]
    ]
    heading = ["stored as", "photos", "shards, MB", "index, MB", "most memory, MB", "crops of 64² a second"]
    return _table(heading, rows)


def cutting(name: str) -> str:
    """What a core cuts, and what it took to write."""
    rows = [
        [
            found["source"],
            f"{found['bytes_a_pixel']:.2f}",
            f"{found['crops_a_second']:,.0f}",
            f"{found['read_bytes_a_crop'] / 1e6:.2f}",
            f"{1000 * found['write_seconds'] / found['photos']:.0f}" if "write_seconds" in found else "–",
        ]
        for found in _stored("training", name)["photos"]
    ]
    heading = ["photos", "bytes a pixel", "crops of 256² a second", "MB read a crop", "ms a photo to write"]
    return _table(heading, rows)


def containers(name: str) -> str:
    """Entries a second in random order, and what each takes."""
    rows = [
        [
            kind,
            f"{found['reads_a_second']:,.0f}",
            f"{found['peak_bytes'] / 1e6:,.0f}",
            f"{found['bytes'] / 1e6:.1f}",
            str(len(found["packages"])),
        ]
        for kind, found in _stored("training", name)["kinds"].items()
    ]
    return _table(["", "entries read a second", "most memory, MB", "on the disk, MB", "packages more"], rows)


def efforts(name: str) -> str:
    """BD-rate of an encoder's parts and of each effort against effort 0, and what they take."""
    rows = _stored("flagship", name)["efforts"]
    zero = next(row for row in rows if row["label"].endswith("effort 0"))
    cells = [
        [
            row["label"],
            "reference" if row is zero else _percent(bd_rate(Curve(**zero["curve"]), Curve(**row["curve"])).percent),
            f"{row['seconds']:.1f}",
        ]
        for row in rows
    ]
    return _table(["", "against effort 0", "seconds a picture"], cells)


def parts(name: str) -> str:
    """What each part of a model's tables gains on every set of pictures."""
    return parts_table(_stored("flagship", name)["sets"])


def parts_table(sets: dict[str, dict[str, dict[str, float]]]) -> str:
    """Of every set and part the figures of benchmarks/parts.py."""
    cells = [
        [
            f"{pictures}: {part}",
            *(f"{found[key]:+.2f} %".replace("-", "−") for key in ("bd_rate_percent", "median", "worst")),
            f"{found['correction_bits']:.0f}",
            f"{found['encode_seconds']:.2f}",
            *(f"{found[key]:.2f}" for key in ("encode", "decode")),
        ]
        for pictures, by_part in sets.items()
        for part, found in by_part.items()
    ]
    heading = ["", "BD-rate, mean", "median", "worst", "bits of corrections", "s to encode", "× encode", "× decode"]
    return _table(heading, cells)


def speed(name: str) -> str:
    """Times of models and other codecs, and the limit of the cores, a table a size and number of threads."""
    return speed_tables(_stored("performance", name))


def batch(name: str) -> str:
    """Milliseconds a picture, of pictures one by one and several at a time."""
    found = _stored("performance", name)["ms_a_picture"]
    rows = [[what, *(f"{found[way]:.0f}" for way in (what, f"{what}_batch"))] for what in ("compress", "decompress")]
    return _table(["", "one by one", "in a batch"], rows)


def bd_rates(name: str) -> str:
    """BD-rate by RGB PSNR of a study's models against its references, over all that both curves cover."""
    study = _summary(name)
    rows = [[f"`{codec}`", *map(_percent_of, against)] for codec, against in _against(study)]
    return _table(_against_heading(study), rows)


def fixed(name: str) -> str:
    """The same over the range that all studies of Kodak have in common, and how much of it is covered."""
    study = _summary(name)
    rows = []
    for codec, against in _against(study):
        parts = [entry and entry.fixed for entry in against]
        covered = min(part.coverage for part in parts if part)
        rows.append([f"`{codec}`", *map(_percent_of, parts), f"{100 * covered:.0f}%"])
    return _table([*_against_heading(study), "covered"], rows)


def ranges(name: str) -> str:
    """What a study's models cost, and the RGB PSNR that their curves cover."""
    rows = []
    for codec, entry in _models(_summary(name)):
        values = entry.curves[PSNR].values
        rows.append([f"`{codec}`", *_macs(entry), f"{min(values):.1f}", f"{max(values):.1f}"])
    return _table(["", "decoder, MAC/pixel", "encoder, MAC/pixel", "from dB", "to dB"], rows)


def quality(name: str) -> str:
    """bpp and PSNR of a study's models at each quality."""
    curves = {label: codec.curves[PSNR] for label, codec in _models(_summary(name))}
    cells = {
        label: {q: [f"{bpp:.4f}", f"{value:.2f}"] for q, bpp, value in zip(*curve, strict=True)}
        for label, curve in curves.items()
    }
    qualities = sorted({q for of_one in cells.values() for q in of_one})
    rows = [[f"{q:g}", *(cell for of_one in cells.values() for cell in of_one.get(q, ["", ""]))] for q in qualities]
    return _table(["quality", *(f"`{label}`, {unit}" for label in cells for unit in ("bpp", "dB"))], rows)


def against_field(name: str) -> str:
    """Of Kodak: every codec that was run, the farthest from VTM first, against VTM and against our VVC."""
    study = _summary(name)
    rows = []
    for codec, _ in _farthest_first(study):
        vtm, vvc = study.bd_rate[VTM][codec][PSNR], study.bd_rate[VVC].get(codec)
        rows.append(
            [
                _title(codec),
                _percent(vtm.percent),
                f"{vtm.low:.1f}",
                f"{vtm.high:.1f}",
                _percent(vtm.fixed.percent),
                f"{vtm.fixed.coverage:.0%}",
                _percent(vvc[PSNR].percent) if vvc else "reference",
                *(map(_percent, vvc[PSNR].interval) if vvc else ["", ""]),
                _percent_of(vvc.get(MS_SSIM)) if vvc else "reference",
            ]
        )
    heading = ["against VTM", "from dB", "to dB", "over 29–37 dB", "covered"]
    heading += ["against our VVC", "lower end", "upper end", "MS-SSIM, against our VVC"]
    return _table(["", *heading], rows)


def cost(name: str) -> str:
    """Of the same codecs: operations, time and memory."""
    rows = []
    for codec, entry in _farthest_first(_summary(name)):
        milliseconds = [f"{value:,.0f}" for value in (entry.encode_ms_per_megapixel, entry.decode_ms_per_megapixel)]
        memory = f"{entry.peak_memory_mib:.0f}" if entry.peak_memory_mib else ""
        rows.append([_title(codec), _macs(entry)[0] if entry.complexity else "", *milliseconds, memory])
    return _table(["", "MAC/pixel to decode", "encode, ms/megapixel", "decode, ms/megapixel", "peak MiB"], rows)


def seven(name: str) -> str:
    """BD-rate against our VVC by RGB PSNR and by each of JPEG AI's seven metrics, and the seven's mean."""
    study = _summary(name)
    metrics = [metric for metric in GROUPS["jpeg_ai"] if metric in study.metrics]
    rows = []
    for codec, found in study.bd_rate[VVC].items():
        percents = [found[metric].percent for metric in metrics]
        written = [_percent(found[PSNR].percent), *map(_percent, percents), _percent(sum(percents) / len(percents))]
        rows.append([_title(codec), *written])
    return _table(["", "PSNR RGB", *(METRICS[metric].title for metric in metrics), "mean of the seven"], rows)


KINDS = {
    "arms": arms,
    "rows": rows_of,
    "encoders": encoders,
    "bits": bits,
    "extremes": extremes,
    "rounds": rounds,
    "seconds": seconds,
    "training": training,
    "entries": entries,
    "cutting": cutting,
    "containers": containers,
    "processes": processes,
    "efforts": efforts,
    "parts": parts,
    "speed": speed,
    "batch": batch,
    "bd_rate": bd_rates,
    "fixed": fixed,
    "ranges": ranges,
    "quality": quality,
    "study": against_field,
    "cost": cost,
    "seven": seven,
}


def _stored(folder: str, name: str) -> Any:
    return json.loads((RESULTS / folder / f"{name}.json").read_text(encoding="utf-8"))


def _summary(name: str) -> Summary:
    return summary.read(RESULTS / name)


def _models(study: Summary) -> list[tuple[str, CodecEntry]]:
    return [(label, codec) for label, codec in study.codecs.items() if codec.kind == "model"]


def _against(study: Summary) -> Iterator[tuple[str, list[BdRateEntry | None]]]:
    """Of each model, its BD-rate against every reference of the study; None against itself."""
    for codec, _ in _models(study):
        yield codec, [study.bd_rate[anchor].get(codec, {}).get(PSNR) for anchor in study.anchors]


def _against_heading(study: Summary) -> list[str]:
    return ["", *(f"against {_title(anchor)}" for anchor in study.anchors)]


def _farthest_first(study: Summary) -> list[tuple[str, CodecEntry]]:
    against = study.bd_rate[VTM]
    return sorted(study.codecs.items(), key=lambda item: -against[item[0]][PSNR].percent)


def _macs(entry: CodecEntry) -> list[str]:
    return [
        f"{macs:,.0f}" for macs in (entry.complexity.decoder_macs_per_pixel, entry.complexity.encoder_macs_per_pixel)
    ]


def _title(codec: str) -> str:
    """Models in code type, as they are named on the command line; other codecs by the names that people use."""
    known = {VTM: "VTM", VVC: "our VVC"} | {name: label(name) for name in ("jpeg", "webp")}
    return known.get(codec) or (f"`{codec}`" if label(codec) == codec else label(codec))


def _percent_of(entry: BdRateEntry | FixedRange | None) -> str:
    return _percent(entry and entry.percent)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f} %".replace("-", "−")


def _points(curve: dict[str, list[float]]) -> list[tuple[float, float]]:
    return list(zip(curve["bpp"], curve["psnr_db"], strict=True))


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column to the left, numbers to the right."""
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
