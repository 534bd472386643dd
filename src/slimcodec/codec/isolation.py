"""The codec computes the same whatever else the process has set, and it goes on in a forked process.

PyTorch has settings for the whole process (precision of float32, oneDNN) and for a thread (gradients, autocast). The
default dtype and device are none of this module's business: everything in codec/ names both.
"""

import contextlib
import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, ParamSpec, TypeVar

import slimcodec

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class _Setting(NamedTuple):
    """One of the process's settings."""

    holder: Any
    name: str
    wanted: tuple[Any, ...]  # the first is set where it is none of them

    def get(self) -> Any:
        return getattr(self.holder, self.name)

    def set(self, value: Any) -> None:
        setattr(self.holder, self.name, value)

    def restore(self, value: Any) -> None:
        if "none" in self.wanted:
            self.set("none")  # which means that a more general setting is inherited, maybe this very value
        if self.get() != value:
            self.set(value)


class _MatmulPrecision:
    """`torch.set_float32_matmul_precision` as an attribute."""

    @property
    def precision(self) -> str:
        import torch

        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        import torch

        torch.set_float32_matmul_precision(value)


@functools.cache
def _settings() -> list[_Setting]:
    """oneDNN with real float32: in bfloat16, which some settings allow it, a picture has another file."""
    import torch

    onednn: Any = torch.backends.mkldnn  # what is in it depends on the version
    settings = [_Setting(onednn, "enabled", (True,))] if onednn.is_available() else []
    if hasattr(onednn, "conv"):  # PyTorch 2.9
        precise = "ieee", "none"
        return settings + [_Setting(kind, "fp32_precision", precise) for kind in (onednn.conv, onednn.matmul)]
    return [*settings, _Setting(_MatmulPrecision(), "precision", ("highest",))]


_lock = threading.Lock()
_calls = 0  # now in progress, in all threads
_before: dict[int, Any] = {}  # number of a setting → what the first of them found


def isolated(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function with gradients allowed, without autocast, and with `_settings`; then all is as it was before.

    Where nothing has imported PyTorch, there is nothing to set.
    """

    @functools.wraps(function)
    def call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        with _isolation() if sys.modules.get("torch") else contextlib.nullcontext():
            return function(*arguments, **keywords)

    return call


@contextlib.contextmanager
def _isolation() -> Iterator[None]:
    import torch

    _go_on_after_fork()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_own_settings())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def _own_settings() -> Iterator[None]:
    """The last call to end, of those in all threads, puts back what was there."""
    global _calls
    with _lock:
        _calls += 1
    try:
        with _lock:
            for number, setting in enumerate(_settings()):
                if (found := setting.get()) not in setting.wanted:
                    _before.setdefault(number, found)
                    setting.set(setting.wanted[0])
        yield
    finally:
        with _lock:
            _calls -= 1
            if not _calls:
                for number, value in _before.items():
                    _settings()[number].restore(value)
                _before.clear()


def _go_on_after_fork() -> None:
    """OpenMP's threads do not survive a fork, and PyTorch would wait for them for ever: one thread needs no others."""
    import torch

    if slimcodec.forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warnings.warn(
            "slimcodec: this process was forked, so it computes with one thread, as more would wait for each other "
            "for ever. To use more, start processes by multiprocessing's 'spawn' or 'forkserver'",
            RuntimeWarning,
            stacklevel=5,  # of whoever calls what is isolated
        )


def _renew_lock() -> None:
    """Another thread of the parent may have held it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_lock)
