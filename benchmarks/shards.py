"""Training photos in shards: how much memory any number of them takes, and how fast crops are cut from them.

    python benchmarks/shards.py --photos PHOTOS --scratch FOLDER [--entries 1000,100000] [--json FILE]

For memory, pieces of 128 x 128 pixels are cut from the photos, and as many files linked to them as there are to be
entries. A fresh process then cuts crops of 64 x 64 from their shards. Of ten million there is the index alone, whose
entries name the same photos again and again. For speed, crops of 256 x 256 are cut from the
photos as they are, from memory and from shards. Seconds are one core's, of the process and its kernel.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from slimcodec.codec.atomic import write_text
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.training.crops import CropSource, PhotoCache, ShardCache
from slimcodec.training.photos import folder_photos
from slimcodec.training.sharding import write_shards
from slimcodec.training.shards import DESCRIPTION, INDEX, STORES, open_shards

SIDE, CROP, MOST_PIECES = 128, 64, 2000
TEN_MILLION = 10_000_000
BATCH, SECONDS = 64, 20.0  # pictures in a step; how long is measured


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    shutil.rmtree(options.scratch, ignore_errors=True)
    options.scratch.mkdir(parents=True)
    pieces = _pieces(options.photos, options.scratch / "pieces")
    result = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "command": f"python benchmarks/shards.py --photos PHOTOS --entries {options.entries}",
        "entries": [
            _entries(pieces, options.scratch, int(count), store)
            for store, count in itertools.product(STORES, options.entries.split(","))
        ],
        "repeated": _repeated(pieces, options.scratch),
        "photos": _photos(options.photos, options.scratch, options.limit),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--scratch", required=True, type=Path, help="is emptied first")
    parser.add_argument("--entries", default="1000,100000")
    parser.add_argument("--limit", type=int, default=256, help="photos for speed")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------------- memory


def _pieces(photos: Path, folder: Path) -> list[Path]:
    """Files of the same size each, from all photos."""
    folder.mkdir()
    found = []
    for path in tqdm(find_photos(photos)[::4], "cutting photos"):
        picture = open_photo(path)
        corners = itertools.product(range(0, picture.width - SIDE, SIDE), range(0, picture.height - SIDE, SIDE))
        for left, top in itertools.islice(corners, 3, 60, 7):
            found.append(folder / f"{len(found)}.jpg")
            picture.crop((left, top, left + SIDE, top + SIDE)).save(found[-1], quality=95, subsampling=0)
    return found[:MOST_PIECES]


def _entries(pieces: list[Path], scratch: Path, count: int, store: str) -> dict[str, Any]:
    """Shards of so many entries, and what a process takes that cuts from them."""
    tree, out = scratch / "tree", scratch / "shards"
    for number in range(count):
        folder = tree / f"{number // 1000:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(pieces[number % len(pieces)], folder / f"{number}.jpg")
    began = time.process_time()
    shards = list(write_shards(tree, out, store=store, shard_bytes=10**8))
    seconds = time.process_time() - began
    found = {
        "store": store,
        "entries": count,
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
        "write_seconds": seconds,
        **_alone(_memory, out),
    }
    shutil.rmtree(tree)
    shutil.rmtree(out)
    return found


def _repeated(pieces: list[Path], scratch: Path) -> dict[str, Any]:
    """What a process takes that opens an index of ten million entries, and cuts."""
    out = scratch / "repeated"
    list(write_shards(pieces[0].parent, out))
    np.save(out / INDEX, np.resize(np.load(out / INDEX), TEN_MILLION))
    described = json.loads((out / DESCRIPTION).read_text())
    described["shards"][0]["photos"] = TEN_MILLION
    (out / DESCRIPTION).write_text(json.dumps(described))
    found = {"entries": TEN_MILLION, **_alone(_memory, out)}
    shutil.rmtree(out)
    return found


def _memory(out: Path) -> dict[str, float]:
    began = time.process_time()
    shards = open_shards(out)
    opened = time.process_time() - began
    speed = _speed(ShardCache(shards), CROP)
    status = Path("/proc/self/status").read_text()
    return {
        "index_bytes": (out / INDEX).stat().st_size,
        "open_seconds": opened,
        **speed,
        "peak_bytes": 1024 * int(status.partition("VmHWM:")[2].split()[0]),
    }


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


# -------------------------------------------------------------------------------------------------------------- speed


def _photos(photos: Path, scratch: Path, limit: int) -> list[dict[str, Any]]:
    """Crops of 256 x 256 a second, from memory and from shards of each kind; the photos also as JPEG."""
    tree, as_jpeg = scratch / "photos", scratch / "jpeg"
    tree.mkdir()
    as_jpeg.mkdir()
    for path in find_photos(photos)[:: max(1, len(find_photos(photos)) // limit)][:limit]:
        shutil.copy(path, tree / f"{path.stem}{path.suffix}")
        open_photo(path).save(as_jpeg / f"{path.stem}.jpg", quality=95, subsampling=0)
    decoded = folder_photos(tree)
    pixels = sum(photo.pixels.shape[0] * photo.pixels.shape[1] for photo in decoded)
    found = [{"source": "memory", "bytes_a_pixel": 3.0, **_speed(PhotoCache(decoded), 256)}]
    for name, folder, store in (
        ("pixels", tree, "pixels"),
        ("files, JPEG", as_jpeg, "files"),
        ("files", tree, "files"),
    ):
        out = scratch / f"out {name}"
        began = time.process_time()
        size = sum(shard.bytes for shard in write_shards(folder, out, store=store))
        seconds = time.process_time() - began
        speed = _speed(ShardCache(open_shards(out)), 256)
        found.append({"source": name, "bytes_a_pixel": size / pixels, "write_seconds": seconds, **speed})
    return [one | {"photos": len(decoded), "pixels": pixels} for one in found]


def _speed(cache: CropSource, size: int) -> dict[str, float]:
    """Of one core; the first step, which finds the shares of the photos, is left out."""
    cache.crops(seed=0, step=0, batch=BATCH, size=size)
    steps, read, began = 0, _bytes_read(), time.process_time()
    while time.process_time() - began < SECONDS:
        steps += 1
        cache.crops(seed=0, step=steps, batch=BATCH, size=size)
    crops = steps * BATCH
    return {
        "crops_a_second": crops / (time.process_time() - began),
        "read_bytes_a_crop": (_bytes_read() - read) / crops,
    }


def _bytes_read() -> int:
    """By this process so far, from disks or from their cache."""
    return int(Path("/proc/self/io").read_text().partition("rchar:")[2].split()[0])


if __name__ == "__main__":
    main()
