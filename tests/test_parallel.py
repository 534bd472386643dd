"""Two processes train as one does, leave one set of files, stop together, and end together."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from run_parts import CACHE, ONE_ROUND, ROOT, configuration, run
from test_checkpoints import logged
from test_teach import distilling, teaching
from training_parts import photo_data, trainer_factory

from slimcodec import InvalidInput
from slimcodec.pipeline.checks import checked, require_means, require_possible
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.training import data, started
from slimcodec.training.teach import fit

TINY = [
    "experiment=smoke",
    CACHE,
    "stages=[teacher,distill,prune]",
    *(f"{role}.training.{name}" for role in ("teacher", "student") for name in ("steps=4", "steps_per_epoch=3")),
    *(f"prune.training.{name}" for name in ("steps=2", "steps_per_epoch=2")),
    *ONE_ROUND,
    "trainer.log_every_n_steps=1",
]
LOGS = ("teacher.log", "distilled.log", "rounds/01-190.work/pass-1.log")
# Rounding of symbols makes a step of what was a last bit, and every training step adds to it.
TOLERANCE = {"teacher.log": 1e-4, "distilled.log": 5e-3, "rounds/01-190.work/pass-1.log": 2e-2}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def start(directory: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "run.py"), *TINY, "trainer=ddp_cpu", f"run_dir={directory}", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **pipes)


def agent(directory: Path, port: int, *overrides: str) -> subprocess.Popen:
    """torchrun, as one of two machines."""
    where = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test", "--local-addr=127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
    command += [*where, str(ROOT / "run.py"), *TINY, "trainer=ddp_cpu", f"run_dir={directory}", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # Without it an agent that stays does not tell one that comes back where to meet (PyTorch 2.15).
    environment = ENVIRONMENT | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def files(directory: Path) -> set[str]:
    """All but the records and the lock of the command."""
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    return {
        name for name in found if name not in ("run.log", "job.json", ".lock") and not name.startswith("configuration/")
    }


def others_of(process: subprocess.Popen) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    return [int(number) for number in listed.split()]


def is_alive(number: int) -> bool:
    status = Path(f"/proc/{number}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def wait_for(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_machines_train_as_one(tmp_path):
    """As far as one machine can tell: two agents of torchrun, each with a process."""
    port = free_port()
    agents = [agent(tmp_path / "two", port) for _ in range(2)]
    run(*TINY, f"run_dir={tmp_path / 'one'}")
    output = "".join(each.communicate(timeout=200)[0] for each in agents)
    assert [each.returncode for each in agents] == [0, 0], output[-3000:]
    assert output.count("\nround 1:") == 1  # lines of its training begin otherwise
    for log in LOGS:
        expected, found = (logged(tmp_path / directory / log) for directory in ("one", "two"))
        assert [set(row) for row in found] == [set(row) for row in expected]
        for row, other in zip(expected, found, strict=True):
            for name, value in row.items():
                close = pytest.approx(float(value), rel=TOLERANCE[log], abs=1e-5)
                assert float(other[name]) == close, (log, row["step"], name)
    rounds = [json.loads((tmp_path / name / "rounds/rounds.json").read_text()) for name in ("one", "two")]
    for record in (*rounds[0], *rounds[1]):
        del record["seconds"]
    assert rounds[0] == rounds[1]
    architectures = [
        json.loads((tmp_path / name / "rounds/01/model.json").read_text())["architecture"] for name in ("one", "two")
    ]
    assert architectures[0] == architectures[1]
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_each_process_validates_its_share():
    photos = list(range(5))
    assert [data.share(photos, rank, 2) for rank in range(2)] == [[0, 2, 4], [1, 3]]
    assert [data.share(photos, rank, 5) for rank in range(5)] == [[0], [1], [2], [3], [4]]
    assert [data.share(photos, rank, 6) for rank in range(6)] == 6 * [photos]  # too few to share


def test_the_batch_must_be_a_multiple():
    module = teaching(batch=7)
    module._trainer = SimpleNamespace(world_size=2, global_rank=0)
    with pytest.raises(InvalidInput, match=r"training\.batch=7: must be a multiple of the 2 processes"):
        module.on_fit_start()


def test_an_error_is_one_line_and_ends_all_processes(tmp_path):
    process = start(tmp_path, "teacher.training.batch=7", "stages=[teacher]")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    lines = [line for line in errors.splitlines() if line.startswith("slimcodec:")]
    assert lines == ["slimcodec: teacher.training.batch=7: must be a multiple of the 2 processes"]
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_all_processes_stop_and_the_same_command_continues(tmp_path, number):
    more = ["stages=[teacher]", "teacher.training.steps=60", "teacher.training.steps_per_epoch=40"]
    process = start(tmp_path / "pieces", *more, "trainer.checkpoint_minutes=0")
    wait_for(lambda: list(tmp_path.glob("pieces-cache/*/teacher.work/last.ckpt")))
    others = others_of(process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.count("the same command continues") == 1 and "Traceback" not in errors
    assert not any(map(is_alive, others))
    process = start(tmp_path / "pieces", *more)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    process = start(tmp_path / "whole", *more)
    process.communicate(timeout=120)
    assert logged(tmp_path / "pieces/teacher.log") == logged(tmp_path / "whole/teacher.log")


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["the command", "rank zero", "another"])
def test_when_one_process_dies_none_is_left(tmp_path, victim):
    process = start(
        tmp_path / "job", "stages=[teacher]", "teacher.training.steps=100000", "trainer.checkpoint_minutes=0"
    )
    wait_for(lambda: list(tmp_path.glob("job-cache/*/teacher.work/last.ckpt")))
    first, other = others_of(process)
    os.kill({"the command": process.pid, "rank zero": first, "another": other}[victim], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode not in (0, 75)
    wait_for(lambda: not is_alive(first) and not is_alive(other), 10)


@pytest.mark.slow
def test_a_machine_that_is_lost_comes_back_and_the_run_goes_on(tmp_path):
    more = ["stages=[teacher]", "teacher.training.steps=150", "teacher.training.steps_per_epoch=50"]
    more += ["trainer.checkpoint_minutes=0"]
    port = free_port()
    first = agent(tmp_path / "lost", port, *more)
    wait_for(lambda: is_open(port))  # they meet at the first one
    second = agent(tmp_path / "lost", port, *more)
    wait_for(lambda: list(tmp_path.glob("lost-cache/*/teacher.work/last.ckpt")))
    second.kill()
    second.communicate()
    again = agent(tmp_path / "lost", port, *more)
    output = "".join(each.communicate(timeout=300)[0] for each in (first, again))
    assert (first.returncode, again.returncode) == (0, 0), output[-5000:]
    whole = start(tmp_path / "whole", *more)
    whole.communicate(timeout=200)
    found, expected = (
        json.loads((tmp_path / name / "teacher/model.json").read_text())["weights_sha256"] for name in ("lost", "whole")
    )
    assert found == expected


@pytest.mark.slow
def test_jobs_that_submitit_starts_have_processes_of_their_own(tmp_path):
    command = [sys.executable, str(ROOT / "run.py"), "-m", "hydra/launcher=submitit_local", *TINY, "trainer=ddp_cpu"]
    command += ["stages=[teacher]", "seed=1,2", f"cache={tmp_path}/cache", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all((tmp_path / f"sweep/seed={seed}/teacher/model.json").is_file() for seed in "12")
    assert "2 jobs" in done.stdout


def test_together_they_do_no_sweep(tmp_path):
    environment = ENVIRONMENT | {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}
    environment |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    command = [sys.executable, str(ROOT / "run.py"), "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "processes that were started together do one job" in done.stderr
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, started.Place()),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_NNODES": "2"}, started.Place()),  # a batch script
        (
            {"SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
            | {"SLURM_NNODES": "2"},
            started.Place(5, 8, 1, 4),
        ),
        (
            {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
            | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"},  # torchrun in a step of SLURM's
            started.Place(3, 4, 1, 2),
        ),
    ],
)
def test_a_process_knows_its_place(monkeypatch, variables, expected):
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert started.place() == expected and expected.machines in (1, 2)


@pytest.mark.parametrize("devices, said", [("auto", None), (4, None), (2, "4 processes were started together")])
def test_torchrun_says_how_many_there_are(monkeypatch, devices, said):
    monkeypatch.setattr("slimcodec.pipeline.checks.place", lambda: started.Place(0, 4, 0, 2))
    settings = checked(configuration("experiment=smoke", f"trainer.devices={devices}"))
    if said is None:
        require_means(settings)
    else:
        with pytest.raises(InvalidInput, match=said):
            require_means(settings)


@pytest.mark.slow
def test_each_job_of_a_multirun_has_its_own_processes(tmp_path):
    command = [sys.executable, str(ROOT / "run.py"), "-m", *TINY, "trainer=ddp_cpu", "stages=[teacher]"]
    command += ["seed=1,2", f"cache={tmp_path}/cache", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all((tmp_path / f"sweep/seed={seed}/teacher/model.json").is_file() for seed in "12")


# ----------------------------------------------------------------------------------------------------------- compiling


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_step_is_the_same_step(backend):
    compiler = functools.partial(torch.compile, backend=backend)
    plain, compiled = distilling().train(), distilling(compiler=compiler).train()
    (loss, figures), (loss_compiled, figures_compiled) = plain.loss_at(0), compiled.loss_at(0)
    torch.testing.assert_close(loss_compiled, loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(figures_compiled, figures, rtol=1e-4, atol=1e-5)
    loss.backward(), loss_compiled.backward()
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_training_through_compile_leaves_an_ordinary_codec(tmp_path):
    module = teaching(steps=2, compiler=torch.compile)
    names = list(module.state_dict())
    fit(module, photo_data(2), tmp_path, trainer_factory())
    assert list(module.state_dict()) == names
    assert list(torch.load(tmp_path / "last.ckpt", weights_only=True)["current_model_state"]) == names


def test_gpus_that_are_not_there_are_named():
    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    with pytest.raises(InvalidInput, match=r"trainer\.accelerator=gpu: this machine has no CUDA GPU; take trainer=cpu"):
        require_possible(checked(configuration("experiment=smoke", "trainer=ddp")), RunDirectory(Path("nowhere")))
