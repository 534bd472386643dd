"""Fuzz the decoder and print what came of it; exit code 1 for a file that does what it must not."""

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from fuzz.mutations import mutant
from fuzz.run import MIB, SMALL, BadMutant, fuzz, made_seeds


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="other seeds make other files")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many, without complaint")
    parser.add_argument("--max-mib", type=float, default=float("inf"), help="by how much the process may grow")
    parser.add_argument(
        "--max-memory", type=int, metavar="MIB", help="also decode pictures of many pixels, within so much memory"
    )
    parser.add_argument("--only", type=int, metavar="N", help="file N alone")
    parser.add_argument("--save", type=Path, metavar="FILE", help="with --only: write it there")
    options = parser.parse_args()
    torch.set_num_threads(1)  # on a busy machine two wait for each other, and waiting counts as processor time
    with tempfile.TemporaryDirectory() as folder:
        codecs, seeds = _seeds_of_another_process(Path(folder))
    numbers = range(options.files) if options.only is None else range(options.only, options.only + 1)
    if options.only is not None and options.save:
        options.save.write_bytes(mutant(options.only, seeds, seed=options.seed).data)
    limits = {"max_memory": options.max_memory * MIB} if options.max_memory else SMALL
    try:
        summary = fuzz(codecs, seeds, files=numbers, seed=options.seed, seconds=options.seconds, limits=limits)
    except BadMutant as error:
        print(f"{error}; again: python -m fuzz --seed {options.seed} --only NUMBER", file=sys.stderr)
        raise
    print(summary)
    if summary.memory_growth_bytes > options.max_mib * MIB:
        print(f"more than {options.max_mib:.0f} MiB", file=sys.stderr)
        return 1
    return 0


def _seeds_of_another_process(folder: Path):
    """So that this one's memory is that of the decoder."""
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        return other.submit(made_seeds, folder).result()


if __name__ == "__main__":
    sys.exit(main())
