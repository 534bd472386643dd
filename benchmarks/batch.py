"""What compress_batch and decompress_batch are worth: pictures one by one, and several at a time.

    python benchmarks/batch.py MODEL --photos FOLDER --json FILE

One by one, each picture has all threads; in a batch, each core has a picture of its own. The least of
several rounds counts: other work on the machine only adds to it.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import slimcodec
from slimcodec.codec import batch
from slimcodec.evaluation.photos import find_photos, open_photo

ROUNDS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    codec = slimcodec.load(options.model)
    photos = [np.asarray(open_photo(path)) for path in find_photos(options.photos, options.limit)]
    files = codec.compress_batch(photos)
    found = {
        "compress": lambda: [codec.compress(photo) for photo in photos],
        "compress_batch": lambda: codec.compress_batch(photos),
        "decompress": lambda: [codec.decompress(data) for data in files],
        "decompress_batch": lambda: codec.decompress_batch(files),
    }
    rounds = [{name: seconds(work) for name, work in found.items()} for _ in range(ROUNDS)]
    milliseconds = {name: round(1000 * min(times[name] for times in rounds) / len(photos), 1) for name in found}
    for name, value in milliseconds.items():
        print(f"{name:20}{value:10.1f} ms a picture")
    if options.json:
        machine = {"cores": os.cpu_count(), "threads": batch.threads(), "load": os.getloadavg()[0]}
        record = {"model": options.model, "pictures": len(photos), "ms_a_picture": milliseconds, "machine": machine}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
