"""A run that is stopped, between any two steps and in whatever way, continues to the very same result."""

import csv
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import lightning
import pytest
import torch
from run_parts import CACHE, ROOT, configuration, run
from test_teach import assert_equal, distilling, teaching, weights
from training_parts import configured, lively, photo_data, photos, trainer_factory

from slimcodec import InvalidInput
from slimcodec.codec.architecture import Architecture
from slimcodec.pipeline.checks import checked
from slimcodec.training.checkpoints import BEST, LAST, PREVIOUS, newest
from slimcodec.training.errors import TrainingInterrupted
from slimcodec.training.teach import Teach, fit

STEPS, PER_EPOCH = 5, 3


def logged(directory: Path) -> list[dict[str, str]]:
    """What was logged, by all runs of the command, but for the speed."""
    files = sorted(directory.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    rows = [row for path in files for row in csv.DictReader(path.open())]
    timed = "train/pictures_per_second"
    assert all(float(row[timed]) > 0 for row in rows if row["train/bpp"])
    return [{name: value for name, value in row.items() if value and name != timed} for row in rows]


def train(module, directory: Path, *callbacks, **more) -> None:
    def make_trainer(folder, **settings):
        trainer = trainer_factory(*callbacks, log_every_n_steps=1)(folder, **settings)
        trainer.logger = lightning.pytorch.loggers.CSVLogger(folder, name="log")
        return trainer

    fit(module, photo_data(PER_EPOCH), directory, make_trainer, **more)


def stored(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor and number of the last checkpoint that training depends on."""
    state = torch.load(directory / LAST, weights_only=True)
    kept = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step")
    return dict(flat({name: state[name] for name in kept}))


def flat(value, prefix=""):
    if isinstance(value, dict):
        value = value.items()
    elif isinstance(value, list | tuple):
        value = enumerate(value)
    else:
        yield prefix, value if isinstance(value, torch.Tensor) else torch.tensor(value or 0)
        return
    for name, item in value:
        yield from flat(item, f"{prefix}.{name}")


class SignalAt(lightning.Callback):
    """A real signal in the middle of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_before_backward(self, trainer, *_):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def demo(**changes) -> Teach:
    """The teacher of the demo."""
    architecture = Architecture.from_dict(configured("teacher/demo"))
    settings = {"batch": 8, "crop": 128, "learning_rate": 5e-4}
    return Teach(*lively(architecture), cache=photos(), **(settings | changes))


CASES = [(teaching, "adam", STEPS), (teaching, "soap", STEPS), (distilling, "adam", STEPS), (demo, "adam", 4)]


@pytest.mark.parametrize("make, optimizer, steps", CASES)
def test_stopped_after_every_step_it_is_the_same_run(tmp_path, make, optimizer, steps):
    """Losses, validation, weights, averages and the optimizer's state, bit by bit."""
    whole = make(steps=steps, optimizer=optimizer)
    train(whole, tmp_path / "whole")
    for step in range(1, steps):
        piece = make(steps=steps, optimizer=optimizer)
        with pytest.raises(TrainingInterrupted, match=f"stopped at step {step} of {steps}; the same command continues"):
            train(piece, tmp_path / "pieces", deadline=time.monotonic())
    last = make(steps=steps, optimizer=optimizer)
    train(last, tmp_path / "pieces", deadline=time.monotonic())
    assert logged(tmp_path / "pieces" / "log") == logged(tmp_path / "whole" / "log")
    assert len(logged(tmp_path / "whole" / "log")) == steps + steps // PER_EPOCH
    assert_equal(stored(tmp_path / "pieces"), stored(tmp_path / "whole"))
    assert_equal(weights(last), weights(whole))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_step(tmp_path, number):
    """In the middle of an epoch, and in its last step: then validation comes first."""
    before = signal.getsignal(number)
    whole, last = teaching(steps=STEPS), teaching(steps=STEPS)
    train(whole, tmp_path / "whole")
    for step in (1, PER_EPOCH - 1):
        with pytest.raises(TrainingInterrupted, match=f"stopped at step {step + 1} of"):
            train(teaching(steps=STEPS), tmp_path / "pieces", SignalAt(step, number))
        assert signal.getsignal(number) == before
    train(last, tmp_path / "pieces")
    assert logged(tmp_path / "pieces" / "log") == logged(tmp_path / "whole" / "log")
    assert_equal(weights(last), weights(whole))


class Seen(lightning.Callback):
    """The steps of the checkpoints that are there when a step begins."""

    def __init__(self, directory):
        self.path, self.steps = directory / LAST, []

    def on_train_batch_start(self, trainer, *_):
        if self.path.is_file():
            self.steps.append(torch.load(self.path, weights_only=True)["global_step"])


def test_checkpoints_are_kept_by_the_clock_and_at_the_end_of_epochs(tmp_path):
    seen = Seen(tmp_path)
    train(teaching(steps=STEPS), tmp_path, seen, checkpoint_minutes=0)
    assert seen.steps == list(range(1, STEPS))
    assert torch.load(tmp_path / PREVIOUS, weights_only=True)["global_step"] == STEPS - 1
    losses = {
        int(row["step"]) + 1: float(row["val/log_loss"]) for row in logged(tmp_path / "log") if "val/log_loss" in row
    }
    best = torch.load(tmp_path / BEST, weights_only=True)
    assert best["global_step"] == min(losses, key=losses.get)
    assert best["callbacks"]["Checkpoints"]["best"] == pytest.approx(min(losses.values()))
    assert not list(tmp_path.glob(".*"))


def test_written_in_the_background_they_are_those_of_their_step(tmp_path, monkeypatch):
    """As with a GPU: every step changes what is being written."""
    at_once, meanwhile = tmp_path / "at once", tmp_path / "meanwhile"
    train(teaching(steps=STEPS), at_once, checkpoint_minutes=0)
    monkeypatch.setattr("slimcodec.training.checkpoints.IN_BACKGROUND", ("cpu",))
    seen = Seen(meanwhile)
    train(teaching(steps=STEPS), meanwhile, seen, checkpoint_minutes=0)
    assert seen.steps == sorted(seen.steps) and seen.steps[-1] >= PER_EPOCH
    assert_equal(stored(meanwhile), stored(at_once))
    previous = [torch.load(folder / PREVIOUS, weights_only=True) for folder in (meanwhile, at_once)]
    assert_equal(*(dict(flat(state["state_dict"])) for state in previous))
    assert not list(meanwhile.glob(".*"))


def test_a_full_disk_is_told_by_the_next_step(tmp_path, monkeypatch, file_size_limit):
    monkeypatch.setattr("slimcodec.training.checkpoints.IN_BACKGROUND", ("cpu",))
    with file_size_limit(10_000), pytest.raises(OSError, match=rf"{LAST}'?$"):
        train(teaching(steps=STEPS), tmp_path, checkpoint_minutes=0)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / LAST).exists()


# ----------------------------------------------------------------------------------------------------- damaged files


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    with pytest.raises(TrainingInterrupted):
        train(teaching(steps=STEPS), directory, SignalAt(3, signal.SIGTERM), checkpoint_minutes=0)
    return {name: (directory / name).read_bytes() for name in (LAST, PREVIOUS)}


def damaged(data: bytes) -> dict[str, bytes]:
    middle = len(data) // 2
    return {
        "empty": b"",
        "one byte": data[:1],
        "a half": data[:middle],
        "all but one byte": data[:-1],
        "garbage": bytes(range(256)) * 40,
        "text": b"not a checkpoint\n",
        "a hole": data[:middle] + bytes(4096) + data[middle + 4096 :],
    }


@pytest.mark.parametrize("kind", damaged(b""))
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path, checkpoints, kind):
    for name, data in checkpoints.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / LAST).write_bytes(damaged(checkpoints[LAST])[kind])
    with pytest.warns(UserWarning, match=r"last\.ckpt cannot be read .* it is now last\.ckpt\.unreadable") as caught:
        assert newest(tmp_path) == tmp_path / PREVIOUS
    assert len(caught) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt.unreadable", PREVIOUS]
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"previous\.ckpt cannot be read"):
        assert newest(tmp_path) is None


def test_from_the_checkpoint_before_it_is_the_same_run(tmp_path, checkpoints):
    for name, data in checkpoints.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / LAST).write_bytes(checkpoints[LAST][:1000])
    whole, resumed = teaching(steps=STEPS), teaching(steps=STEPS)
    train(whole, tmp_path / "whole")
    with pytest.warns(UserWarning, match="cannot be read"):
        train(resumed, tmp_path)
    assert_equal(weights(resumed), weights(whole))


def test_a_checkpoint_of_another_model_is_no_damaged_file(tmp_path, checkpoints):
    (tmp_path / LAST).write_bytes(checkpoints[LAST])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert newest(tmp_path) == tmp_path / LAST
    with pytest.raises(RuntimeError, match="state_dict"):
        train(distilling(steps=STEPS), tmp_path)
    assert (tmp_path / LAST).is_file()


def test_a_pickle_is_not_executed(tmp_path):
    (tmp_path / LAST).write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "executed").encode() + b"'\ntR.")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert newest(tmp_path) is None
    assert not (tmp_path / "executed").exists()


# ------------------------------------------------------------------------------------------------------- the command


TINY = [
    CACHE,
    "stages=[teacher,distill]",
    "teacher.training.steps=2",
    "student.training.steps=12",
    "student.training.steps_per_epoch=5",
    "validation.side=64",
]


def test_the_command_ends_cleanly_on_sigterm_and_the_same_command_continues(tmp_path):
    options = ["experiment=smoke", *TINY, "trainer.log_every_n_steps=1", "trainer.checkpoint_minutes=0"]
    command = [sys.executable, str(ROOT / "run.py"), *options, f"run_dir={tmp_path / 'pieces'}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob(f"pieces-cache/*/distilled.work/{LAST}")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("slimcodec:")]
    step = int(line.removeprefix("slimcodec: stopped at step ").split(" of 12; the same command continues")[0])
    assert 1 <= step < 12 and "Traceback" not in errors

    for name in ("pieces", "whole"):
        run(*options, f"run_dir={tmp_path / name}")
    assert logged(tmp_path / "pieces/distilled.log") == logged(tmp_path / "whole/distilled.log")
    for file in ("weights.safetensors", "training.safetensors"):
        found, expected = ((tmp_path / name / "distilled" / file).read_bytes() for name in ("pieces", "whole"))
        assert found == expected


@pytest.mark.parametrize("limit", ["90", "1:30:00", "ninety minutes"])
def test_a_time_limit_that_is_none_is_named(tmp_path, limit):
    with pytest.raises(InvalidInput, match=rf"trainer\.max_time={limit}: must be days:hours:minutes:seconds"):
        checked(configuration("experiment=smoke", f"run_dir={tmp_path}", f"trainer.max_time='{limit}'"))
