"""What the tests of figures, viewer and page share: photos, codecs that run at once, and a complete small summary."""

import io
import math
from pathlib import Path

import skimage.data
from PIL import Image

from slimcodec.evaluation.metrics import PSNR
from slimcodec.evaluation.points import measure
from slimcodec.evaluation.summary import Summary, from_json

NASTY = "</script><script>alert('x')</script>&\".png"  # a file may be called so
QUALITIES = (20.0, 40.0, 60.0, 80.0)


class PillowFile:
    """JPEG or WebP by Pillow under any name; `decoded` counts, and `broken` fails."""

    kind = "anchor"
    qualities = QUALITIES

    def __init__(self, name, format="jpeg", broken=False):
        self.name, self.format, self.broken, self.decoded = name, format, broken, 0

    @property
    def settings(self):
        return f"Pillow, {self.format}, {self.name}"

    def compress(self, picture, quality):
        if self.broken:
            raise RuntimeError("timed out after\n600 s")
        file = io.BytesIO()
        picture.save(file, format=self.format, quality=int(quality))
        return file.getvalue()

    def decompress(self, data):
        self.decoded += 1
        with Image.open(io.BytesIO(data)) as file:
            return file.convert("RGB")


def make_photos(folder: Path, names=("astronaut", "chelsea", "coffee"), box=(100, 60, 260, 180)) -> list[Path]:
    """Crops of photos that scikit-image brings, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(getattr(skimage.data, name)()).crop(box).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


def make_points(photos, codecs, folder: Path):
    return measure(codecs, photos, folder / "points.csv", metrics=[PSNR, "aad"]).points


def curve(*, bits=1.0, gain=0.0):
    """Four points of about 6 dB per doubling of a rate."""
    bpp = [bits * rate for rate in (0.15, 0.35, 0.8, 1.5)]
    values = [37 + gain + 6 * math.log2(rate / bits) - 0.3 * math.log2(rate / bits) ** 2 for rate in bpp]
    return {"quality": list(QUALITIES), "bpp": bpp, "values": values}


def a_codec(bits, *, kind="anchor", role=None, key="", decoder=None):
    metrics = {PSNR: curve(bits=bits), "aad": {**curve(bits=bits), "values": [9.0, 6.0, 4.0, 2.5]}}
    return {
        "kind": kind,
        "role": role,
        "settings": "effort 0 <b>bold</b>",
        "key": key,
        "qualities": list(QUALITIES),
        "pictures": 3,
        "curves": metrics,
        "encode_ms_per_megapixel": 380.0,
        "decode_ms_per_megapixel": 7.28,
        "peak_memory_mib": None,
        "complexity": None if decoder is None else a_complexity(decoder),
    }


def a_complexity(decoder):
    channels = round(decoder / 50)
    layers = {"g_s 1/16": (channels, 160), "h_mean 1": (32, 32)}
    parts = {"h_scale": 100.0, "h_mean": 50.0, "context": 250.0, "g_s": decoder - 400.0}
    return {
        "encoder_macs_per_pixel": 9900.0,
        "decoder_macs_per_pixel": decoder,
        "parameters": 2_400_000,
        "encoder": {"g_a": 9000.0, "h_a": 600.0, "h_scale": 100.0, "h_mean": 50.0, "context": 150.0},
        "decoder": parts,
        "widths": {name: {"label": name, "channels": kept, "of": of} for name, (kept, of) in layers.items()},
    }


def a_rate(percent):
    return {
        "percent": percent,
        "low": 27.5,
        "high": 36.25,
        "coverage": 0.9,
        "monotonic": True,
        "cubic_percent": percent + 0.4,
        "bd_quality": -percent / 20,
        "fixed": {"low": 29.0, "high": 37.0, "percent": percent + 1, "coverage": 0.8},
        "pictures_percent": percent - 0.5,
        "pictures": 3,
        "interval": [percent - 2, percent + 2],
    }


def a_summary(**changes) -> Summary:
    """Teacher, two rounds, a student that is the second, JPEG and WebP, and three published curves.

    `changes` are as in JSON.
    """
    codecs = {
        "teacher": a_codec(1.5, kind="model", role="teacher", key="t", decoder=9000.0),
        "distilled": a_codec(1.6, kind="model", role="round", key="d", decoder=4400.0),
        "round 1": a_codec(1.8, kind="model", role="round", key="s", decoder=2000.0),
        "slim": a_codec(1.8, kind="model", role="student", key="s", decoder=2000.0),
        "jpeg": a_codec(2.6, key="j"),
        "webp": a_codec(1.7, key="w"),
    }
    quoted = {
        "compressai:vtm": {"source": "a repository", "decoder_kmacs_per_pixel": None, "curves": {PSNR: curve()}},
        "compressai:jpeg": {
            "source": "a repository",
            "decoder_kmacs_per_pixel": None,
            "curves": {PSNR: curve(bits=2.7)},
        },
        "elic": {
            "source": "https://example.org/elic",
            "decoder_kmacs_per_pixel": 382.0,
            "curves": {PSNR: curve(bits=0.9)},
        },
    }
    percents = {"teacher": 50, "distilled": 60, "round 1": 80, "slim": 80, "jpeg": 160, "webp": 70}
    percents |= {"compressai:jpeg": 170, "elic": -7}
    rates = {name: {PSNR: a_rate(float(percent))} for name, percent in percents.items()}
    machine = {
        "cpu": "a processor",
        "cores": 2,
        "memory_gib": 23.5,
        "system": "Linux",
        "python": "3.11",
        "libraries": {"torch": "2.15"},
    }
    summary = {
        "data": {"name": "three photos", "pictures": ["astronaut.png", "chelsea.png", "coffee.png"],
                 "sha256": {}, "megapixels": 0.0576, "left_out": {NASTY: "not a picture"}},
        "provenance": {"date": "2026-11-22", "version": "0.4.0", "commit": None, "command": "slimcodec evaluate photos",
                       "machine": machine, "jobs": 2, "threads": 1},
        "metrics": [PSNR, "aad"],
        "unavailable": {"vmaf": "ffmpeg has no libvmaf"},
        "failures": [{"codec": "webp", "picture": "coffee.png", "quality": 60.0, "reason": "timed out"},
                     {"codec": "jxl", "picture": "", "quality": None, "reason": "no encoder"}],
        "target_macs_per_pixel": 2000,
        "rounds": ["distilled", "round 1"],
        "codecs": codecs,
        "quoted": quoted,
        "anchors": ["compressai:vtm", "teacher"],
        "bd_rate": {"compressai:vtm": rates, "teacher": {"slim": {PSNR: a_rate(20.0)}}},
    }  # fmt: skip
    return from_json(summary | changes)


def bare_summary():
    """One anchor at one quality on one photo: the least that there can be."""
    point = {"quality": [40.0], "bpp": [0.5], "values": [31.0]}
    jpeg = a_codec(1.0) | {"qualities": [40.0], "pictures": 1, "curves": {PSNR: point}, "peak_memory_mib": 80.0}
    data = {"name": "one photo", "pictures": ["a.png"], "sha256": {}, "megapixels": 0.02, "left_out": {}}
    nothing = {"unavailable": {}, "failures": [], "rounds": [], "quoted": {}, "anchors": [], "bd_rate": {}}
    return a_summary(**nothing, data=data, provenance={}, metrics=[PSNR], codecs={"jpeg": jpeg})
