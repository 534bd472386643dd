"""The quality of one decoded picture, measured against the original.

    values, reasons = measure(resolve(["psnr", "vmaf"]), reference, picture)

Pictures are 8-bit RGB. Y, U, V are BT.709's at full range, of the 8-bit RGB values and not rounded:
Y = 0.2126 R + 0.7152 G + 0.0722 B, U = (B − Y) / 1.8556, V = (R − Y) / 1.5748 (ITU-R BT.709-6, items 3.2 and 3.3).

| name | of | what |
|---|---|---|
| psnr_rgb_db | RGB | one mean squared error over the three channels, peak 255 |
| psnr_y_db, psnr_u_db, psnr_v_db | Y, U, V at full resolution | peak 255 |
| psnr_yuv_db | Y, U, V | (6 Y + U + V) / 8 of the three in dB |
| ms_ssim | RGB | Wang, Simoncelli, Bovik 2003; mean of the channels, as CompressAI has it (pytorch_msssim) |
| ms_ssim_db | | −10 log10(1 − ms_ssim) |
| aad | RGB | average absolute difference in 8-bit levels |
| iw_ssim | Y | Wang and Li 2011 (piq) |
| vif | Y | Sheikh and Bovik 2006, the authors' pixel-domain version VIFp (piq) |
| fsim | RGB | Zhang, Zhang, Mou, Zhang 2011, the colour version FSIMc (piq) |
| nlpd | Y in [0, 1] | Laparra, Ballé, Berardino, Simoncelli 2016, as in the authors' NLP_dist.m |
| psnr_hvs_m_db | Y | Ponomarenko et al. 2007; whole 8×8 blocks only, as in the authors' psnrhvsm.m (psnr_hvsm) |
| vmaf | Y at 10 bits | Netflix's vmaf_v0.6.1 on one frame, so that its motion is zero (libvmaf in ffmpeg) |

Where JPEG AI's reference software (metrics.py) differs: it rounds Y to 8 or 10 bits for everything; takes MS-SSIM of Y;
blends NLPD's pyramid bilinearly, which changes values by up to 4 %; and reports PSNR-HVS, without the masking, in the
place of PSNR-HVS-M, with the last row and column repeated to whole blocks. Its VMAF reads 10-bit YUV 4:4:4; VMAF looks
at Y alone, so the chroma format changes nothing.

MS-SSIM, IW-SSIM, VIF and FSIM are computed in single precision: good to about 1e-5, IW-SSIM to 3e-4 (it is the worst
where large parts of a picture have one colour).
"""

import contextlib
import importlib
import io
import json
import math
import tempfile
import warnings
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slimcodec import InvalidInput
from slimcodec.evaluation import ffmpeg
from slimcodec.evaluation.nlpd import nlpd_distance

REMEDY = "pip install 'slimcodec[metrics]'"


class Metric(NamedTuple):
    """What a metric is called in tables (`title`, `unit`: "dB" or "") and in which direction it is better."""

    name: str
    title: str
    unit: str
    higher_is_better: bool


PSNR = "psnr_rgb_db"  # what BD-rates and gates are by unless another is named
METRICS = {
    metric.name: metric
    for metric in (
        Metric(PSNR, "PSNR RGB", "dB", True),
        Metric("psnr_y_db", "PSNR Y", "dB", True),
        Metric("psnr_u_db", "PSNR U", "dB", True),
        Metric("psnr_v_db", "PSNR V", "dB", True),
        Metric("psnr_yuv_db", "PSNR YUV 6:1:1", "dB", True),
        Metric("ms_ssim", "MS-SSIM", "", True),
        Metric("ms_ssim_db", "MS-SSIM", "dB", True),
        Metric("aad", "Average absolute difference", "", False),
        Metric("iw_ssim", "IW-SSIM", "", True),
        Metric("vif", "VIF", "", True),
        Metric("fsim", "FSIM", "", True),
        Metric("nlpd", "NLPD", "", False),
        Metric("psnr_hvs_m_db", "PSNR-HVS-M", "dB", True),
        Metric("vmaf", "VMAF", "", True),
    )
}
_PSNR = PSNR, "psnr_y_db", "psnr_u_db", "psnr_v_db", "psnr_yuv_db"
DEFAULT = (*_PSNR, "ms_ssim", "ms_ssim_db", "aad")
JPEG_AI = "ms_ssim", "iw_ssim", "vif", "fsim", "nlpd", "psnr_hvs_m_db", "vmaf"
GROUPS = {"psnr": _PSNR, "ms_ssim": ("ms_ssim", "ms_ssim_db"), "jpeg_ai": JPEG_AI}

# The packages that a metric is computed by: what is imported, and what pip calls it.
_PACKAGES = {
    "ms_ssim": ("pytorch_msssim", "pytorch-msssim"),
    "ms_ssim_db": ("pytorch_msssim", "pytorch-msssim"),
    "iw_ssim": ("piq", "piq"),
    "vif": ("piq", "piq"),
    "fsim": ("piq", "piq"),
    "psnr_hvs_m_db": ("psnr_hvsm", "psnr-hvsm"),
}

# Pixels that the shorter side must have: what the libraries ask for (VMAF answers nothing below 17), one block of
# PSNR-HVS-M, and for NLPD and FSIM enough for the coarsest of their scales to hold a whole pixel or wave.
_SMALLEST_SIDE = {
    "ms_ssim": 161,
    "ms_ssim_db": 161,
    "iw_ssim": 161,
    "vif": 41,
    "fsim": 48,
    "nlpd": 32,
    "psnr_hvs_m_db": 8,
    "vmaf": 17,
}


def resolve(names: Iterable[str]) -> tuple[str, ...]:
    """The metrics that `names` mean, in their order and each once: groups (`GROUPS`) expanded, commas split.

    Raises `InvalidInput` with all the names there are when one is unknown.
    """
    names = [names] if isinstance(names, str) else names
    wanted = [part.strip() for name in names for part in name.split(",")]
    return tuple(dict.fromkeys(metric for name in wanted for metric in GROUPS.get(name) or (_known(name),)))


def unavailable(name: str) -> str | None:
    """Why the metric cannot run here at all, with the remedy; None when it can. `InvalidInput` for an unknown name."""
    if _known(name) == "vmaf":
        return ffmpeg.unavailable(filter="libvmaf")
    if name not in _PACKAGES:
        return None
    module, package = _PACKAGES[name]
    try:
        _imported(module)
    except ModuleNotFoundError:
        return f"{package} is not installed; {REMEDY}"
    except (ImportError, OSError) as error:
        return f"{package} cannot be loaded ({_line(error)}); {REMEDY}"
    return None


def measure(
    names: Iterable[str], reference: np.ndarray, picture: np.ndarray
) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics of `picture` against `reference`, and for those that could not be computed the reason.

    Both are uint8 [H, W, 3]. Every name is in exactly one of the two answers. A value may be infinite (equal pictures,
    or pictures whose U or V are equal), never NaN. Raises `InvalidInput` for an unknown name, and when the two are not
    8-bit RGB pictures of one size.
    """
    pair = _Pair(reference, picture)
    values, reasons = {}, {}
    for name in map(_known, names):
        try:
            values[name] = _measured(name, pair)
        except InvalidInput as error:
            reasons[name] = str(error)
    return values, reasons


def psnr_db(reference: np.ndarray, picture: np.ndarray) -> float:
    """Peak signal-to-noise ratio of `picture` against `reference`, in dB; infinite when they are equal.

    Both are uint8 arrays [H, W, 3], 8-bit RGB: the squared error is averaged over all pixels and the three channels
    before the logarithm. Raises `InvalidInput` when they are anything else or differ in size.
    """
    return _Pair(reference, picture).psnr_rgb_db


def _measured(name, pair):
    reason = _too_small(name, pair) or unavailable(name)
    if reason:
        raise InvalidInput(reason)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            value = float(getattr(pair, name))
    except (ArithmeticError, AssertionError, LookupError, MemoryError, OSError, RuntimeError, ValueError) as error:
        raise InvalidInput(f"{METRICS[name].title} failed: {_line(error)}") from error
    if math.isnan(value):
        raise InvalidInput(f"{METRICS[name].title} has no value for these pictures (0 / 0)")
    return value


def _too_small(name, pair):
    side = _SMALLEST_SIDE.get(name, 1)
    if min(pair.reference.shape[:2]) >= side:
        return None
    return f"the picture is {_size(pair.reference)}; {METRICS[name].title} needs at least {side} pixels a side"


class _Pair:
    """A picture and its reference: each metric under its name, and what several of them share, computed once."""

    def __init__(self, reference, picture):
        _require_rgb("reference", reference)
        _require_rgb("picture", picture)
        if reference.shape != picture.shape:
            raise InvalidInput(f"the picture is {_size(picture)} but its reference is {_size(reference)}")
        self.reference, self.picture = reference, picture

    @cached_property
    def difference(self):
        """int16 [H, W, 3]"""
        return self.reference.astype(np.int16) - self.picture

    @cached_property
    def equal(self):
        return not self.difference.any()

    @cached_property
    def products(self):
        """Sums over all pixels of dR·dR, dR·dG, … as whole numbers [3][3]: every PSNR is a quadratic form of them."""
        rows = max(1, 2**18 // self.difference.shape[1])  # a strip at a time keeps the float64 copy small
        strips = (
            self.difference[start : start + rows].reshape(-1, 3).astype(np.float64)
            for start in range(0, len(self.difference), rows)
        )
        return [[int(entry) for entry in row] for row in sum(strip.T @ strip for strip in strips)]

    def _channel_psnr_db(self, weights, divisor):
        """PSNR of the channel (w · RGB) / divisor. The weights are whole, so an error of zero is exactly zero."""
        terms = zip(weights, self.products, strict=True)
        total = sum(w * v * entry for w, row in terms for v, entry in zip(weights, row, strict=True))
        return _psnr_db(total / divisor**2 / (self.difference.size // 3))

    @cached_property
    def psnr_rgb_db(self):
        return _psnr_db(sum(self.products[c][c] for c in range(3)) / self.difference.size)

    @cached_property
    def psnr_y_db(self):
        return self._channel_psnr_db((2126, 7152, 722), 10000)

    @cached_property
    def psnr_u_db(self):
        return self._channel_psnr_db((-2126, -7152, 9278), 18556)

    @cached_property
    def psnr_v_db(self):
        return self._channel_psnr_db((7874, -7152, -722), 15748)

    @property
    def psnr_yuv_db(self):
        return (6 * self.psnr_y_db + self.psnr_u_db + self.psnr_v_db) / 8

    @property
    def aad(self):
        return np.abs(self.difference).mean(dtype=np.float64)

    @cached_property
    def ms_ssim(self):
        if self.equal:  # single precision may say 0.9999999
            return 1.0
        ms_ssim = _imported("pytorch_msssim").ms_ssim
        return _without_gradients(ms_ssim, self.rgb_tensors[1], self.rgb_tensors[0], data_range=255)

    @property
    def ms_ssim_db(self):
        return -10 * math.log10(1 - self.ms_ssim) if self.ms_ssim < 1 else math.inf

    @cached_property
    def iw_ssim(self):
        """piq's order: the picture, then the reference, whose information content weighs."""
        import torch

        iw_ssim = _imported("piq").information_weighted_ssim
        try:
            return _without_gradients(iw_ssim, self.luma_tensors[1], self.luma_tensors[0], data_range=255)
        except torch.linalg.LinAlgError as error:
            raise InvalidInput("IW-SSIM has no value here: the reference has too little detail to weigh by") from error

    @cached_property
    def vif(self):
        """piq's order: the picture, then the reference, whose information is the denominator."""
        return _without_gradients(_imported("piq").vif_p, self.luma_tensors[1], self.luma_tensors[0], data_range=255)

    @cached_property
    def fsim(self):
        return _without_gradients(_imported("piq").fsim, self.rgb_tensors[1], self.rgb_tensors[0], data_range=255)

    @cached_property
    def nlpd(self):
        return nlpd_distance(*(luma / 255 for luma in self.luma))

    @cached_property
    def psnr_hvs_m_db(self):
        """psnr_hvsm gives the mean squared errors without and with masking, on a scale where the peak is 1."""
        backend = _imported("psnr_hvsm").BACKENDS["numpy"]
        _, masked = backend["hvs_hvsm_mse"](*(_whole_blocks(luma / 255) for luma in self.luma))
        return _psnr_db(float(masked), peak=1)

    @cached_property
    def vmaf(self):
        return _vmaf(*self.luma)

    @cached_property
    def luma(self):
        """Y of the reference and of the picture, float64 [H, W] in [0, 255]."""
        return tuple(rgb @ np.array([2126.0, 7152.0, 722.0]) / 10000 for rgb in (self.reference, self.picture))

    @cached_property
    def luma_tensors(self):
        """Y of the reference and of the picture, float32 [1, 1, H, W] in [0, 255]."""
        return tuple(_tensor(luma[..., None]) for luma in self.luma)

    @cached_property
    def rgb_tensors(self):
        """The reference and the picture, float32 [1, 3, H, W] in [0, 255]."""
        return _tensor(self.reference), _tensor(self.picture)


def _psnr_db(mean_squared_error, peak=255):
    return math.inf if mean_squared_error == 0 else 10 * math.log10(peak**2 / mean_squared_error)


def _tensor(channels_last):
    """[H, W, C] as float32 [1, C, H, W]; the order in memory stays, for torch convolves it several times faster."""
    import torch  # late: PSNR needs no torch

    return torch.from_numpy(channels_last.astype(np.float32)[None]).permute(0, 3, 1, 2)


def _without_gradients(metric, *tensors, **settings):
    import torch

    with torch.inference_mode():
        return metric(*tensors, **settings).item()


def _whole_blocks(luma):
    height, width = luma.shape
    return luma[: height // 8 * 8, : width // 8 * 8]


# ------------------------------------------------------------------------------------------------------------ VMAF


def _vmaf(reference, picture, *, seconds=120.0):
    """VMAF of one frame: the two go to ffmpeg as a video of two frames, which its filters part again."""
    height, width = reference.shape
    video = ["-f", "rawvideo", "-pix_fmt", "yuv420p10le", "-video_size", f"{width}x{height}", "-i", "pipe:0"]
    parted = "split[a][b];[a]trim=end_frame=1[reference];[b]trim=start_frame=1,setpts=PTS-STARTPTS[picture]"
    compared = "[picture][reference]libvmaf=model=version=vmaf_v0.6.1:log_fmt=json:log_path=vmaf.json"
    graph = ["-filter_complex", f"[0:v]{parted};{compared}", "-f", "null", "-"]
    with tempfile.TemporaryDirectory() as folder:  # the score comes as a file, in the process's own folder
        whitelist = ["-protocol_whitelist", "pipe", "-threads", "1"]
        ffmpeg.run([*whitelist, *video, *graph], _frame(reference) + _frame(picture), seconds=seconds, folder=folder)
        log = json.loads(Path(folder, "vmaf.json").read_text(encoding="utf-8"))
    return log["frames"][0]["metrics"]["vmaf"]


def _frame(luma):
    """Y at 10 bits, then two planes of grey for U and V, which VMAF does not look at."""
    height, width = luma.shape
    grey = np.full(2 * ((height + 1) // 2) * ((width + 1) // 2), 512, "<u2")
    return np.rint(luma * (1023 / 255)).astype("<u2").tobytes() + grey.tobytes()


# ---------------------------------------------------------------------------------------------------------- common


def _known(name):
    if name not in METRICS:
        known = ", ".join([*GROUPS, *(metric for metric in METRICS if metric not in GROUPS)])
        raise InvalidInput(f"there is no metric {name!r}; there are {known}")
    return name


def _imported(module):
    """A metric's package, without what it prints or warns while it is loaded."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def _line(error):
    return " ".join(str(error).split()) or type(error).__name__


def _require_rgb(name, array):
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise InvalidInput(f"{name} must be a uint8 array [H, W, 3], but is {array.dtype} {list(array.shape)}")


def _size(array):
    return f"{array.shape[1]}x{array.shape[0]}"
