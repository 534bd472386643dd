"""Model cards, rendered from model.json: what a model is for, how to use it, what it was trained on, where it fails."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from slimcodec.codec.bitstream import HASH_BYTES

TITLES = {
    "kodak": "Kodak",
    "cid22-validation": "CID22 validation",
    "clic2025-validation": "CLIC 2025 validation",
    "validation": "Validation crops",
}
CODECS = {
    "compressai:vtm": "VTM, the reference encoder of VVC (CompressAI's published curve)",
    "vvc": "VVC (VVenC, medium)",
    "hevc": "HEVC (x265)",
    "avif": "AVIF (Pillow)",
    "jxl": "JPEG XL",
    "jpeg2000": "JPEG 2000 (Pillow)",
    "webp": "WebP (Pillow)",
    "jpeg": "JPEG (Pillow)",
    "teacher": "its teacher",
}
LIMITS = """\
What was seen of this design, in the models that slimcodec ships:

- Strong, saturated colours, such as signs and paint in orange, are rare in photos. Training lost them at
  times, and they take more bits than the model foresees. Look at them first.
- Flat areas, such as skies, show a grid of 16 × 16 pixels at low qualities.
- By metrics of brightness alone it is weaker than by RGB PSNR: it spends bits on colour.
- It was trained on photos. On drawings, screenshots and text it was not measured.
- More than 8 bits a channel are rounded to 8. It is never lossless."""
CITATION = """\
```bibtex
@software{slimcodec,
  title = {slimcodec: a learned image codec whose decoder costs 2,000 multiply-accumulates a pixel},
  author = {{slimcodec contributors}},
  version = {VERSION}
}
```"""


def short(sha256: str) -> str:
    """A model's hash as files have it, in hexadecimal digits."""
    return sha256[: 2 * HASH_BYTES]


def render_card(name: str, info: dict[str, Any], *, address: str | None = None) -> str:
    """Everything that the card says is in model.json, but for what holds for all models.

    `address` is what loads the model, where that is not its name.
    """
    sections = [
        f"# {name}",
        f"A slimcodec {info['role']}: {info['decoder_macs_per_pixel']:,.0f} MAC/pixel to decode, "
        f"{info['encoder_macs_per_pixel']:,.0f} to encode, {info['parameters']:,} parameters.",
        _purpose(info),
        "## How to use it",
        _usage(name, address),
        "## What it was trained on",
        _training(info),
        "## Where it fails",
        LIMITS,
        "## Figures",
        *(section for set_name, figure in info["figures"].items() for section in _figure(set_name, figure)),
        *([] if info["figures"] else ["None were measured."]),
        "## What it costs",
        _table("part", "MAC/pixel", rows=[(part, f"{macs:,.1f}") for part, macs in info["macs_per_pixel"].items()]),
        "## Licence and citation",
        _origin(info),
        CITATION.replace("VERSION", info["slimcodec_version"]),
    ]
    return "\n\n".join(sections) + "\n"


def _purpose(info: dict[str, Any]) -> str:
    if info["role"] == "teacher":
        return (
            "It is for training: students are distilled from it, and judged against it. It compresses files, too.\n"
            "A student decodes them in a fraction of the operations."
        )
    return (
        "It is for photos that are stored or sent as small files and decoded on modest machines:\n"
        "lossy compression at any quality from 1 to 8, by one model."
    )


def _usage(name: str, address: str | None) -> str:
    said = "pip install 'slimcodec[hub]'" if address else "a model that is not installed: the path of its folder"
    return "\n".join(
        [
            "```python",
            "import slimcodec",
            "",
            f'codec = slimcodec.load("{address or name}")  # {said}',
            'codec.decompress(codec.compress("photo.jpg", quality=4)).save("decoded.png")',
            "```",
        ]
    )


def _training(info: dict[str, Any]) -> str:
    configuration, teacher = info["configuration"], info["teacher"]
    data, finish = configuration.get("data"), configuration.get("finish")
    start = finish.get("start") if isinstance(finish, dict) else None
    lines = [
        *(_photos(data) if isinstance(data, dict) else ["- photos: not recorded"]),
        *([f"- teacher: {teacher['name']} (sha256 `{short(teacher['sha256'])}…`)"] if teacher else []),
        *([f"- trained on from: {PurePath(start).name}"] if start else []),
    ]
    return "\n".join(lines)


def _photos(data: dict[str, Any]) -> list[str]:
    lines = [f"- photos: {data.get('kind', 'folder')} `{PurePath(str(data.get('root'))).name}`"]
    if validation := data.get("validation_root"):
        lines.append(f"- rounds were judged on: `{PurePath(str(validation)).name}`")
    if share := data.get("saturated"):
        lines.append(f"- crops with strong colours: {share:.0%} of them")
    return lines


def _origin(info: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"- licence: {info['licence']}",
            f"- weights: sha256 `{short(info['weights_sha256'])}…`",
            f"- made by: slimcodec {info['slimcodec_version']}, commit {info['git_commit'] or 'unknown'}",
        ]
    )


def _figure(set_name: str, figure: Any) -> list[str]:
    """The sections of a set: its BD-rates and its curve as tables, everything else as a list."""
    if not isinstance(figure, dict):
        return [f"### {_title(set_name)}", str(figure)]
    tables = []
    rates = figure.get("bd_rate_percent")
    if isinstance(rates, dict):
        ranges = figure.get("bd_rate_range_db")
        tables.append(_rates(rates, ranges if isinstance(ranges, dict) else {}))
    if curve := figure.get("curve"):
        tables.append(_curve(curve))
    in_tables = {"curve", "bd_rate_range_db", "bd_rate_percent"} if isinstance(rates, dict) else {"curve"}
    rest = "\n".join(f"- {key}: {_number(value)}" for key, value in figure.items() if key not in in_tables)
    return [f"### {_title(set_name)}", *([rest] if rest else []), *tables]


def _title(set_name: str) -> str:
    """`kodak effort 10` → Kodak, effort 10."""
    name, effort, number = set_name.partition(" effort ")
    return TITLES.get(name, name) + (f", effort {number}" if effort else "")


def _rates(rates: dict[str, Any], ranges: dict[str, Any]) -> str:
    """BD-rates by RGB PSNR, each with its range."""
    rows = []
    for codec, percent in rates.items():
        low, high = ranges.get(codec) or ("–", "–")
        name, effort, number = codec.partition(" effort ")
        known = CODECS.get(name, name) + (f" at effort {number}" if effort else "")
        rows.append((known, "–" if percent is None else f"{percent:+.1f} %", _number(low), _number(high)))
    return _table("bits for the same RGB PSNR, against", "BD-rate", "from dB", "to dB", rows=rows)


def _curve(curve: dict[str, Any]) -> str:
    rows = [
        (f"{quality:g}", f"{bpp:.4f}", "–" if psnr_db is None else f"{psnr_db:.2f}")
        for quality, bpp, psnr_db in zip(curve["quality"], curve["bpp"], curve["psnr_db"], strict=True)
    ]
    return _table("quality", "bits a pixel", "PSNR (RGB, dB)", rows=rows)


def _table(*titles: str, rows: Sequence[tuple[str, ...]]) -> str:
    """The first column names its row, unless all are numbers."""
    first = "---:" if titles[0] == "quality" else "---"
    lines = [titles, (first, *["---:"] * (len(titles) - 1)), *rows]
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- |", "|---|").replace(" ---: |", "---:|")
    )


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_number(item)}" for key, item in value.items())
    if isinstance(value, list):
        return " to ".join(_number(item) for item in value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
