"""The peak memory of a process that codes one picture. It runs as a module, so that nothing else is in that process.

Linux's /proc is asked, not getrusage: what that calls a process's maximum includes the one that started it.
"""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from slimcodec.evaluation.photos import open_photo
from slimcodec.evaluation.points import Codec

TIMEOUT_SECONDS = 600
BETWEEN_LOOKS_SECONDS = 0.01


def peak_mib(codec: Codec, photo: Path, quality: float) -> float | None:
    """MiB that compressing and decompressing the photo takes at its peak, in a process of its own.

    Python, the libraries and the model are in it, and the largest program that the codec calls. None where it cannot
    be measured: the operating system does not say, the codec fails, or it has no name by which a process finds it.
    """
    from slimcodec.evaluation import anchors  # late: it would be part of what the process below takes

    if codec.kind == "anchor" and codec.name not in anchors.NAMES:
        return None
    source = str(codec.directory) if codec.kind == "model" else codec.name
    arguments = [codec.kind, source, str(getattr(codec, "effort", 0)), str(photo), str(quality)]
    command = [sys.executable, "-m", __name__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    except subprocess.SubprocessError:
        return None
    return float(done.stdout)


def main(kind: str, source: str, effort: str, photo: str, quality: str) -> None:
    if kind == "model":
        from slimcodec.evaluation.codecs import ModelCodec

        codec = ModelCodec.find(source, effort=int(effort))
    else:
        from slimcodec.evaluation import anchors

        codec = anchors.codec(source)
    picture = open_photo(Path(photo))
    with _Children() as children:
        codec.decompress(codec.compress(picture, float(quality)))
    print(_peak_of("self") + children.peak)


class _Children(threading.Thread):
    """Looks at the programs that this process runs; `peak` is the MiB of the largest."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0.0
        self.stopped = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()

    def run(self):
        own = os.readlink("/proc/self/exe")
        while not self.stopped.wait(BETWEEN_LOOKS_SECONDS):
            for children in Path("/proc/self/task").glob("*/children"):
                for child in _text(children).split():
                    # A child that is not yet the program that it will be shares this process's memory.
                    if _target(f"/proc/{child}/exe") not in (own, None):
                        self.peak = max(self.peak, _peak_of(child))


def _peak_of(process):
    found = re.search(r"VmHWM:\s+(\d+) kB", _text(Path(f"/proc/{process}/status")))
    return int(found[1]) / 1024 if found else 0.0


def _text(path):
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""


def _target(link):
    try:
        return os.readlink(link)
    except OSError:
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
