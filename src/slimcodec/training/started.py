"""Where a process stands among those that torchrun, or SLURM's srun, started together: their variables say it.

Nothing here needs PyTorch: what a process may write, it has to know before anything else.
"""

import os
from typing import NamedTuple


class Place(NamedTuple):
    """Of `count` processes, on perhaps several machines, this is number `rank`."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on this machine
    local_count: int = 1

    @property
    def machines(self) -> int:
        return self.count // self.local_count


def by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def place() -> Place:
    if by_torchrun():
        return _read("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    # A batch script has most of SLURM's variables too, but it is no step of its own with several tasks.
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        rank, count, local_rank, machines = _read("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NNODES")
        return Place(rank, count, local_rank, count // machines)
    return Place()


def _read(*names: str) -> Place:
    return Place(*(int(os.environ[name]) for name in names))
