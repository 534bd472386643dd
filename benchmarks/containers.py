"""Ways to keep photos for training, compared: litdata, WebDataset, its wids, and tar files with our index.

    pip install litdata webdataset wids
    python benchmarks/containers.py --photos PHOTOS --scratch FOLDER [--json FILE]

2,000 entries, quarters of photos as JPEG, are written by each in shards of 64 MB, and read in random order, which is
what a crop's (seed, step, picture) asks for. Each reads in a fresh process, to which the network is closed. WebDataset
itself reads in the order of its tar files, through a buffer that it shuffles.
"""

import argparse
import itertools
import json
import multiprocessing
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from slimcodec.codec.atomic import write_text
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.training.sharding import write_shards
from slimcodec.training.shards import open_shards

ENTRIES, SHARD_BYTES, BUFFER = 2000, 64 * 10**6, 1000
READS = 6000
Read = Callable[[int], Any]


def main() -> None:
    options = _options()
    shutil.rmtree(options.scratch, ignore_errors=True)
    files = _quarters(options.photos, options.scratch / "photos")
    found = {name: _measured(name, files, options.scratch / name) for name in KINDS}
    result = {
        "date": date.today().isoformat(),
        "command": "python benchmarks/containers.py --photos PHOTOS",
        "entries": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "versions": {name: version(name) for name in ("litdata", "webdataset", "wids")},
        "kinds": found,
    }
    print(json.dumps(result, indent=1))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--scratch", required=True, type=Path, help="is emptied first")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _quarters(photos: Path, folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    found = []
    for path in tqdm(find_photos(photos)[: ENTRIES // 4], "cutting photos"):
        picture = open_photo(path)
        width, height = picture.width // 2, picture.height // 2
        for left, top in itertools.product((0, width), (0, height)):
            found.append(folder / f"{len(found):05d}.jpg")
            picture.crop((left, top, left + width, top + height)).save(found[-1], quality=95, subsampling=0)
    return found


def _measured(name: str, files: list[Path], out: Path) -> dict[str, Any]:
    write, _ = KINDS[name]
    out.mkdir()
    _alone(write, files, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"bytes": size, "packages": PACKAGES[name], **_alone(_read, name, out)}


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, in a process of its own, which may start others."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _read(name: str, out: Path) -> dict[str, float]:
    socket.socket.connect = _closed  # type: ignore[method-assign,assignment]
    began = time.process_time()
    read = KINDS[name][1](out)
    read(0)
    opened = time.process_time()
    for entry in np.random.default_rng(0).integers(0, ENTRIES, READS):
        read(int(entry))
    status = Path("/proc/self/status").read_text()
    return {
        "open_seconds": opened - began,
        "reads_a_second": READS / (time.process_time() - opened),
        "peak_bytes": 1024 * int(status.partition("VmHWM:")[2].split()[0]),
    }


def _closed(*address: Any) -> None:
    raise OSError(f"the network is closed: {address}")


# -------------------------------------------------------------------------------------------------------------- kinds


def _write_litdata(files: list[Path], out: Path) -> None:
    from litdata import optimize

    optimize(fn=_entry, inputs=list(map(str, files)), output_dir=str(out), chunk_bytes=SHARD_BYTES, num_workers=1)


def _entry(path: str) -> dict[str, bytes]:
    return {"jpg": Path(path).read_bytes()}


def _open_litdata(out: Path) -> Read:
    from litdata import StreamingDataset

    found = StreamingDataset(str(out), shuffle=False)
    return lambda entry: found[entry]["jpg"]


def _write_webdataset(files: list[Path], out: Path) -> None:
    from webdataset import ShardWriter

    with ShardWriter(f"{out}/%06d.tar", maxsize=SHARD_BYTES, verbose=0) as writer:
        for path in files:
            writer.write({"__key__": path.stem, "jpg": path.read_bytes()})


def _open_webdataset(out: Path) -> Read:
    from webdataset import WebDataset

    urls = sorted(map(str, out.glob("*.tar")))
    samples = iter(WebDataset(urls, shardshuffle=False).shuffle(BUFFER).repeat())
    return lambda _: next(samples)["jpg"]


def _open_wids(out: Path) -> Read:
    import tarfile

    from wids import ShardListDataset

    shards = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            shards.append({"url": str(path), "nsamples": len(tar.getnames())})
    found = ShardListDataset(shards, transformations=[], keep=True, cache_dir=f"{out}-cache")
    return lambda entry: found[entry][".jpg"].read()


def _write_ours(files: list[Path], out: Path) -> None:
    list(write_shards(files[0].parent, out, shard_bytes=SHARD_BYTES))


def _open_ours(out: Path) -> Read:
    import torch  # noqa: F401 - the others do, too

    shards = open_shards(out)
    return shards.stored


KINDS: dict[str, tuple[Callable[[list[Path], Path], None], Callable[[Path], Read]]] = {
    "litdata": (_write_litdata, _open_litdata),
    "WebDataset": (_write_webdataset, _open_webdataset),
    "wids": (_write_webdataset, _open_wids),
    "tar and index": (_write_ours, _open_ours),
}
# What pip installs beside PyTorch, NumPy and what training needs anyway.
PACKAGES = {
    "litdata": ["boto3", "botocore", "jmespath", "litdata", "obstore", "s3transfer"],
    "WebDataset": ["braceexpand", "webdataset"],
    "wids": ["braceexpand", "wids"],
    "tar and index": [],
}

if __name__ == "__main__":
    main()
