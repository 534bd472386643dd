"""One command at a time writes into a folder: whoever comes second waits, and nothing of either is lost."""

import contextlib
import subprocess
import sys
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from slimcodec.evaluation import locks
from slimcodec.evaluation.anchors import codec
from slimcodec.evaluation.photos import find_photos
from slimcodec.evaluation.points import measure, read_points
from slimcodec.evaluation.summary import read as read_summary
from slimcodec.report import study

HOLD = """
import sys, time
from pathlib import Path
from slimcodec.evaluation.locks import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(picture).resize((96, 80), Image.Resampling.BICUBIC).save(folder / "a.png")
    return folder


def hold(folder, seconds):
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def in_threads(*works):
    """Do all at once; a thread is to a lock what a process is."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@dataclass(frozen=True)
class Slow:
    """A codec that begins only when another one has begun too, or cannot."""

    name: str
    barrier: threading.Barrier
    kind: str = "anchor"
    settings: str = "plain"
    qualities: tuple = (10.0, 20.0)

    def compress(self, picture, quality):
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(timeout=0.5)
        return b"0" * int(quality)

    def decompress(self, data):
        return Image.new("RGB", (96, 80))


def test_a_killed_holder_leaves_no_lock(tmp_path):
    with hold(tmp_path / "study", 60) as process:
        process.kill()
    with locks.alone(tmp_path / "study", lambda: pytest.fail("nobody holds it")):
        pass


def test_the_second_says_that_it_waits_and_for_what(tmp_path, capfd):
    with hold(tmp_path, 1), locks.alone(tmp_path):
        pass
    error = capfd.readouterr().err
    assert error == f"slimcodec: another command writes into {tmp_path}, waiting for it\n"


def test_a_thread_may_hold_it_twice(tmp_path):
    with locks.alone(tmp_path), locks.alone(tmp_path / "." / "", lambda: pytest.fail("it waits for itself")):
        pass


def test_two_that_measure_into_one_file_keep_the_points_of_both(photos, tmp_path):
    barrier = threading.Barrier(2)
    file = tmp_path / "study" / "points.csv"
    file.parent.mkdir()
    works = [lambda name=name: measure([Slow(name, barrier)], find_photos(photos), file) for name in ("one", "two")]
    in_threads(*works)
    assert {(point.codec, point.quality) for point in read_points(file)} == {
        (name, quality) for name in ("one", "two") for quality in (10.0, 20.0)
    }


def test_two_studies_in_one_folder_keep_the_codecs_of_both(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_draw", lambda *_: None)  # matplotlib is not made for threads
    out, qualities = tmp_path / "study", {"jpeg": (20, 40, 60, 80), "webp": (20, 40, 60, 80)}

    def work(name):
        settings = {"qualities": qualities, "metrics": ["psnr_rgb_db"], "with_memory": False, "command": name}
        study.evaluate([codec(name)], find_photos(photos), out, name="photos", **settings)

    in_threads(lambda: work("jpeg"), lambda: work("webp"))
    summary = read_summary(out)
    assert set(summary.codecs) == {"jpeg", "webp"} and study.is_whole(out)
    assert {entry.command for entry in summary.provenance.commands} == {"jpeg", "webp"}
