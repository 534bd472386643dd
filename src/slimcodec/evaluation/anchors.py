"""The other codecs that run here, as anchors to measure beside a model.

    codec("hevc").compress(picture, 30) -> bytes;  codec("hevc").decompress(bytes) -> picture

An anchor is given its best fair chance at PSNR: encoders are told to tune for it where they tune for the eye, and
work slowly where that pays. JPEG and WebP are written as CompressAI writes them (compressai/utils/bench/codecs.py:
Pillow's defaults), so that they can be held against its published curves; `jpeg-optimised` is the better JPEG. On
Kodak WebP is CompressAI's to every published digit. JPEG takes 1.8 % less by BD-rate: the published points are those
of Pillow 7.1.2 and the IJG's libjpeg 9d, to every digit; libjpeg-turbo's files differ from those by at most 0.3 % in
size, but it decodes half-size chroma 0.1 dB better.

JPEG XL, HEVC and VVC run in ffmpeg. To the last two a picture is BT.709 YCbCr of 10 bits, full range:

    RGB, 8 bits ──float──► Y, Cb, Cr ──(4:2:0: Lanczos, chroma between the luma samples)──► 10 bits ──ffmpeg──► bytes
    RGB, 8 bits ◄─rounded─ Y, Cb, Cr ◄─(4:2:0: Lanczos)─────────────────────────────────── 10 bits ◄─ffmpeg──

and the bytes are the bare bitstream and two more, `PADDING`. The other formats' bytes are whole files as they are
written by default, headers included (AVIF's container is some 300 bytes), JPEG 2000 alone without its wrapper.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import AvifImagePlugin, Image, UnidentifiedImageError, features
from PIL import __version__ as pillow_version

from slimcodec import InvalidInput
from slimcodec.evaluation import ffmpeg


class Scale(NamedTuple):
    """The qualities that a codec has."""

    what: str  # the codec's own word
    low: float
    high: float
    whole: bool = True

    def require(self, quality, codec):
        """Raises `InvalidInput` unless the quality is one of these."""
        if not self.low <= quality <= self.high or (self.whole and quality != int(quality)):
            raise InvalidInput(
                f"{codec}: {self.what} is {'a whole number' if self.whole else 'a number'}"
                f" from {self.low:g} to {self.high:g}, not {quality:g}"
            )


@dataclass(frozen=True)
class Anchor:
    """Another codec, as `points.measure` takes it. Small, and travels to worker processes by pickle."""

    name: str
    scale: Scale
    qualities: tuple[float, ...]  # the default ladder, lowest rate first
    kind: ClassVar[str] = "anchor"

    def compress(self, picture: Image.Image, quality: float) -> bytes:
        """A whole file of an 8-bit RGB Pillow image; every byte that decoding takes is in it.

        Raises `InvalidInput` for a quality that is not on the codec's scale, a picture that it cannot hold, and when
        the codec is missing, fails, or takes too long.
        """
        self.scale.require(quality, self.name)
        if picture.mode != "RGB":
            raise InvalidInput(f"{self.name}: the picture must be 8-bit RGB, not {picture.mode}; convert it first")
        try:
            return self._encode(picture, quality)
        except (InvalidInput, OSError, ValueError, RuntimeError) as error:
            size = f"{picture.width}x{picture.height}"
            raise InvalidInput(f"{self.name}: cannot compress {size} at {quality:g}: {error}") from error

    def decompress(self, data: bytes) -> Image.Image:
        """The 8-bit RGB Pillow image in what `compress` gave; `InvalidInput` when it cannot be decoded."""
        try:
            return self._decode(data)
        except (InvalidInput, OSError, ValueError, RuntimeError, SyntaxError) as error:
            raise InvalidInput(f"{self.name}: cannot decompress {len(data)} bytes: {error}") from error


# ---------------------------------------------------------------------------------------------------------- Pillow


@dataclass(frozen=True)
class PillowAnchor(Anchor):
    """A format that Pillow writes."""

    format: str
    feature: str  # Pillow's name for the library
    library: str
    options: Callable[[Image.Image, float], dict]  # keyword arguments of Pillow's `save`
    described: str

    @property
    def settings(self) -> str:
        return f"Pillow {pillow_version}, {self.library} {features.version(self.feature)}, {self.described}"

    def unavailable(self) -> str | None:
        """Why this cannot run here, with the remedy; None when it can."""
        if features.check(self.feature):
            return None
        return f"this Pillow {pillow_version} was built without {self.library}; pip install 'pillow>=11.3'"

    def _encode(self, picture, quality):
        if reason := self.unavailable():
            raise InvalidInput(reason)
        file = io.BytesIO()
        bare = Image.frombuffer("RGB", picture.size, picture.tobytes())  # Pillow would write what is in `info` too
        bare.save(file, format=self.format, **self.options(picture, quality))
        return file.getvalue()

    def _decode(self, data):
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # of decoding; Pillow has no other way to say so
        try:
            with Image.open(io.BytesIO(data), formats=[self.format]) as file:
                return file.convert("RGB")
        except UnidentifiedImageError as error:
            raise InvalidInput(f"not a {self.format} file") from error


def _plain(picture, quality):
    return {"quality": int(quality)}


def _optimised_jpeg(picture, quality):
    return {"quality": int(quality), "subsampling": "4:2:0", "optimize": True, "progressive": True}


def _jpeg2000(picture, quality):
    halvings = min(picture.size).bit_length() - 1  # a side of one sample cannot be halved again
    return {
        "irreversible": True,
        "mct": 1,  # YCbCr
        "quality_mode": "rates",
        "quality_layers": [8 * len(picture.getbands()) / quality],
        "num_resolutions": min(6, halvings + 1),
        "no_jp2": True,
    }


def _avif(picture, quality):
    return {
        "quality": int(quality),
        "codec": "aom",
        "speed": 4,
        "subsampling": "4:4:4",
        "max_threads": 1,
        "autotiling": False,
        "advanced": {"tune": "psnr"},
    }


# ---------------------------------------------------------------------------------------------------------- ffmpeg


@dataclass(frozen=True)
class FfmpegAnchor(Anchor):
    """An encoder in ffmpeg."""

    encoder: str
    options: tuple[str, ...]  # of the encoder, beside its quality
    muxer: str  # how ffmpeg calls the bare stream, as an output
    demuxer: str  # and as an input
    seconds_per_megapixel: float  # beyond a minute, when to give up: many times what it takes on an idle core

    @property
    def settings(self) -> str:
        if self.unavailable():
            return f"ffmpeg, {self.encoder}: not available"
        tool = f"{self.encoder} {ffmpeg.encoder_version(self.encoder)}".strip()
        return f"ffmpeg {ffmpeg.version()}, {tool}, {self._colour}, {' '.join(self.options)}"

    def unavailable(self) -> str | None:
        """Why this cannot run here, with the remedy; None when it can."""
        return ffmpeg.unavailable(encoder=self.encoder)

    def _ffmpeg(self, data, size, source, sink):
        """Convert one picture of width and height `size`."""
        seconds = 60 + self.seconds_per_megapixel * size[0] * size[1] / 1e6
        return ffmpeg.convert(data, source=source, sink=["-frames:v", "1", *sink], seconds=seconds)


def _largest(data):
    """A size that the picture in `data` does not exceed: no photo takes less than a tenth of a bit per pixel."""
    return 80 * len(data), 1


@dataclass(frozen=True)
class JxlAnchor(FfmpegAnchor):
    """JPEG XL by libjxl; the quality is its Butteraugli distance."""

    _colour: ClassVar[str] = "XYB 4:4:4"

    def _encode(self, picture, quality):
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{picture.width}x{picture.height}"]
        sink = ["-c:v", self.encoder, "-distance", f"{quality:g}", *self.options, "-f", self.muxer]
        return self._ffmpeg(picture.tobytes(), picture.size, source, sink)

    def _decode(self, data):
        sink = ["-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe"]
        ppm = self._ffmpeg(data, _largest(data), ["-f", self.demuxer], sink)
        with Image.open(io.BytesIO(ppm), formats=["PPM"]) as file:
            return file.convert("RGB")


# Samples that were added at the right and at the bottom, to reach the sizes that the encoder takes. In an ordinary
# picture there are none; then the two bytes are trailing zeros that the bitstream formats allow (Annex B).
PADDING = struct.Struct("BB")


@dataclass(frozen=True)
class VideoAnchor(FfmpegAnchor):
    """The intra coding of a video codec, on one frame; the quality is its QP."""

    halved_chroma: bool
    smallest: int  # side of a picture

    @property
    def _colour(self):
        return f"BT.709 YCbCr {'4:2:0' if self.halved_chroma else '4:4:4'} 10 bit full range"

    @property
    def _pixel_format(self):
        return "yuv420p10le" if self.halved_chroma else "yuv444p10le"

    def _encode(self, picture, quality):
        right, bottom = (self._coded(side) - side for side in picture.size)
        pixels = np.pad(np.asarray(picture), ((0, bottom), (0, right), (0, 0)), mode="edge")
        height, width, _ = pixels.shape
        shape = ["-pix_fmt", self._pixel_format, "-video_size", f"{width}x{height}"]
        source = ["-f", "rawvideo", *shape, "-framerate", "1"]
        sink = ["-c:v", self.encoder, "-qp", f"{quality:g}", *self.options, "-f", self.muxer]
        stream = self._ffmpeg(_frame(pixels, self.halved_chroma), (width, height), source, sink)
        return stream + PADDING.pack(right, bottom)

    def _coded(self, side):
        even = side + side % 2 if self.halved_chroma else side
        return max(even, self.smallest)

    def _decode(self, data):
        stream, padding = data[: -PADDING.size], data[-PADDING.size :]
        source = ["-err_detect", "explode", "-f", self.demuxer]
        sink = ["-strict", "-1", "-pix_fmt", self._pixel_format, "-f", "yuv4mpegpipe"]
        header, _, frame = self._ffmpeg(stream, _largest(data), source, sink).partition(b"\nFRAME\n")
        width, height = (int(word[1:]) for word in header.split()[1:3])  # YUV4MPEG2 W768 H512 ...
        right, bottom = PADDING.unpack(padding)
        if right >= width or bottom >= height:
            raise InvalidInput(f"{right} and {bottom} samples of padding in a frame of {width}x{height}")
        pixels = _pixels(frame, width, height, self.halved_chroma)[: height - bottom, : width - right]
        return Image.fromarray(np.ascontiguousarray(pixels))


# ---------------------------------------------------------------------------------------------------------- YCbCr

# BT.709 (Rec. ITU-R BT.709-6, item 3.2): the shares of red and blue in luma.
RED, BLUE = 0.2126, 0.0722
LEVELS = 1023  # of 10 bits, full range (Rec. ITU-T H.273, equations 29 and 30)
GREY = 512


def _frame(pixels, halved_chroma):
    """The planes Y, Cb, Cr of uint8 [H, W, 3] one after the other, each sample two bytes; H and W even where halved."""
    red, green, blue = (pixels[..., channel].astype(np.float32) / 255 for channel in range(3))
    luma = RED * red + (1 - RED - BLUE) * green + BLUE * blue
    chroma = [(blue - luma) / (2 - 2 * BLUE), (red - luma) / (2 - 2 * RED)]
    if halved_chroma:
        height, width = luma.shape
        chroma = [_resized(plane, width // 2, height // 2) for plane in chroma]
    planes = [LEVELS * luma, *(LEVELS * plane + GREY for plane in chroma)]
    return b"".join(plane.round().clip(0, LEVELS).astype("<u2").tobytes() for plane in planes)


def _pixels(frame, width, height, halved_chroma):
    """uint8 [H, W, 3] of the planes that `_frame` wrote."""
    samples = np.frombuffer(frame, "<u2").astype(np.float32)
    chroma_size = (height // 2, width // 2) if halved_chroma else (height, width)
    luma, chroma = np.split(samples, [width * height])
    luma = luma.reshape(height, width) / LEVELS
    cb, cr = (_resized(plane, width, height) for plane in (chroma.reshape(2, *chroma_size) - GREY) / LEVELS)
    red, blue = luma + (2 - 2 * RED) * cr, luma + (2 - 2 * BLUE) * cb
    green = (luma - RED * red - BLUE * blue) / (1 - RED - BLUE)
    return (255 * np.stack([red, green, blue], axis=-1)).round().clip(0, 255).astype(np.uint8)


def _resized(plane, width, height):
    """Float32 [H, W] to another size; as it is when it has it already."""
    if plane.shape == (height, width):
        return plane
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS))


# ---------------------------------------------------------------------------------------------------------- all

_PILLOW_SCALE = Scale("quality", 1, 100)
_ALL = (
    PillowAnchor(
        name="jpeg",
        scale=_PILLOW_SCALE,
        qualities=(5, 10, 15, 20, 30, 40, 50, 65, 75, 85, 90),
        format="jpeg",
        feature="libjpeg_turbo",
        library="libjpeg-turbo",
        options=_plain,
        described="4:2:0, standard Huffman tables",
    ),
    PillowAnchor(
        name="jpeg-optimised",
        scale=_PILLOW_SCALE,
        qualities=(5, 10, 15, 20, 30, 40, 50, 65, 75, 85, 90),
        format="jpeg",
        feature="libjpeg_turbo",
        library="libjpeg-turbo",
        options=_optimised_jpeg,
        described="4:2:0, optimised Huffman tables, progressive",
    ),
    PillowAnchor(
        name="webp",
        scale=_PILLOW_SCALE,
        qualities=(1, 5, 10, 20, 30, 40, 50, 65, 75, 85, 90),
        format="webp",
        feature="webp",
        library="libwebp",
        options=_plain,
        described="4:2:0, method 4",
    ),
    PillowAnchor(
        name="jpeg2000",
        scale=Scale("bits per pixel", 0.01, 24, whole=False),
        qualities=(0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6, 2.4),
        format="jpeg2000",
        feature="jpg_2000",
        library="OpenJPEG",
        options=_jpeg2000,
        described="YCbCr 4:4:4, irreversible 9/7, one layer of that rate, bare codestream",
    ),
    PillowAnchor(
        name="avif",
        scale=Scale("quality", 0, 100),
        qualities=(5, 12, 20, 28, 36, 44, 52, 60, 70, 80),
        format="avif",
        feature="avif",
        library="libavif",
        options=_avif,
        described="aom, YCbCr 4:4:4 8 bit, speed 4, tune psnr",
    ),
    # From a distance of 10 on libjxl halves the picture first, which costs about 1 dB: the ladder stays below.
    JxlAnchor(
        name="jxl",
        scale=Scale("Butteraugli distance", 0.05, 15, whole=False),
        qualities=(9, 7, 5, 3.5, 2.5, 1.7, 1.2, 0.8),
        encoder="libjxl",
        options=("-effort", "8"),
        muxer="image2pipe",
        demuxer="jpegxl_pipe",
        seconds_per_megapixel=120,
    ),
    VideoAnchor(
        name="hevc",
        scale=Scale("QP", 0, 51),
        qualities=(47, 44, 41, 38, 35, 32, 29, 26, 23, 20),
        encoder="libx265",
        options=(
            "-preset",
            "placebo",
            "-tune",
            "psnr",
            "-x265-params",
            "keyint=1:wpp=0:pools=none:frame-threads=1:info=0:log-level=error",
        ),
        muxer="hevc",
        demuxer="hevc",
        seconds_per_megapixel=300,
        halved_chroma=False,
        smallest=32,
    ),
    VideoAnchor(
        name="vvc",
        scale=Scale("QP", 0, 63),
        qualities=(45, 41, 37, 33, 29, 25, 21),
        encoder="libvvenc",
        options=("-preset", "medium", "-qpa", "0", "-vvenc-params", "intraperiod=1:gopsize=1"),
        muxer="vvc",
        demuxer="vvc",
        seconds_per_megapixel=1200,
        halved_chroma=True,
        smallest=32,
    ),
)
_BY_NAME = {anchor.name: anchor for anchor in _ALL}
NAMES = tuple(_BY_NAME)


def codec(name: str) -> Anchor:
    """The anchor of that name; `InvalidInput` lists them when there is none."""
    if name not in _BY_NAME:
        raise InvalidInput(f"{name!r} is not an anchor; choose from {', '.join(NAMES)}")
    return _BY_NAME[name]
