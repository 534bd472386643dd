"""Checkpoints of one training: when they are written, and which of them a run continues from.

    last.ckpt      replaced every few minutes, at the end of every epoch, and when training is told to stop
    previous.ckpt  the one before it
    best.ckpt      of the epoch with the lowest val/log_loss so far

All of them are as between two steps. They are written under another name, and renamed when they are complete. With a
GPU that happens while it trains on: it only waits until everything is copied to main memory.
"""

import math
import os
import shutil
import signal
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torch.utils._pytree import tree_map_only

from slimcodec.training import parallel
from slimcodec.training.errors import TrainingInterrupted

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
BEST_BY = "val/log_loss"
GO_ON, SAVE, STOP = 0, 1, 2
IN_BACKGROUND = ("cuda",)  # the devices that train on meanwhile


class Checkpoints(Checkpoint):
    """Writes checkpoints, and stops training after a step when its time is up or on SIGTERM or SIGINT.

    minutes   between checkpoints inside an epoch
    deadline  when time is up, as time.monotonic() counts; None: never

    A stop raises TrainingInterrupted once the checkpoint is written. A second SIGINT interrupts at once.
    """

    def __init__(self, directory: Path, *, minutes: float, deadline: float | None):
        self.directory = directory
        self.seconds = 60 * minutes
        self.deadline = math.inf if deadline is None else deadline
        self.best = math.inf
        self.told_to_stop = self.stops = False
        self.background: InBackground | None = None
        self.unnamed = False  # whether a file is there, or being written, that has not got its name

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        if module.device.type in IN_BACKGROUND:
            self.background = trainer.strategy.checkpoint_io = InBackground()
        if threading.current_thread() is threading.main_thread():
            # Lightning's handlers would talk to other processes while a signal is handled. Afterwards it restores those
            # that were there before.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.stops:  # not sooner: Lightning logs a step after the callbacks that end it
            raise TrainingInterrupted(
                f"stopped at step {trainer.global_step} of {trainer.max_steps}; the same command continues"
            )
        # The steps that loggers see have a counter of their own. After a resume at an epoch's end it is one too high.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.is_last_batch or trainer.global_step == trainer.max_steps:
            return  # the epoch's end saves, after validation
        if self.background and self.background.is_done:
            self._complete()
        wish = self._agreed_wish()
        self.stops = wish == STOP
        if wish != GO_ON:
            self._save(trainer)
        if self.stops:
            self._complete()

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.saved_step:
            return  # continuing from the end of an epoch, Lightning ends it again
        loss = float(trainer.callback_metrics.get(BEST_BY, math.inf))
        is_best, self.best = loss < self.best, min(loss, self.best)
        self._save(trainer)
        self._complete()
        if is_best and trainer.is_global_zero:
            partial = _partial(self.directory / BEST)
            shutil.copyfile(self.directory / LAST, partial)
            _synchronised(partial).replace(self.directory / BEST)
        self.stops = self._agreed_wish() == STOP

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def _agreed_wish(self) -> int:
        now = time.monotonic()
        wish = SAVE if now - self.saved_at >= self.seconds else GO_ON
        return parallel.largest(STOP if self.told_to_stop or now >= self.deadline else wish)

    def _save(self, trainer: lightning.Trainer) -> None:
        self._complete()
        with _named(self.directory / LAST):
            trainer.save_checkpoint(_partial(self.directory / LAST))
        self.unnamed = trainer.is_global_zero
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        if self.background is None:
            self._complete()

    def _complete(self) -> None:
        """Wait for what is being written, if anything is, and give it its name."""
        last = self.directory / LAST
        if self.background:
            with _named(last):
                self.background.wait()
        if self.unnamed:
            self.unnamed = False
            written = _synchronised(_partial(last))
            if last.is_file():
                last.replace(self.directory / PREVIOUS)
            written.replace(last)

    def _on_signal(self, number: int, _frame: Any) -> None:
        self.told_to_stop = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)


def newest(directory: Path) -> Path | None:
    """The checkpoint to continue from, None to begin.

    A file that cannot be read is set aside, with a warning, and the one before it is taken. A checkpoint of another
    model is not set aside: loading it fails.
    """
    candidates = [directory / LAST, directory / PREVIOUS]
    parallel.on_rank_zero(_set_unreadable_aside, candidates)
    return next((path for path in candidates if path.is_file()), None)


def _set_unreadable_aside(candidates: list[Path]) -> None:
    for path in candidates:
        if not path.is_file():
            continue
        if (reason := _why_unreadable(path)) is None:
            return
        aside = path.replace(path.with_name(path.name + ".unreadable"))
        warnings.warn(f"{path} cannot be read ({reason}); it is now {aside.name}, and not used", stacklevel=2)


def _why_unreadable(path: Path) -> str | None:
    with path.open("rb") as file:  # a file that may not be opened is not a damaged one
        try:
            if damaged := zipfile.ZipFile(file).testzip():  # torch does not look at the checksums
                return f"the checksum of {damaged} is wrong"
            file.seek(0)
            torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # damaged bytes raise almost anything
            return (str(error) or type(error).__name__).splitlines()[0]
    return None


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _synchronised(path: Path) -> Path:
    """The same path, once the file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return path


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A full disk's error names no file: this names it, and leaves nothing half-written."""
    try:
        yield
    except OSError as error:
        _partial(path).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


class InBackground(TorchCheckpointIO):
    """Copies what is to be kept to main memory, and writes it in a thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        held = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), checkpoint)
        self._writing = self._thread.submit(super().save_checkpoint, held, path, storage_options)

    @property
    def is_done(self) -> bool:
        """Whether something was written that nobody has waited for."""
        return self._writing is not None and self._writing.done()

    def wait(self) -> None:
        """Until nothing is being written. Raises what writing raised."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()
