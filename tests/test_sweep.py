"""Multirun: teachers are trained once, killed sweeps go on, other configurations are refused, failures are told."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
import yaml
from hydra import compose, initialize_config_dir
from run_parts import CACHE, ROOT, TINY

from slimcodec.evaluation.locks import alone
from slimcodec.pipeline import jobs, sweep
from slimcodec.pipeline.results import Figures
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.pipeline.stages import identity
from slimcodec.report.run_plots import pareto, plot_pareto

DISTILL = ("full", "output_only")
FOUR_JOBS = ("prune.target_macs_per_pixel=190,230", "distill=full,output_only")
# With as many steps as the smoke test has, for models that have a BD-rate.
SHORT = [override for override in TINY if override != CACHE and ".training.steps" not in override]
SHORT += ["stages=[teacher,distill,prune,evaluate]", "evaluate.rounds=false"]
TWO_STEPS = [f"{role}.training.{name}=2" for role in ("teacher", "student") for name in ("steps", "steps_per_epoch")]
NAMES = {f"distill={distill},prune.target_macs_per_pixel={macs}" for distill in DISTILL for macs in (190, 230)}


class Swept:
    """A sweep's directory and the command that makes it."""

    def __init__(self, directory: Path, *overrides: str):
        self.directory, self.cache = directory / "sweep", directory / "cache"
        places = [f"hydra.sweep.dir={self.directory}", f"cache={self.cache}"]
        self.arguments = ["-m", "experiment=smoke", *SHORT, *places, *overrides]
        self.settings = {"env": os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "400"}, "text": True}

    def run(self, *overrides: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "run.py"), *self.arguments, *overrides]
        return subprocess.run(command, **self.settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def kill_at(self, sign: str) -> None:
        """Start it, and kill it when there is a file of this pattern."""
        warm.kill_at(self.arguments, self.directory.parent / "log.txt", self.directory, sign)

    def rows(self) -> dict[str, dict[str, str]]:
        with open(self.directory / sweep.CSV, newline="") as file:
            return {row["job"]: row for row in csv.DictReader(file)}

    def written(self, pattern: str) -> dict[Path, int]:
        """When each file was written: what is trained again has another time."""
        return {path: path.stat().st_mtime_ns for path in self.directory.parent.glob(pattern)}


@pytest.fixture(scope="module")
def completed(tmp_path_factory):
    """A sweep of four jobs that was killed while the third was at work, and then run again."""
    swept = Swept(tmp_path_factory.mktemp("swept"), *FOUR_JOBS)
    swept.kill_at("distill=output_only,prune.target_macs_per_pixel=190/distilled/weights.safetensors")
    before = swept.written("**/weights.safetensors")
    log = swept.directory.parent / "completed.txt"
    assert warm.run(swept.arguments, log) == 0, log.read_text()[-3000:]
    return swept, before


def test_a_killed_sweep_is_completed_by_the_same_command(completed):
    swept, before = completed
    rows = swept.rows()
    assert set(rows) == NAMES
    assert {row["status"] for row in rows.values()} == {"complete"}
    for row in rows.values():
        assert float(row["decoder_macs_per_pixel"]) <= float(row["prune.target_macs_per_pixel"])
        assert row["distill"] in ("full", "output_only")
        assert float(row["bd_rate_percent_against_teacher"]) < 1000
    assert (swept.directory / sweep.PLOT).stat().st_size > 1000
    after = swept.written("**/weights.safetensors")
    assert before and all(after[path] == when for path, when in before.items())


def test_the_teacher_is_trained_once(completed):
    swept, before = completed
    (teacher,) = swept.cache.glob("*/teacher/weights.safetensors")
    assert before[teacher] == teacher.stat().st_mtime_ns
    copies = list(swept.directory.glob("*/teacher/weights.safetensors"))
    assert len(copies) == 4
    assert {copy.read_bytes() for copy in copies} == {teacher.read_bytes()}


def test_another_configuration_is_refused_and_the_other_jobs_go_on(completed):
    swept, _ = completed
    before = swept.written("**/weights.safetensors")
    # 190 was made with another learning rate; 250 is a new job.
    other = ("student.training.learning_rate=0.002", "prune.target_macs_per_pixel=190,250", "distill=full")
    log = swept.directory.parent / "refused.txt"
    assert warm.run([*swept.arguments, *other, "stages=[teacher,distill]"], log) == 1
    said = " ".join(log.read_text().split())  # on however many lines
    assert said.count("student.training.learning_rate=0.001, not 0.002") == 2  # at once, and at the end
    after = swept.written("**/weights.safetensors")
    assert all(after[path] == when for path, when in before.items())
    assert {row["status"] for row in swept.rows().values()} == {"complete", "failed"}


def test_two_jobs_at_once_train_one_teacher_and_a_failed_one_is_told_twice(tmp_path):
    varied = ("student.training.learning_rate=0.001,0.002", "+student.training.optimizer=adam,nonsense")
    swept = Swept(tmp_path, *TWO_STEPS, *varied)
    result = swept.run("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "stages=[teacher,distill]")
    assert result.returncode == 1
    assert len(list(swept.cache.glob("*/teacher/weights.safetensors"))) == 1
    rows = swept.rows()
    assert sorted(row["status"] for row in rows.values()) == ["complete", "complete", "failed", "failed"]
    assert all(("nonsense" in name) == ("must be one of adam, soap" in row["error"]) for name, row in rows.items())
    assert result.stdout.count("training.optimizer=nonsense: must be one of adam, soap") >= 2  # at the end


def test_submitit_runs_the_jobs_in_processes_of_its_own(tmp_path):
    swept = Swept(tmp_path, *TWO_STEPS, "seed=1,2", "stages=[teacher]", "hydra/launcher=submitit_local")
    result = swept.run()
    assert result.returncode == 0, result.stdout[-3000:]
    assert len(list(swept.cache.glob("*/teacher/weights.safetensors"))) == 2
    assert {row["seed"]: row["status"] for row in swept.rows().values()} == {"1": "complete", "2": "complete"}


def test_the_configuration_for_a_cluster_composes():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        launcher = compose("config", ["hydra/launcher=submitit"], return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert launcher.max_num_timeout > 0 and launcher.gpus_per_node == 1


def test_the_sweep_that_wandb_drives_names_settings_that_exist():
    described = yaml.safe_load((ROOT / "sweeps" / "wandb.yaml").read_text())
    values = {name: given.get("values", [given.get("min")])[0] for name, given in described["parameters"].items()}
    trial = [f"{name}={value}" for name, value in values.items()]
    constant = [word for word in described["command"] if "=" in word]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        found = compose("config", [*constant, *trial])
    assert described["metric"]["name"] == "bd_rate/validation/teacher"  # of tracking
    assert found.evaluate.folders == [] and set(found.logger) == {"csv", "wandb"}


def test_what_is_searched_for_are_settings_that_exist():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        sweeper = compose("config", ["hydra/sweeper=widths"], return_hydra_config=True).hydra.sweeper
        drawn = [f"{name}={space.split('(')[1].split(',')[0]}" for name, space in sweeper.params.items()]
        trial = compose("config", drawn)
    assert trial.student.architecture.g_s[0].channels == 192 and trial.prune.shrink == 0.5
    assert sweeper._target_.endswith("OptunaSweeper") and sweeper.storage is None and sweeper.sampler.seed == 1


@pytest.mark.slow
def test_a_search_for_widths_draws_the_same_again_and_trains_nothing_twice(tmp_path):
    widths = [
        f"student.architecture.g_s.{level}.channels=choice({space})" for level, space in enumerate(("40,48", "16,24"))
    ]
    fewer = "hydra.sweeper.n_trials=2", "prune.shrink=choice(0.5,0.6)", "prune.target_macs_per_pixel=190"
    swept = Swept(tmp_path, "hydra/sweeper=widths", *fewer, *widths)
    assert swept.run().returncode == 0
    before, best = swept.written("**/weights.safetensors"), swept.directory / "optimization_results.yaml"
    found = yaml.safe_load(best.read_text())
    assert set(swept.rows()) and {row["status"] for row in swept.rows().values()} == {"complete"}
    percents = [float(row["bd_rate_percent_against_teacher"]) for row in swept.rows().values()]
    assert found["best_value"] == pytest.approx(min(percents))
    assert swept.run().returncode == 0
    assert swept.written("**/weights.safetensors") == before and yaml.safe_load(best.read_text()) == found


# ------------------------------------------------------------------------------------------------------ without runs


FIGURES = Figures(2000.0, 16000.0, {"jpeg": -30.0, "teacher": 2.5}, {"jpeg": -32.0}, 11000.0)


GOOD = jobs.Outcome(jobs.COMPLETE, figures=FIGURES)


def recorded(directory, *overrides, outcome=GOOD):
    jobs.record(RunDirectory(directory), overrides, 5.0, outcome)


def test_jobs_are_read_back_as_they_were_recorded(tmp_path):
    recorded(tmp_path / "seed=1", "seed=1", "a=b=c")
    (tmp_path / "seed=1" / "seconds.json").write_text('{"teacher": 1.5, "distill": 2}')
    recorded(tmp_path / "seed=1", "seed=1", "a=b=c")
    recorded(tmp_path / "x=teachers" / "small", "x=teachers/small", outcome=jobs.Outcome(jobs.FAILED, "why"))
    first, second = jobs.read_all(tmp_path)
    assert first == jobs.Job("seed=1", {"seed": "1", "a": "b=c"}, "complete", 5.0, None, 3.5, FIGURES)
    assert second == jobs.Job("x=teachers/small", {"x": "teachers/small"}, "failed", 5.0, "why")


def test_the_csv_has_a_row_a_job_and_empty_cells_where_nothing_is_known(tmp_path):
    recorded(tmp_path / "seed=1", "seed=1")
    recorded(tmp_path / "seed=2", "seed=2", outcome=jobs.Outcome(jobs.FAILED, "two\nlines, and a comma"))
    sweep.write_csv(jobs.read_all(tmp_path), tmp_path / sweep.CSV)
    with open(tmp_path / sweep.CSV, newline="") as file:
        good, bad = csv.DictReader(file)
    assert list(good)[:3] == ["job", "seed", "status"] and list(good)[-2:] == ["seconds", "error"]
    assert good["bd_rate_percent_against_teacher"] == "2.5" and good["teacher_bd_rate_percent_against_jpeg"] == "-32.0"
    assert bad["error"] == "two\nlines, and a comma" and bad["decoder_macs_per_pixel"] == ""


def test_spots_are_named_by_what_varies(tmp_path):
    for seed in ("1", "2"):
        recorded(tmp_path / seed, f"seed={seed}", "experiment=demo")
    recorded(tmp_path / "3", "seed=3", "experiment=demo", outcome=jobs.Outcome(jobs.STOPPED))
    found = jobs.read_all(tmp_path)
    assert sweep.varied(found) == ["seed"]
    assert list(sweep.spots(found)) == ["teacher", "jpeg"]
    assert sweep.spots(found)["teacher"] == {"1": (2000.0, 2.5), "2": (2000.0, 2.5)}


def test_the_front_holds_what_no_other_beats(tmp_path):
    points = {"small": (1.0, 9.0), "worse": (1.5, 9.5), "middle": (2.0, 3.0), "same": (3.0, 3.0), "large": (4.0, -1.0)}
    assert pareto(points) == ["small", "middle", "large"]
    plot_pareto({"teacher": points, "jpeg": points}, tmp_path / "sweep.png", named_by="seed")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_configuration_has_one_identity():
    assert identity({"a": 1, "b": [1, {"c": None}]}) == identity({"b": [1, {"c": None}], "a": 1})
    assert identity({"a": 1}) != identity({"a": 2})


def test_the_lock_is_waited_for_and_freed_by_a_dead_process(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from slimcodec.evaluation.locks import alone\n"
        "with alone(Path(sys.argv[1]), print):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    waited = []

    def kill():
        waited.append(time.monotonic())
        holder.kill()

    with alone(tmp_path, kill):
        assert waited
    holder.wait()
    with alone(tmp_path, lambda: pytest.fail("nobody holds it")):
        pass
