"""PyTorch and ONNX Runtime beside each other: a cold start, and the seconds and memory of a picture.

    python benchmarks/backends.py slim-2k --photos KODAK [--large PICTURE] [--json FILE]

A cold start is a new process that decodes the first photo and saves a PNG, with one thread. Encoding and decoding are
timed in one process for each number of threads, a picture by one backend and then the other, so that ratios hold
where clocks do not. All are medians.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import slimcodec
from slimcodec.codec.atomic import write_text
from slimcodec.codec.inference import BACKENDS

COLD_RUNS, LARGE_RUNS = 5, 3
# Of what a user does, with the backend named.
COLD = """
import sys, slimcodec
codec = slimcodec.load(sys.argv[1], backend=sys.argv[2])
codec.decompress(open(sys.argv[3], "rb").read()).save(sys.argv[4])
"""


def main() -> None:
    options = _options()
    if options.threads:  # one of the processes that this script starts
        print(json.dumps(_timed(options)))
        return
    result = {
        "command": "python benchmarks/backends.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "cold": {backend: _cold(options, backend) for backend in BACKENDS},
        "threads": {threads: _in_a_process(threads) for threads in (1, 2)},
    }
    print(json.dumps(result, indent=1))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--large", type=Path, help="a large picture, such as one of 12 megapixels")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _cold(options: argparse.Namespace, backend: str) -> dict[str, float]:
    """CPU seconds and peak memory of new processes."""
    first = min(options.photos.glob("*.png"))
    source, target = Path("cold.slim"), Path("cold.png")
    # In a process of its own: the others begin with the peak memory of this one.
    command = [sys.executable, "-m", "slimcodec", "compress", "--force", "--quality", "4", str(first), str(source)]
    subprocess.run(command, check=True)
    arguments = [sys.executable, "-c", COLD, options.model, backend, str(source), str(target)]
    found = []
    for _ in range(COLD_RUNS):
        process = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"})
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0
        found.append((used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))
    source.unlink(), target.unlink()
    seconds, megabytes = (statistics.median(values) for values in zip(*found, strict=True))
    return {"cpu_seconds": seconds, "peak_mib": megabytes}


def _in_a_process(threads: int) -> dict[str, Any]:
    arguments = [sys.executable, *sys.argv, "--threads", str(threads)]
    only = ",".join(map(str, range(threads)))
    command = ["taskset", "-c", only, *arguments]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, check=True)
    return json.loads(done.stdout)


def _timed(options: argparse.Namespace) -> dict[str, Any]:
    codecs = {backend: slimcodec.load(options.model, backend=backend) for backend in BACKENDS}
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(options.photos.glob("*.png"))]
    found = {"small": _medians(codecs, photos[: options.limit])}
    if options.large:
        large = np.asarray(Image.open(options.large).convert("RGB"))
        found["large"] = _medians(codecs, [large] * LARGE_RUNS)
    return found | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def _medians(codecs: dict[str, slimcodec.Codec], photos: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Backend → milliseconds to encode and to decode; the first photo warms up."""
    times: dict[str, dict[str, list[float]]] = {name: {"encode": [], "decode": []} for name in codecs}
    for photo in [photos[0], *photos]:
        for name, codec in codecs.items():
            data, encoding = _clocked(lambda codec=codec, photo=photo: codec.compress(photo, quality=4))
            _, decoding = _clocked(lambda codec=codec, data=data: codec.decompress(data))
            times[name]["encode"].append(encoding)
            times[name]["decode"].append(decoding)
    return {
        name: {what: statistics.median(values[1:]) for what, values in of_codec.items()}
        for name, of_codec in times.items()
    }


def _clocked(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    return result, 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
