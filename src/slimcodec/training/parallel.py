"""Data-parallel processes that torchrun or SLURM's srun started, on one machine or several.

Every process goes through the same stages, and they train together. Whatever else there is to do (files, pruning,
measuring, decisions) rank zero does, while the others wait, and they read what it wrote.
"""

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from slimcodec.training import started

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import ClusterEnvironment

TIMEOUT = timedelta(hours=2)  # the others wait while rank zero prunes and measures
ADDRESS = "127.0.0.1"
Result = TypeVar("Result")
_control: distributed.ProcessGroup | None = None  # for decisions: on the CPU, whatever gradients go through


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def device() -> torch.device:
    """What this process computes on if the processes have GPUs: each its own."""
    return torch.device("cuda", started.place().local_rank)


def barrier() -> None:
    """Wait until all processes are here."""
    largest(0)


def largest(value: int) -> int:
    """The largest of the processes' values, in all of them."""
    if not distributed.is_initialized():
        return value
    shared = torch.tensor(value)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX, group=_control)
    return int(shared)


def on_rank_zero(work: Callable[..., Result], *arguments: Any, **named: Any) -> Result | None:
    """Do the work in rank zero while the others wait; its result there, None in the others."""
    result = work(*arguments, **named) if rank() == 0 else None
    barrier()
    return result


def wait_for_rank_zero_to_end() -> None:
    """Be the later one to end: whoever started the processes ends all of them with the first that fails."""
    with suppress(RuntimeError):  # a connection that is closed
        barrier()


def environment() -> "ClusterEnvironment":
    """Who started the processes, for Lightning."""
    # Late: a command that starts processes and waits for them need not import it.
    from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if started.by_torchrun():
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False) if started.place().count > 1 else LightningEnvironment()


@contextmanager
def connected(backend: str) -> Iterator[None]:
    """Be connected with the other processes, if there are any. `backend` is gloo, or nccl for GPUs."""
    global _control
    here = started.place()
    if here.count == 1:
        yield
        return
    if backend == "nccl":
        torch.cuda.set_device(here.local_rank)
    threading.Thread(target=_end_without, args=(os.getppid(),), daemon=True).start()
    who = environment()
    os.environ |= {"MASTER_ADDR": who.main_address, "MASTER_PORT": str(who.main_port)}
    distributed.init_process_group(backend, rank=here.rank, world_size=here.count, timeout=TIMEOUT)
    _control = distributed.new_group(backend="gloo", timeout=TIMEOUT)
    yield
    distributed.destroy_process_group()  # after an error it lasts as long as the process: the others wait for its end


def launch(count: int, command: Sequence[str]) -> int:
    """Start `count` processes of a command on this machine, as torchrun does, and wait for them.

    0, or the exit status of the first that failed; a signal that this process is sent goes to all of them. 1 if they
    were ended by signals.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say what is wrong
    how = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=secrets.token_hex(8),
        rdzv_backend="c10d",
        rdzv_endpoint=f"{ADDRESS}:0",
        local_addr=ADDRESS,
        max_restarts=0,
        shutdown_timeout=int(TIMEOUT.total_seconds()),  # to finish a step and write a checkpoint
    )
    try:
        elastic_launch(how, command[0])(*command[1:])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return max(1, failure.exitcode)
    except SignalException:
        return 1
    return 0


def _end_without(parent: int) -> None:
    """End this process when the one that started it is gone: it would wait for the others for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
