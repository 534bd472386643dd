"""Data-parallel processes of one machine: rank zero is the command itself, which starts the others and ends them.

Every process goes through the same stages, and they train together. Whatever else there is to do (files, pruning,
measuring, decisions) rank zero does, while the others wait, and they read what it wrote.

Lightning's own launcher would start them with this command's arguments, which in a multirun are those of all jobs.
Here each gets the configuration of its job. That launcher also kills this process when another one ends early.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO, TypeVar

import torch
from torch import distributed

TIMEOUT = timedelta(hours=2)  # the others wait while rank zero prunes and measures
GRACE_SECONDS = 5
ADDRESS = "127.0.0.1"
Result = TypeVar("Result")


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def device() -> torch.device:
    """What this process computes on if the processes have GPUs: each its own."""
    return torch.device("cuda", rank())


def barrier() -> None:
    """Wait until all processes are here."""
    largest(0)


def largest(value: int) -> int:
    """The largest of the processes' values, in all of them."""
    if not distributed.is_initialized():
        return value
    on = device() if distributed.get_backend() == "nccl" else "cpu"
    shared = torch.tensor(value, device=on)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return int(shared)


def on_rank_zero(work: Callable[..., Result], *arguments: Any, **named: Any) -> Result | None:
    """Do the work in rank zero while the others wait; its result there, None in the others."""
    result = work(*arguments, **named) if rank() == 0 else None
    barrier()
    return result


@contextmanager
def processes(count: int, command: list[str], job: Any, *, backend: str) -> Iterator[None]:
    """Be rank zero of `count` processes; the others run `command`, which calls `join`.

    job      what `join` returns in them: anything that JSON can hold
    backend  gloo, or nccl for GPUs

    Afterwards, even after an exception, the others are ended and the environment is as before, since the next job of a
    multirun starts processes of its own. When one of them fails, this process ends too.
    """
    store = distributed.TCPStore(ADDRESS, 0, is_master=True, wait_for_workers=False)
    # By LOCAL_RANK Lightning knows that the processes exist already.
    environment = {"MASTER_ADDR": ADDRESS, "MASTER_PORT": str(store.port), "NODE_RANK": "0", "LOCAL_RANK": "0"}
    before = {name: os.environ.get(name) for name in (*environment, "WORLD_SIZE")}
    os.environ.update(environment, WORLD_SIZE=str(count))
    others = [_start(command, number, job) for number in range(1, count)]
    ending = threading.Event()
    threading.Thread(target=_end_with, args=(others, ending), daemon=True).start()
    try:
        _connect(0, count, backend, store)
        yield
    finally:
        ending.set()
        for process in others:
            process.kill()  # they own no files
            process.wait()
        _disconnect()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def join(stream: TextIO, backend_of: Callable[[Any], str]) -> Any:
    """Be one of the others: connect to rank zero, and end when it does. Returns its job, read from `stream`.

    backend_of(job)  the backend that rank zero uses for the job
    """
    job = json.load(stream)
    parent = os.getppid()
    threading.Thread(target=_end_without, args=(parent,), daemon=True).start()
    number, count, port = (int(os.environ[name]) for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"))
    _connect(number, count, backend_of(job), distributed.TCPStore(ADDRESS, port, is_master=False))
    return job


def _start(command: list[str], number: int, job: Any) -> subprocess.Popen:
    environment = os.environ | {"LOCAL_RANK": str(number)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True)
    json.dump(job, process.stdin)
    process.stdin.close()
    return process


def _connect(number: int, count: int, backend: str, store: distributed.TCPStore) -> None:
    if backend == "nccl":
        torch.cuda.set_device(number)
    distributed.init_process_group(backend, rank=number, world_size=count, store=store, timeout=TIMEOUT)


def _disconnect() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _end_with(others: list[subprocess.Popen], ending: threading.Event) -> None:
    """End this process when another one has failed: inside a library, this one may wait for it for ever."""
    while not ending.wait(1):
        failed = [number for number, process in enumerate(others, 1) if process.poll()]
        if failed and not ending.wait(GRACE_SECONDS):
            print(f"slimcodec: process {failed[0]} of this job failed, so the job ends", flush=True)
            os._exit(1)


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
