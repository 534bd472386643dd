"""What a run is told: all sections of the configuration (pipeline/sections) together.

    conf/ ──Hydra──► plain containers ──read()──► Settings ──► the stages

The defaults are in conf/ alone. pydantic checks types and ranges and knows the field of every error; W&B needs it too.
What settings must fulfil together, and on this machine, is in pipeline/checks. Nothing here needs PyTorch, so that a
mistake is told at once.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from slimcodec import InvalidInput
from slimcodec.pipeline.ranges import Name, NotNegative, Switch, Text, one_of
from slimcodec.pipeline.sections import (
    FORMAT,
    Data,
    Distill,
    Evaluate,
    Finish,
    Loggers,
    Prune,
    Student,
    Teacher,
    Trainer,
    Training,
    Validation,
)

Stage = Literal["teacher", "distill", "prune", "finish", "evaluate", "export"]
STAGES: tuple[Stage, ...] = get_args(Stage)
TRAINING: tuple[Stage, ...] = STAGES[:4]  # the stages that all processes go through
# The sections that a stage's result depends on. An evaluation depends on its models' weights besides.
TEACHER = ("seed", "data", "teacher")
DISTILL = (*TEACHER, "student", "distill")
PRUNE = (*DISTILL, "prune", "validation")
SECTIONS: dict[Stage, tuple[str, ...]] = {
    "teacher": TEACHER,
    "distill": DISTILL,
    "prune": PRUNE,
    "finish": (*PRUNE, "finish"),
    "evaluate": ("evaluate", "data"),
}
LONGEST_VALUE = 60  # characters of one that is shown


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Settings:
    """Everything a run is told."""

    name: Name
    """The run's name; the same command continues the run of that name."""
    run_dir: Text
    """Where the run keeps what it makes."""
    cache: Text
    """Where stages are kept by what they depend on: one that was done before is taken from here."""
    seed: NotNegative
    """Of all random numbers."""
    stages: list[Annotated[Stage, one_of(*STAGES, what="stage")]]
    """What is done, in this order whatever theirs is."""
    half_weights: Switch
    """Model directories hold float16 instead of float32."""
    promote: Switch
    """export also copies the models to teachers/ and students/."""
    data: Data
    teacher: Teacher
    student: Student
    distill: Distill
    prune: Prune
    finish: Finish
    validation: Validation
    evaluate: Evaluate
    trainer: Trainer
    logger: Loggers
    choices: dict[str, str | None] = Field(default_factory=dict)
    """Group → the option that was chosen, experiment=smoke among them: for loggers."""
    configuration: dict[str, Any]
    """All of it as plain containers: what run directories, model.json and W&B keep."""

    def sections(self, stage: Stage) -> dict[str, Any]:
        """What the stage's result depends on, as plain containers."""
        return {name: self.configuration[name] for name in SECTIONS[stage]}

    def wants(self, stage: Stage) -> bool:
        return stage in self.stages

    def training(self, stage: Stage) -> Training | None:
        """How a stage trains; None for one that does not."""
        found: dict[Stage, Training | None] = {
            "teacher": self.teacher.training,
            "distill": None if self.student.load else self.student.training,
            "prune": self.prune.training,
            "finish": self.finish.training,
        }
        return found.get(stage)

    @property
    def finetuning_weights(self) -> dict[str, float]:
        weights = self.prune.distill_weights
        return self.distill.weights if weights is None else weights


def read(configuration: dict[str, Any]) -> Settings:
    """The settings in a resolved configuration. Raises InvalidInput, naming the field, for the first that is wrong."""
    known = configuration | {"logger": configuration.get("logger") or {}}  # logger=[] leaves no section
    try:
        return Settings(**known, configuration=configuration)
    except ValidationError as error:
        raise InvalidInput(_line(error)) from None


def _line(error: ValidationError) -> str:
    """The first mistake, in the words of a person."""
    first = error.errors()[0]
    field = ".".join(part for part in first["loc"] if isinstance(part, str) and "[" not in part)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{field}: there is no such setting; remove it"
    if first["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{field}: is missing; put it back (conf/ has its default)"
    if first["type"] in ("dataclass_type", "dataclass_exact_type", "dict_type"):
        return f"{field}={first['input']}: must be a section of settings, not one value"
    message = str(first.get("ctx", {}).get("error", first["msg"].replace("Input should be", "must be")))
    return f"{field}={str(first['input'])[:LONGEST_VALUE]}: {message}"
