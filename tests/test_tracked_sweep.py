"""A sweep of four jobs, kept by W&B offline, one of them killed and gone on with: all that a researcher sorts by."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import warm
from test_sweep import FOUR_JOBS, NAMES, Swept
from test_tracking import Records, files, read

from slimcodec.training.names import DISTILLATION_TERMS

pytestmark = pytest.mark.slow
KILLED = "distill=output_only,prune.target_macs_per_pixel=190"
SUMMARY = {
    *("decoder_macs_per_pixel", "encoder_macs_per_pixel", "parameters", "model_bytes"),
    *("teacher/decoder_macs_per_pixel", "teacher/parameters"),
    *("bd_rate/validation/teacher", "bd_rate/validation/jpeg", "teacher/bd_rate/validation/jpeg"),
    *(f"seconds/{stage}" for stage in ("teacher", "distill", "prune", "evaluate", "export", "total")),
    *("prune/bd_rate", "prune/macs_per_pixel", "prune/val/log_loss", "prune/val/psnr_db"),
}
CURVES = (
    "train/bpp",
    "train/mse",
    "train/learning_rate",
    "train/pictures_per_second",
    "train/gradient_norm",
    "val/bpp",
)

TERMS = {f"prune/train/{term}" for term in DISTILLATION_TERMS}  # of which each job has its own


class Job(NamedTuple):
    """A run of W&B: the files of all commands that worked on it."""

    directory: Path
    records: list[Records]

    @property
    def summary(self) -> dict:
        return {name: value for each in self.records for name, value in each.summary.items()}

    @property
    def history(self) -> list[dict]:
        return [line for each in self.records for line in each.history]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> dict[str, Job]:
    wanted = "stages=[teacher,distill,prune,evaluate,export]", "evaluate.anchors=[jpeg]"
    told = "logger=[csv,wandb]", "logger.wandb.notes=four", "logger.wandb.pictures=1", "trainer.log_every_n_steps=1"
    swept = Swept(tmp_path_factory.mktemp("tracked"), *FOUR_JOBS, *wanted, *told)
    swept.kill_at(f"{KILLED}/rounds/*/pass-1.work/last.ckpt")
    log = swept.directory.parent / "completed.txt"
    assert warm.run(swept.arguments, log) == 0, log.read_text()[-3000:]
    assert set(swept.rows()) == NAMES
    found = {name: files(swept.directory / name) for name in NAMES}
    return {
        name: Job(swept.directory / name, [read(path, whole=path is paths[-1]) for path in paths])
        for name, paths in found.items()
    }


def test_jobs_are_one_group_and_what_they_differ_in_is_in_their_configurations(sweep):
    starts = {name: job.records[-1]["run"][0] for name, job in sweep.items()}
    assert len({start.run_id for start in starts.values()}) == 4
    for start in starts.values():
        assert (start.run_group, start.job_type, list(start.tags)) == ("smoke", "sweep", ["smoke"])
        assert start.notes == "four"
    for name, job in sweep.items():
        settings = job.records[-1].configuration
        distill, target = settings["choices"]["distill"], settings["prune"]["target_macs_per_pixel"]
        assert name == f"distill={distill},prune.target_macs_per_pixel={target}"
    assert len({job.records[0].configuration["data_sha256"] for job in sweep.values()}) == 1


def test_every_job_has_the_same_names(sweep):
    named = []
    for job in sweep.values():
        assert set(job.summary) >= SUMMARY
        keys = {key for line in job.history for key in line}
        assert keys >= {f"prune/{curve}" for curve in CURVES}
        kinds = {artifact.type for each in job.records for artifact in each["artifact"]}
        assert kinds >= {"model", "report", "dataset", "configuration"}
        (chart,) = job.records[-1].tables("rate_distortion/validation_table")
        assert [row["quality"] for row in chart] == [1, 3, 6, 8]
        named.append({key for key in keys if key.startswith("prune/")} - TERMS)
    assert all(keys == named[0] for keys in named)


def test_the_summary_is_of_the_exported_student(sweep):
    for job in sweep.values():
        student = json.loads((job.directory / "student" / "model.json").read_text())
        assert job.summary["decoder_macs_per_pixel"] == student["decoder_macs_per_pixel"]
        percents = student["figures"]["validation"]["bd_rate_percent"]
        assert {name: job.summary[f"bd_rate/validation/{name}"] for name in percents} == percents


def test_the_job_that_was_killed_is_one_run_without_a_gap(sweep):
    """One that was complete is told again what it came to, in a second file of the same run."""
    assert [len(job.records) for _, job in sorted(sweep.items())] == [2, 1, 2, 1]
    first, second = sweep[KILLED].records
    assert first["run"][0].run_id == second["run"][0].run_id
    assert not first["exit"] and second["exit"][0].exit_code == 0
    before, after = ([line.step.num for line in each["history"]] for each in (first, second))
    assert before == sorted(set(before)) and after == sorted(set(after)) and before[-1] < after[0]
    steps = [line["prune/step"] for line in sweep[KILLED].history if "prune/train/bpp" in line]
    assert steps == sorted(set(steps)) and set(steps) >= set(range(8, 16))  # W&B writes once a second
    (table,) = second.tables("prune/qualities")
    assert sorted({row["step"] for row in table}) == [7, 15] and {row["round"] for row in table} == {1}
