"""Mutated files through the decoder: some hundreds here, 20,000 with -m slow."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.mutations import mutant
from fuzz.run import MIB, SMALL, BadMutant, decode, fuzz
from fuzz.seeds import make_seeds
from slimcodec.codec.bitstream import unpack

TESTS = Path(__file__).parents[1]
MAX_GROWTH_BYTES = 128 * MIB  # a picture of 2^18 pixels, and chunks that are refused at 8 MiB


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Codecs and the files that they made."""
    return make_seeds(tmp_path_factory.mktemp("fuzz"))


def test_most_files_of_pictures_correct_their_model(material):
    _, seeds = material
    corrected = [seed for seed in seeds if (found := unpack(seed.data)).correction or found.correction_map is not None]
    assert len(seeds) / 2 < len(corrected) < len(seeds)


def test_hundreds_of_mutants(material):
    summary = fuzz(*material, files=range(500), seed=0, seconds=30)
    print(summary)
    assert summary.memory_growth_bytes <= MAX_GROWTH_BYTES
    # Neither the checks nor the mutations have become so good that nothing behind them is tested.
    assert summary.pictures > 0.04 * summary.files and len(summary.refusals) > 15
    deep = sum(count for message, count in summary.refusals.items() if message.startswith("coded stream"))
    assert deep > 0.1 * summary.files
    corrections = sum(count for message, count in summary.refusals.items() if "correction" in message)
    assert corrections > 0.02 * summary.files


@pytest.mark.slow
def test_20_000_mutants(material):
    summary = fuzz(*material, files=range(20_000), seed=1, seconds=3600)
    print(f"\n{summary}")
    assert summary.files == 20_000
    assert summary.memory_growth_bytes <= MAX_GROWTH_BYTES


@pytest.mark.slow
def test_20_000_mutants_of_any_size():
    """Pictures of many pixels too, as far as a limit on memory lets them, in a process that does nothing else."""
    command = [sys.executable, "-m", "fuzz", "--files", "20000", "--seed", "2", "--max-memory", "256"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    print(f"\n{done.stdout}")
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"memory growth: .* to (\d+) MiB", done.stdout)[1]) < 1024


def test_a_mutant_can_be_made_again(material):
    _, seeds = material
    assert [mutant(number, seeds, seed=3) for number in range(50)] == [
        mutant(number, seeds, seed=3) for number in range(50)
    ]


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), "picture"])
def test_what_must_not_happen_is_noticed(material, monkeypatch, error):
    """A fuzzer that sees nothing is worth nothing."""
    (codec, *_), seeds = material

    def decompress(*_, **__):
        if isinstance(error, Exception):
            raise error
        return error

    monkeypatch.setattr(codec, "decompress", decompress)
    with pytest.raises(BadMutant, match="this file"):
        decode(codec, mutant(0, seeds, seed=0), "this file", SMALL)
