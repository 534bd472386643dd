"""The tables of docs/{ablations,flagship,evaluation,scaling}.md, from stored results: python benchmarks/tables.py

A table stands between `<!-- kind name -->` and `<!-- end -->` and is replaced as a whole:

    arms NAME       results/ablations/NAME.json, of benchmarks/ablations.py
    bits NAME       results/flagship/NAME.json, of benchmarks/bits.py
    rounds NAME     results/flagship/NAME.json, a copy of a run's rounds/rounds.json
    seconds NAME    results/flagship/NAME.json, a copy of a run's seconds.json
    training NAME   results/training/NAME.json, of benchmarks/train.py
    processes NAME  results/training/NAME.json: seconds of a stage of two lengths, by trainer
    efforts NAME    results/flagship/NAME.json, of benchmarks/encoder.py
    bd_rate NAME    results/NAME/summary.json, of slimcodec evaluate: every model of the study
    quality NAME    the same: bpp and PSNR by quality
    study NAME      the same, of Kodak: everything that was run, against VTM and our VVC
    seven NAME      the same: JPEG AI's seven metrics, against our VVC
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimcodec.codec.atomic import write_text
from slimcodec.evaluation.curves import Curve, bd_rate
from slimcodec.evaluation.metrics import GROUPS, METRICS
from slimcodec.evaluation.summary import VTM
from slimcodec.report.style import label

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGES = tuple(ROOT / "docs" / f"{name}.md" for name in ("ablations", "flagship", "evaluation", "scaling"))
MARKED = re.compile(r"<!-- (\w+) (\S+) -->\n.*?<!-- end -->", re.DOTALL)
PSNR, MS_SSIM = "psnr_rgb_db", "ms_ssim_db"
VVC = "vvc"  # ours: VVenC
ANCHOR = "mbt2018_mean"  # of benchmarks/train.py
EXTREMES = 3  # pictures shown from either end


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
                f"{against.low:.1f}–{against.high:.1f} dB",
            ]
        )
    return _table(["", "decoder, MAC/pixel", "encoder", "seconds", "BD-rate", "over"], rows)


def bits(name: str) -> str:
    """bpp of z and of every stage by quality, teacher → student; and the pictures that lose least and most."""
    models = _stored("flagship", name)["models"]
    teacher, student = models["teacher"], models["student"]
    stages = range(1, len(teacher["bpp"][0]))
    rows = []
    for quality, pair in enumerate(zip(teacher["bpp"], student["bpp"], strict=True), start=1):
        columns = zip(*([*parts, sum(parts)] for parts in pair), strict=True)
        rows.append([str(quality), *(f"{before:.4f} → {after:.4f}" for before, after in columns)])
    by_quality = _table(["quality", "z", *(f"r, stage {stage}" for stage in stages), "all"], rows)
    pictures = [
        (bd_rate(_points(before), _points(student["pictures"][picture])).percent, picture)
        for picture, before in teacher["pictures"].items()
    ]
    ordered = sorted(pictures)
    extremes = [[picture, _percent(percent)] for percent, picture in [*ordered[:EXTREMES], *ordered[-EXTREMES:]]]
    return f"{by_quality}\n\n{_table(['picture', 'student against teacher'], extremes)}"


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


def bd_rates(name: str) -> str:
    """BD-rate by RGB PSNR of a study's models against its references."""
    summary = _summary(name)
    rows = []
    for codec, entry in summary["codecs"].items():
        if entry["kind"] != "model":
            continue
        macs = [f"{entry['complexity'][f'{side}_macs_per_pixel']:,.0f}" for side in ("decoder", "encoder")]
        against = [summary["bd_rate"][anchor].get(codec, {}).get(PSNR) for anchor in summary["anchors"]]
        rows.append([f"`{codec}`", *macs, *map(_entry, against)])
    return _table(["", "decoder, MAC/pixel", "encoder", *(f"against {anchor}" for anchor in summary["anchors"])], rows)


def quality(name: str) -> str:
    """bpp and PSNR of a study's models at each quality."""
    codecs = {label: codec for label, codec in _summary(name)["codecs"].items() if codec["kind"] == "model"}
    curves = {label: Curve(**codec["curves"][PSNR]) for label, codec in codecs.items()}
    cells = {
        label: {q: f"{bpp:.4f} / {value:.2f}" for q, bpp, value in zip(*curve, strict=True)}
        for label, curve in curves.items()
    }
    qualities = sorted({q for of_one in cells.values() for q in of_one})
    rows = [[f"{q:g}", *(of_one.get(q, "") for of_one in cells.values())] for q in qualities]
    return _table(["quality", *(f"`{label}`, bpp / dB" for label in cells)], rows)


def study(name: str) -> str:
    """Of Kodak: every codec that was run, the farthest from VTM first."""
    summary = _summary(name)
    against_vtm, against_vvc = summary["bd_rate"][VTM], summary["bd_rate"][VVC]
    rows = []
    for codec in sorted(summary["codecs"], key=lambda codec: -against_vtm[codec][PSNR]["percent"]):
        entry, vtm = summary["codecs"][codec], against_vtm[codec][PSNR]
        macs = entry["complexity"] and f"{entry['complexity']['decoder_macs_per_pixel']:,.0f}"
        fixed, of_vvc = vtm["fixed"], against_vvc.get(codec)
        milliseconds = [entry[f"{what}_ms_per_megapixel"] for what in ("encode", "decode")]
        rows.append(
            [
                f"`{codec}`" if entry["kind"] == "model" else label(codec),
                macs or "",
                _percent(vtm["percent"]),
                f"{vtm['low']:.1f}–{vtm['high']:.1f} dB",
                f"{_percent(fixed['percent'])} ({fixed['coverage']:.0%})",
                f"{_percent(of_vvc[PSNR]['percent'])} {_interval(of_vvc[PSNR])}" if of_vvc else "reference",
                _percent(of_vvc.get(MS_SSIM, {}).get("percent")) if of_vvc else "reference",
                ", ".join(f"{value:,.0f}" for value in milliseconds),
                f"{entry['peak_memory_mib']:.0f}" if entry["peak_memory_mib"] else "",
            ]
        )
    heading = ["MAC/pixel to decode", "BD-rate against VTM", "over", "29–37 dB (covered)"]
    heading += ["against our VVC, with 95 % interval", "MS-SSIM, against our VVC"]
    heading += ["encode, decode ms/megapixel", "peak MiB"]
    return _table(["", *heading], rows)


def seven(name: str) -> str:
    """BD-rate against our VVC by RGB PSNR and by each of JPEG AI's seven metrics, and the seven's mean."""
    summary = _summary(name)
    metrics = [metric for metric in GROUPS["jpeg_ai"] if metric in summary["metrics"]]
    rows = []
    for codec, found in summary["bd_rate"][VVC].items():
        percents = [found[metric]["percent"] for metric in metrics]
        written = [_percent(found[PSNR]["percent"]), *map(_percent, percents), _percent(sum(percents) / len(percents))]
        rows.append([f"`{codec}`", *written])
    return _table(["", "PSNR RGB", *(METRICS[metric].title for metric in metrics), "mean of the seven"], rows)


KINDS = {
    "arms": arms,
    "bits": bits,
    "rounds": rounds,
    "seconds": seconds,
    "training": training,
    "processes": processes,
    "efforts": efforts,
    "bd_rate": bd_rates,
    "quality": quality,
    "study": study,
    "seven": seven,
}


def _stored(folder: str, name: str) -> Any:
    return json.loads((RESULTS / folder / f"{name}.json").read_text(encoding="utf-8"))


def _summary(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name / "summary.json").read_text(encoding="utf-8"))


def _entry(entry: dict[str, Any] | None) -> str:
    if entry is None or entry["percent"] is None:
        return "–"
    text = f"{_percent(entry['percent'])} ({entry['low']:.1f}–{entry['high']:.1f} dB)"
    if fixed := entry.get("fixed"):
        text += (
            f"; {_percent(fixed['percent'])} over {fixed['low']:.0f}–{fixed['high']:.0f} dB, {fixed['coverage']:.0%}"
        )
    return text


def _interval(entry: dict[str, Any]) -> str:
    low, high = entry["interval"]
    return f"[{_percent(low)}, {_percent(high)}]".replace(" %", "")


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
