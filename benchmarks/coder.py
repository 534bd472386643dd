"""The entropy coder beside others, for CONTRIBUTING.md and docs/performance.md: speed, start, and the stream's size.

    pip install constriction numba
    git worktree add BEFORE e14ba93                  # the last commit whose loops were compiled by numba
    python benchmarks/coder.py slim-2k --photos KODAK --before BEFORE --json FILE

The residuals of the first photos at quality 4, as real files hold them. All coders take turns in one process and have
one thread; numbers are medians of its CPU seconds. constriction has no tables of 16 bits as ours are, so that
no file of ours can be read with it: it codes the same residuals by the Gaussians that the tables came from, or by
the tables themselves in floating point, a table after the other.

A start is a new process that imports a coder and decodes 1,000 symbols, in CPU seconds beyond importing NumPy.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import slimcodec
from slimcodec.codec import bitstream, entropy
from slimcodec.codec.atomic import write_text
from slimcodec.codec.units import INDEX_STEP, SCALE_MIN

RUNS = 7
MICRO = 1e6
Coder = tuple[Callable[[], Any], Callable[[Any], np.ndarray]]  # encode, decode

START = """
import numpy, resource, sys
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
before = cpu()
sys.path.insert(0, sys.argv[1])
from slimcodec.codec import entropy
tables = entropy.build_tables([65535, 1], [2], [0], escape=False)
index = numpy.zeros(1000, numpy.uint8)
encoder = entropy.Encoder()
encoder.put(index, index, tables)
entropy.Decoder(encoder.finish()).get(index, tables)
print(cpu() - before)
"""


def main() -> None:
    options = _options()
    codec = slimcodec.load(options.model)
    photos = sorted(options.photos.glob("*.png"))[: options.limit]
    coded = [codec.coder.read(bitstream.unpack(slimcodec.compress(photo, quality=4))) for photo in photos]
    r, index = (np.concatenate([getattr(symbols, name).ravel() for symbols in coded]) for name in ("r", "index"))
    tables = codec.coder.r_tables
    kept = index >= tables.skip
    coders = {"C": _ours(entropy, r, index, tables)}
    if options.before:
        coders["numba"] = _ours(_numbas(options.before), r, index, tables)
    if importlib.util.find_spec("constriction"):
        coders["constriction, Gaussians"] = _gaussians(r[kept].astype(np.int32), index[kept])
        coders["constriction, tables"] = _categorical(r[kept].astype(np.int32), index[kept], tables)
    result = {
        "command": "python benchmarks/coder.py " + " ".join(sys.argv[1:]),
        "date": date.today().isoformat(),
        "symbols": int(kept.sum()),
        "coders": _measured(coders, int(kept.sum())),
        "start_cpu_seconds": {"C": _start(Path(__file__).resolve().parents[1])}
        | ({"numba": _start(options.before)} if options.before else {}),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--before", type=Path, help="a checkout whose loops numba compiles")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _measured(coders: dict[str, Coder], symbols: int) -> dict[str, dict[str, float]]:
    """Coder → millions of symbols a second each way, and bytes; the first run warms up."""
    times: dict[str, dict[str, list[float]]] = {name: {"encode": [], "decode": []} for name in coders}
    sizes = {}
    for _ in range(RUNS + 1):
        for name, (encode, decode) in coders.items():
            data, encoding = _clocked(encode)
            _, decoding = _clocked(lambda decode=decode, data=data: decode(data))
            times[name]["encode"].append(encoding)
            times[name]["decode"].append(decoding)
            sizes[name] = len(data) if isinstance(data, bytes) else data.nbytes
    return {
        name: {f"{what}_msymbols_per_second": symbols / MICRO / statistics.median(values[1:])
               for what, values in of_coder.items()} | {"bytes": sizes[name]}
        for name, of_coder in times.items()
    }  # fmt: skip


def _clocked(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def _ours(module: Any, r: np.ndarray, index: np.ndarray, tables: Any) -> Coder:
    # Each module has a Tables of its own.
    tables = module.Tables(*tables)

    def encode() -> bytes:
        encoder = module.Encoder()
        encoder.put(r, index, tables)
        return encoder.finish()

    def decode(data: bytes) -> np.ndarray:
        return module.Decoder(data).get(index, tables)

    assert np.array_equal(decode(encode()), r)
    return encode, decode


def _numbas(before: Path) -> Any:
    """That checkout's codec/entropy, beside this one's."""
    for name in ("compilation", "entropy"):
        full = f"slimcodec.codec.{name}" if name == "compilation" else "entropy_before"
        spec = importlib.util.spec_from_file_location(full, before / f"src/slimcodec/codec/{name}.py")
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules["entropy_before"]


def _gaussians(r: np.ndarray, index: np.ndarray) -> Coder:
    """constriction's own way: a Gaussian of its own for each symbol."""
    import constriction

    family = constriction.stream.model.QuantizedGaussian(-32768, 32767)
    means, scales = np.zeros(len(r)), SCALE_MIN * np.exp(INDEX_STEP * index.astype(np.float64))

    def encode() -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(r, family, means, scales)
        return coder.get_compressed()

    def decode(data: np.ndarray) -> np.ndarray:
        return constriction.stream.stack.AnsCoder(data).decode(family, means, scales)

    assert np.array_equal(decode(encode()), r)
    return encode, decode


def _categorical(r: np.ndarray, index: np.ndarray, tables: entropy.Tables) -> Coder:
    """By tables: symbols are grouped by theirs, as a table for each symbol would take a row of memory each."""
    import constriction

    models, groups = [], []
    for table in np.unique(index):
        slots = tables.cumulative[tables.start[table] : tables.start[table + 1]].astype(np.float64)
        place = np.clip(r[index == table] - tables.minimum[table], 0, len(slots) - 2)  # without what is escaped
        models.append(constriction.stream.model.Categorical(np.diff(slots) / slots[-1], perfect=False))
        groups.append(place.astype(np.int32))

    def encode() -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        for group, model in zip(reversed(groups), reversed(models), strict=True):
            coder.encode_reverse(group, model)
        return coder.get_compressed()

    def decode(data: np.ndarray) -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder(data)
        return np.concatenate([coder.decode(model, len(group)) for group, model in zip(groups, models, strict=True)])

    assert np.array_equal(decode(encode()), np.concatenate(groups))
    return encode, decode


def _start(root: Path) -> float:
    command = [sys.executable, "-c", START, str(root.resolve() / "src")]
    environment = os.environ | {"PYTHONPATH": ""}
    return statistics.median(float(subprocess.check_output(command, env=environment)) for _ in range(RUNS + 1))


if __name__ == "__main__":
    main()
