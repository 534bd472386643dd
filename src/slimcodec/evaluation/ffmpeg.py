"""The ffmpeg that imageio-ffmpeg brings along, called as a process: bytes in, bytes out, one thread, a time limit.

    data = convert(picture, source=["-f", "rawvideo", ...], sink=["-c:v", "libx265", "-f", "hevc"], seconds=60)

Only pipes and local files are ever named to it, so it makes no connection. Whatever goes wrong is one line.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from functools import cache

from slimcodec import InvalidInput

REMEDY = "pip install 'slimcodec[eval]'"

# What ffmpeg adds after the line that says what was wrong.
_BOILERPLATE = re.compile(
    r"Conversion failed|Task finished|Terminating thread|Could not open encoder|[Cc]annot open lib|Nothing was written"
    r"|Error (while (opening|processing)|initializing|opening|submitting|encoding|sending)|Output file is empty"
    r"|encoded 0 frames|Decode error rate|Decoding error|Last message repeated"
)
_SPEAKER = re.compile(r"^(\[[^]]* @ 0x[0-9a-f]+\]\s*)+")


@cache
def executable() -> str:
    """Path of the program; `InvalidInput` with the remedy when imageio-ffmpeg or its ffmpeg is missing."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe  # late: an optional dependency

        return get_ffmpeg_exe()
    except ImportError as error:
        raise InvalidInput(f"imageio-ffmpeg is not installed; {REMEDY}") from error
    except RuntimeError as error:
        raise InvalidInput(
            f"imageio-ffmpeg has no ffmpeg for this system; {REMEDY}, or set IMAGEIO_FFMPEG_EXE"
        ) from error


def unavailable(*, encoder: str | None = None, filter: str | None = None) -> str | None:
    """Why ffmpeg, or its encoder or filter of that name, cannot be used here, with the remedy; None when it can."""
    try:
        if encoder and not has(encoder=encoder):
            return f"{executable()} has no encoder {encoder}; {REMEDY}, and leave IMAGEIO_FFMPEG_EXE unset"
        if filter and not has(filter=filter):
            return f"{executable()} has no filter {filter}; {REMEDY}, and leave IMAGEIO_FFMPEG_EXE unset"
        executable()
    except InvalidInput as error:
        return str(error)
    return None


def has(*, encoder: str | None = None, decoder: str | None = None, filter: str | None = None) -> bool:
    """Whether ffmpeg has all of these, by their exact names; `InvalidInput` when there is no ffmpeg."""
    wanted = {"encoders": encoder, "decoders": decoder, "filters": filter}
    return all(name in _names(kind) for kind, name in wanted.items() if name)


@cache
def _names(kind):
    """All names of a kind: the second word of every line that starts with flags."""
    listing = run([f"-{kind}"]).decode("utf-8", "replace")
    return frozenset(re.findall(r"^ [A-Z.|]{2,6} (\w+) ", listing, re.MULTILINE))


@cache
def version() -> str:
    """ffmpeg's version, such as "9.0.2"; all that it says of itself when that is not a number."""
    words = run(["-version"]).decode("utf-8", "replace").split()
    return re.sub(r"^n?(\d+(\.\d+)*).*", r"\1", words[2])


@cache
def encoder_version(encoder: str) -> str:
    """The version that x265 or vvenc prints of itself while it encodes a grey picture; "" for one that prints none."""
    grey = ["-f", "lavfi", "-i", "color=gray:size=64x64,format=yuv420p10le", "-frames:v", "1", "-c:v", encoder]
    result = _started([*grey, "-f", "null", "-"], b"", 60.0, None, loglevel="verbose")
    found = re.search(r"(?:encoder version|libvvenc version:) v?(\d+\.\d+[\w.+-]*)", result.stderr)
    return found.group(1) if found else ""


def convert(data: bytes, *, source: Sequence[str], sink: Sequence[str], seconds: float = 60.0) -> bytes:
    """Pass `data` through ffmpeg: `source` says what it is, `sink` what to make of it; both on one thread.

    Raises `InvalidInput` like `run`.
    """
    incoming = ["-threads", "1", "-protocol_whitelist", "pipe", *source, "-i", "pipe:0"]
    return run([*incoming, "-threads", "1", *sink, "pipe:1"], data, seconds=seconds)


def run(arguments: Sequence[str], data: bytes = b"", *, seconds: float = 60.0, folder=None) -> bytes:
    """What ffmpeg writes to its output, given `data` as its input; relative file names are those in `folder`.

    Raises `InvalidInput` with one line when there is no ffmpeg, when it fails (its own last word), or when it takes
    longer than `seconds`; then it is killed.
    """
    result = _started(arguments, data, seconds, folder)
    if result.returncode:
        raise InvalidInput(f"ffmpeg failed: {_reason(result.stderr) or _ending(result.returncode)}")
    return result.stdout


def _started(arguments, data, seconds, folder, loglevel="error"):
    quiet = ["-hide_banner", "-nostats", "-loglevel", loglevel, "-filter_threads", "1", "-filter_complex_threads", "1"]
    command = [executable(), *quiet, *arguments]
    environment = {**os.environ, "AV_LOG_FORCE_NOCOLOR": "1"}
    try:
        result = subprocess.run(
            command, input=data, capture_output=True, timeout=seconds, cwd=folder, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(f"ffmpeg took longer than {seconds:.3g} seconds and was stopped") from error
    except OSError as error:
        raise InvalidInput(f"cannot start {command[0]}: {error.strerror}; {REMEDY}") from error
    result.stderr = result.stderr.decode("utf-8", "replace")
    return result


def _reason(stderr):
    """The last line that says what was wrong, without the name of the part of ffmpeg that said it."""
    lines = [_SPEAKER.sub("", line).strip() for line in stderr.splitlines()]
    lines = [line for line in lines if line]
    meant = [line for line in lines if not _BOILERPLATE.search(line)]
    return (meant or lines or [""])[-1]


def _ending(returncode):
    return f"ended by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
