"""Several threads for one picture: the same pixels, and nothing of it is left behind."""

import time

import numpy as np
import pytest
import skimage.data
import threadpoolctl
import torch

import slimcodec
from slimcodec import InvalidFile
from slimcodec.codec import batch, bitstream, decoding, grid, transforms, workers
from slimcodec.codec.grid import whole

SIDE = 448  # pixels: 7 cells, which is big where 3 of them make a window
MIB = 1 << 20


@pytest.fixture(scope="module")
def light():
    return slimcodec.load("slim-2k", backend="onnx")


@pytest.fixture(scope="module")
def data(light):
    found = light.compress(skimage.data.astronaut()[:SIDE, :SIDE], 4, tile=3)
    assert bitstream.unpack(found).correction  # which is applied before threads share the work
    return found


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """Of 3 x 3 cells, whose pieces are of 6 latents."""
    monkeypatch.setattr(grid, "CODING_TILE", 3)
    monkeypatch.setattr(transforms, "TRANSFORM_TILE", 6)


def threads(monkeypatch, count):
    monkeypatch.setenv("OMP_NUM_THREADS", str(count))


def blas_threads():
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("count", [2, 3])
def test_threads_give_the_same_pixels(light, data, monkeypatch, count):
    threads(monkeypatch, 1)
    alone, before = np.asarray(light.decompress(data)), blas_threads()
    threads(monkeypatch, count)
    seen = []
    shared = light.decompress(data, progress=seen.append)
    assert np.array_equal(alone, np.asarray(shared))
    assert seen == sorted(seen) and seen[-1] == 1
    assert blas_threads() == before
    region = light.decompress(data, region=(130, 70, 300, 200))
    assert np.abs(np.asarray(region).astype(int) - alone[70:270, 130:430]).max() <= 1


def test_a_small_picture_has_the_same_pixels_too(light, monkeypatch):
    """It is one piece, whose layers the threads share."""
    data, found = light.compress(skimage.data.astronaut()[:150, :180], 4), []
    for count in (1, 2, 3):
        threads(monkeypatch, count)
        found.append(np.asarray(light.decompress(data)))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_pytorchs_threads_do_as_well(codec):
    """`codec` is the tiny one of the tests."""
    data = codec.compress(skimage.data.astronaut()[:SIDE, :SIDE], 4, tile=3)
    assert torch.get_num_threads() == 1
    alone = np.asarray(codec.decompress(data))
    torch.set_num_threads(2)
    try:
        assert np.array_equal(alone, np.asarray(codec.decompress(data)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_one_thread_starts_no_others(light, data, monkeypatch):
    threads(monkeypatch, 1)
    monkeypatch.setattr(batch, "threads_sharing", None)
    light.decompress(data)


def test_a_damaged_stream_ends_it(light, data, monkeypatch):
    threads(monkeypatch, 2)
    damaged = bytearray(data)
    damaged[len(data) // 2 :: 3] = bytes(len(damaged[len(data) // 2 :: 3]))
    with pytest.raises(InvalidFile):
        light.decompress(bytes(damaged))


def test_threads_never_cost_a_picture_its_memory(light, data, monkeypatch):
    """Where the limit leaves room for one alone, there is one."""
    threads(monkeypatch, 4)
    contents = bitstream.unpack(data)
    task = decoding._Decoding(light.transforms, contents, whole((SIDE, SIDE)))
    needed = [task.bytes_needed(contents, count) for count in range(1, 5)]
    assert needed == sorted(set(needed))
    assert [task.threads_within(contents, limit) for limit in (MIB, *needed)] == [1, 1, 2, 3, 4]
    monkeypatch.setattr(batch, "threads_sharing", None)
    light.decompress(data, max_memory=needed[0])


def test_jobs_share_the_threads(monkeypatch):
    threads(monkeypatch, 5)
    assert list(batch.in_threads(lambda _: batch.threads(), range(4), jobs=2)) == [2] * 4
    assert list(batch.in_threads(lambda _: batch.threads(), range(4), jobs=8)) == [1] * 4
    assert batch.threads() == 5


def test_the_next_is_begun_before_the_last_is_used():
    begun, running = [], []

    def work(item):
        begun.append(item)
        running.append(item)
        time.sleep(0.01)
        assert running == [item], "one at a time"
        running.remove(item)
        return -item

    with workers.begin(3) as helpers:
        for number, found in enumerate(helpers.one_ahead(work, range(5))):
            time.sleep(0.05)
            assert found == -number
            assert begun == list(range(min(number + 2, 5)))
    assert list(workers.ALONE.one_ahead(work, range(3))) == [0, -1, -2]
    assert list(workers.ALONE.one_ahead(work, [])) == []
