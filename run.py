"""Train a teacher, distil a student, prune it in rounds, finish it, evaluate both on real files, export the student.

    python run.py experiment=demo

Hydra composes the configuration; slimcodec.pipeline does the rest. Each stage leaves complete model directories in the
run directory. A stage that is complete is skipped, one that was interrupted continues, and one that was made with
another configuration is never overwritten.
"""

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from slimcodec import InvalidInput
from slimcodec.pipeline import jobs, sweep
from slimcodec.pipeline.checks import checked, require_means
from slimcodec.pipeline.run_directory import RunDirectory
from slimcodec.training.started import place

HERE = Path(__file__).parent
# Of several processes the first alone writes.
SILENT = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
console = Console()


def plain(configuration: DictConfig) -> dict[str, Any]:
    """The resolved configuration without Hydra's own part. Raises InvalidInput for a value that is missing."""
    ours = configuration.copy()
    with open_dict(ours):
        ours.pop("hydra", None)
    try:
        return OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise InvalidInput(f"{error.full_key} has no default: add {error.full_key}=…") from None


def chosen() -> dict[str, str]:
    """Group → the option that was chosen, without Hydra's own groups."""
    choices = HydraConfig.get().runtime.choices
    return {group: option for group, option in choices.items() if option and not group.startswith("hydra/")}


def require_here(config: DictConfig) -> None:
    """End the command where Hydra was told to change the folder: paths in the settings are of the one it is in."""
    if config.hydra.job.chdir:
        jobs.refuse("hydra.job.chdir=true: paths would be of another folder; leave it out, and name run_dir=… instead")


class Sweep(Callback):
    """What a multirun adds: jobs named by what varies; at the end a table, sweep.csv, a plot, and the errors again."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        require_here(config)
        try:
            require_means(checked(plain(config)))  # before Hydra writes anything
        except InvalidInput as error:
            jobs.refuse(str(error))
        jobs.require_writable(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.began = time.time()
        require_here(config)
        if place().count > 1:
            jobs.refuse(
                "-m: processes that were started together do one job; python run.py -m starts those of each job"
            )
        jobs.require_writable(Path(config.hydra.sweep.dir))
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
        swept |= set(config.hydra.sweeper.get("params") or ())  # what a sweeper varies by itself
        if swept:
            unnamed = "hydra.job.config.override_dirname.exclude_keys"
            constant = {override.key_or_group for override in overrides} - swept
            keys = [*OmegaConf.select(config, unnamed), *sorted(constant)]
            # Every job composes its configuration anew, from these.
            config.hydra.overrides.hydra.append(f"{unnamed}=[{','.join(keys)}]")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        directory = Path(config.hydra.sweep.dir)
        found = jobs.read_all(directory)
        console.print(sweep.table(found))
        sweep.write_csv(found, directory / sweep.CSV)
        console.print(f"sweep: {len(found)} jobs in {directory / sweep.CSV}")
        if sweep.draw(found, directory / sweep.PLOT):
            console.print(f"sweep: MAC/pixel and BD-rate in {directory / sweep.PLOT}")
        ended = [job for job in found if job.began >= self.began]  # others are of earlier commands
        for job in (job for job in ended if job.error):
            console.print(f"{job.status} {job.directory}: {job.error}", markup=False)
        # Hydra would turn an Exception of a callback into a warning.
        if status := jobs.exit_status(job.status for job in ended):
            raise SystemExit(status)


def job(configuration: DictConfig) -> float | None:
    """Run a command's job, or one of a multirun; its objective: the student's BD-rate against its teacher."""
    of_hydra = HydraConfig.get()
    return jobs.do(
        RunDirectory(Path(os.path.relpath(of_hydra.runtime.output_dir))),
        lambda: plain(configuration) | {"choices": chosen()},
        overrides=list(of_hydra.overrides.task),
        command=[
            sys.executable,
            str(HERE / "run.py"),
            *of_hydra.overrides.task,
            "hydra.run.dir='{}'".format(of_hydra.runtime.output_dir.replace("'", r"\'")),
        ],
        sweeping=of_hydra.mode == RunMode.MULTIRUN,
        zoos=HERE,
    )


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(configuration: DictConfig) -> float | None:
    # Launchers send this function to other processes by value: everything else it has to find there by name.
    import run

    return run.job(configuration)


def one_line(error: Exception) -> str:
    """What Hydra says of an override, without its search paths and object types."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = itertools.takewhile(
        lambda line: not line.startswith(("Config search path", "full_key", "object_type")), lines
    )
    return f"{' '.join(filter(None, said))}; run.py --cfg job shows every setting"


def command() -> None:
    """Hydra's main. What Hydra refuses is told in one line."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra prints its own lines, and ends with status 1
    if place().rank:
        sys.argv += SILENT
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        jobs.refuse(one_line(error))


if __name__ == "__main__":
    # For the processes of launchers that are started in other folders.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    command()
