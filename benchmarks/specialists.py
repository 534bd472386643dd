"""How much longer a file of specialists decodes than one of a single codec: the same symbols, with a map and without.

    python benchmarks/specialists.py slim-2k --photos FOLDER [--count 4] [--rounds 9] [--json FILE]

The specialists are copies of the model with a little noise in their weights, in a temporary folder; how good they are
does not change how long they take. A picture is put together from the middles of photos. Each round decodes it without
specialists, with a smooth map, and with a random one, by one backend after the other: CPU seconds of one thread, which
other work on the machine hardly changes. A ratio is of the same round's seconds. Encoding, where all specialists are
tried in every cell, is measured in the same way, but for the largest picture.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

import slimcodec
from slimcodec.codec import bitstream, maps, models
from slimcodec.codec.atomic import write_text
from slimcodec.codec.inference import BACKENDS, Codec
from slimcodec.codec.native import functions
from slimcodec.evaluation.photos import find_photos, open_photo
from slimcodec.evaluation.provenance import commit
from slimcodec.training import onnx_export, specialists

SIZES = (512, 768), (1792, 2496), (3000, 4000)  # the first is one piece, the others are decoded window by window
PATCH = 512  # pixels of the middle of a photo
NOISE = 0.03  # of a tensor's standard deviation
QUALITY = 4
WARM = 2  # rounds that do not count
ENCODING_ROUNDS = 3


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    functions()  # loaded before anything is timed
    photos = [np.asarray(open_photo(path)) for path in find_photos(options.photos, options.limit)]
    with tempfile.TemporaryDirectory() as folder:
        joined = several(options.model, options.count, Path(folder, "joined"))
        found = [result for shape in SIZES for result in _measured(options, joined, picture(photos, *shape))]
    for each in found:
        print(
            f"{each['megapixels']:5.1f} Mpx {each['backend']:6}", each["ratios"], each.get("encoding_ratio"), flush=True
        )
    result = {
        "command": "python benchmarks/specialists.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "commit": commit(),
        "specialists": options.count,
        "found": found,
    }
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--count", type=int, default=4, help="specialists")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def several(name: str, count: int, target: Path) -> Path:
    """A model directory of specialists that are nearly a model's."""
    model, random = models.load(name), torch.Generator().manual_seed(0)
    training = models.load_training_state(model)
    codecs = [deepcopy(model.codec) for _ in range(count)]
    with torch.no_grad():
        for codec in codecs[1:]:
            for weight in (*codec.g_s.parameters(), *codec.g_a.head.parameters()):
                weight += NOISE * weight.std(unbiased=False) * torch.randn(weight.shape, generator=random)
    models.save(target, specialists.joined(codecs), model.tables, training=training, role="student", teacher=None)
    onnx_export.add_graphs(target)
    return target


def picture(photos: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: patches of the photos beside and below each other."""
    rows, columns = -(-height // PATCH), -(-width // PATCH)
    patches = [_middle(photos[number % len(photos)]) for number in range(rows * columns)]
    lines = [np.concatenate(patches[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
    return np.concatenate(lines)[:height, :width]


def _middle(photo: np.ndarray) -> np.ndarray:
    top, left = ((side - PATCH) // 2 for side in photo.shape[:2])
    return photo[top : top + PATCH, left : left + PATCH]


def cell_maps(shape: tuple[int, int], count: int) -> dict[str, np.ndarray]:
    """A map as it could be, areas of about 5 x 5 cells, and the worst: uint8 [rows, columns] each."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, count, (-(-shape[0] // 5), -(-shape[1] // 5)))
    smooth = np.kron(coarse, np.ones((5, 5), int))[: shape[0], : shape[1]]
    return {"smooth": smooth.astype(np.uint8), "random": random.integers(0, count, shape).astype(np.uint8)}


def _measured(options: argparse.Namespace, joined: Path, pixels: np.ndarray) -> Iterator[dict[str, Any]]:
    one = {backend: slimcodec.load(options.model, backend=backend) for backend in BACKENDS}
    many = {backend: slimcodec.load(joined, backend=backend) for backend in BACKENDS}
    data = one["onnx"].compress(pixels, quality=QUALITY)
    contents = bitstream.unpack(data)
    files = {
        name: _with_map(contents, many["onnx"], cell_map)
        for name, cell_map in cell_maps(contents.header.cells, options.count).items()
    }
    for backend in BACKENDS:
        rounds = [
            {"one": _seconds(one[backend], data)}
            | {name: _seconds(many[backend], file) for name, file in files.items()}
            for _ in range(WARM + options.rounds)
        ][WARM:]
        encoding = [
            _encoding(one[backend], many[backend], pixels) for _ in range(ENCODING_ROUNDS) if len(pixels) < 3000
        ]
        yield {
            "megapixels": round(pixels.shape[0] * pixels.shape[1] / 1e6, 1),
            "backend": backend,
            "seconds": {name: _told([each[name] for each in rounds]) for name in rounds[0]},
            "ratios": {name: _told([each[name] / each["one"] for each in rounds]) for name in files},
        } | ({"encoding_ratio": _told(encoding)} if encoding else {})


def _with_map(contents: bitstream.Contents, codec: Codec, cell_map: np.ndarray) -> bytes:
    header = contents.header._replace(model_hash=codec.transforms.model_hash)
    adapted = contents.adapted._replace(cell_map=maps.encode(cell_map, codec.transforms.specialists))
    return bitstream.join(header, contents.streams, contents.chunks, adapted)


def _encoding(one: Codec, many: Codec, pixels: np.ndarray) -> float:
    """How many times as long."""
    edges = [time.process_time()]
    for codec in (one, many):
        codec.compress(pixels, quality=QUALITY)
        edges.append(time.process_time())
    return (edges[2] - edges[1]) / (edges[1] - edges[0])


def _seconds(codec: Codec, data: bytes) -> float:
    began = time.process_time()
    codec.decompress(data)
    return time.process_time() - began


def _told(values: list[float]) -> dict[str, float]:
    return {"least": round(min(values), 4), "median": round(statistics.median(values), 4)}


if __name__ == "__main__":
    main()
