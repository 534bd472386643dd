"""The sections of the configuration: a frozen dataclass each, with the ranges of its values.

What they mean together, and where they are read, is in pipeline/settings.
"""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

from slimcodec.codec.grid import CELL
from slimcodec.pipeline.ranges import (
    AsInFiles,
    Corrections,
    Count,
    Crop,
    Filters,
    Freeze,
    Name,
    NotNegative,
    Positive,
    Quality,
    Share,
    Switch,
    Text,
    Weight,
    one_of,
    says,
)
from slimcodec.training import schedule
from slimcodec.training.names import OPTIMIZERS, PARTS, TABLES, Kind
from slimcodec.training.records import Rules

Scope = Literal["decoder", "encoder"]
FORMAT = ConfigDict(extra="forbid", use_attribute_docstrings=True, arbitrary_types_allowed=True)


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Late:
    """Other crops for the last steps of a training: large ones hold what small ones cut off."""

    share: Share
    """Of the steps."""
    batch: Count
    """Pictures in such a step, over all processes."""
    crop: Crop
    """Side of the square crops in pixels."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Training:
    """How one model is trained."""

    steps: Count
    """Optimizer steps in all."""
    batch: Count
    """Pictures in a step, over all processes."""
    crop: Crop
    """Side of the square crops in pixels."""
    learning_rate: Positive
    """At its highest: it warms up for 2 % of the steps, stays, and falls to zero."""
    steps_per_epoch: Count
    """Steps from one validation to the next."""
    decay_from: Annotated[float, Field(ge=0, lt=1), says("must be 0 or more, and less than 1")] = 2 / 3
    """Share of the steps after which the learning rate falls."""
    restarts: NotNegative = 0
    """How often the learning rate begins again: warm-up, height and fall share the steps."""
    late: Late | None = None
    """Other crops for the last steps; null: the same to the end."""
    optimizer: Annotated[str, one_of(*OPTIMIZERS)] = "adam"
    """adam, or soap, which takes longer for a step and needs far fewer of them."""
    basis_every: Count = 10
    """Steps from one eigenbasis of soap's to the next."""
    as_in_files: AsInFiles = False
    """Train with residuals as files hold them, by one quantiser; both: by two if there are; all: and with pixels as
    they are decoded. Only for a model that has been saved before."""
    freeze_encoder: Freeze = False
    """Leave g_a and h_a of a student that is pruned or finished as they are, or g_a alone: steps take less time."""
    freeze_gains: Switch = False
    """Leave the steps of quantisation of a student that is pruned or finished as they are."""
    parts: list[Annotated[str, one_of(*PARTS)]] | None = None
    """Parts of a student that is pruned or finished, such as [context, g_s]: all else stays as it is."""
    stored_latents: Switch = False
    """Cut photos into crops once, at four sizes, and ask a frozen g_a for their latents: steps take half the time, and
    photos 13 more bytes of memory a pixel."""

    @property
    def leaves_g_a(self) -> bool:
        return bool(self.freeze_encoder) if self.parts is None else "g_a" not in self.parts

    @property
    def of_module(self) -> dict[str, Any]:
        """What the LightningModule takes."""
        names = ("steps", "batch", "crop", "learning_rate", "decay_from", "restarts", "optimizer", "basis_every")
        return {name: getattr(self, name) for name in names} | {"late": self.late and schedule.Late(**vars(self.late))}

    @property
    def batches(self) -> dict[str, int]:
        """All sizes of batches, by their fields."""
        return {"batch": self.batch} | ({} if self.late is None else {"late.batch": self.late.batch})

    @property
    def crops(self) -> tuple[int, ...]:
        """All sizes of crops."""
        return (self.crop,) if self.late is None else (self.crop, self.late.crop)


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Data:
    """Photos to train on and to validate with."""

    kind: Annotated[str, one_of("embedded", "folder", "shards")]
    """embedded: seven photos that come inside scikit-image and scikit-learn; folder: your own, in memory; shards: your
    own, from the disk."""
    root: Text | None = None
    """The folder of photos to train on, or of what `slimcodec shards` wrote."""
    validation_root: Text | None = None
    """Another folder to validate with; null keeps the last photos of `root` for that."""
    held_out: NotNegative = 8
    """How many are kept."""
    limit: Count | None = None
    """Photos to train on, evenly spaced over the sorted names; null takes all."""
    max_pixels: Count | None = None
    """Larger photos are downscaled to so many pixels. Photos in shards are as large as they were written."""
    saturated: Share = 0.0
    """Share of the crops whose colours are made stronger."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Teacher:
    """The model that the student learns from."""

    name: Name
    """What model cards call it, and its folder in teachers/ when it is promoted."""
    load: Text | None
    """Name or directory of a trained teacher; then none is trained."""
    training: Training
    """How it is trained."""
    architecture: dict[str, Any]
    """Its widths (codec/architecture)."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Student:
    """The model that is distilled and pruned."""

    name: Name
    """What model cards call it, and its folder in students/ when it is promoted."""
    load: Text | None = None
    """Name or directory of a student; then none is distilled, and the rounds begin with it."""
    inherit_encoder: Switch
    """Start with the teacher's encoder, and with its entropy model where the widths agree."""
    training: Training
    """How it is distilled, before the first round."""
    architecture: dict[str, Any]
    """Its widths before pruning; what it inherits is not named."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Distill:
    """What the student is trained for beside rate and distortion."""

    freeze_share: Share
    """Share of the steps for which an inherited encoder stays as it is."""
    weights: dict[str, Weight]
    """Term → weight, relative to the rate–distortion term's 1."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Prune:
    """The rounds: budgets, the gate, fine-tuning."""

    scope: Annotated[str, one_of("decoder", "encoder", "both")]
    """Whose channels are pruned."""
    target_macs_per_pixel: Any
    """Of the decoder."""
    encoder_target_macs_per_pixel: Any
    """Of the encoder, for the scopes encoder and both."""
    shrink: Any
    """A round's budget as a share of the cost before it."""
    gate: Any
    """record accepts every round; strict only one within max_bd_rate_percent."""
    max_bd_rate_percent: Any
    """Against the teacher, on the validation photos."""
    max_passes: Any
    """Passes of fine-tuning before half the step is tried."""
    max_halvings: Any
    """How often a step is halved before the rounds end."""
    importance: Annotated[str, one_of("taylor", "magnitude")]
    """How channels are chosen: by what they contribute to the loss, or by their weights."""
    importance_batches: Count
    """Batches that taylor looks at."""
    floors: dict[str, Count]
    """Part or path → the smallest width; 8 elsewhere."""
    distill_weights: dict[str, Weight] | None
    """Weights of distillation while fine-tuning; null takes those of distill, {} rate and distortion alone."""
    training: Training
    """How a round is fine-tuned."""

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """In the order in which they are pruned."""
        scopes: tuple[Scope, ...] = ("decoder", "encoder")
        return tuple(scope for scope in scopes if self.scope in (scope, "both"))

    @staticmethod
    def target(scope: Scope) -> str:
        """The field that holds a scope's target."""
        return "target_macs_per_pixel" if scope == "decoder" else "encoder_target_macs_per_pixel"

    def rules(self, scope: Scope) -> Rules:
        return Rules(
            target_macs_per_pixel=getattr(self, self.target(scope)),
            shrink=self.shrink,
            gate=self.gate,
            max_bd_rate_percent=self.max_bd_rate_percent,
            max_passes=self.max_passes,
            max_halvings=self.max_halvings,
        )


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Tables:
    """What is counted and learned on training photos for a student that stands (training/tables)."""

    photos: Count | None
    """Photos, evenly spaced; null takes all."""
    side: Crop
    """Side of the crops from their middle in pixels, where a photo is as large."""
    corrections: Corrections
    """Corrections of g_s.head that a picture may choose of."""
    filters: Filters = 6
    """Filters of decoded pixels that a picture may mix; 0 for none."""
    kinds: list[Kind] = field(default_factory=lambda: list(TABLES))
    """Those of its tables that are made anew; the others stay. Filters are learned for the corrections."""
    states: Literal[1, 8, 16, 32, 64, 128, 256, 512, 1024] = 1024
    """States of dependent quantisation; 1 leaves a student as it is, with one quantiser or with two."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Encoder:
    """The transform of an encoder, as an architecture has it (codec/architecture)."""

    downsampling: Text
    """Windows of its strided convolutions."""
    g_a: list[dict[str, Any]]
    """Its levels, the finest first."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Finish:
    """Training of the student once its rounds are over, and its last tables."""

    start: Text | None
    """A model directory to train on, instead of the last round's."""
    encoder_blocks: list[list[Count]] | None = None
    """Hidden channels of residual blocks that each level of the encoder, the finest first, is given to be trained."""
    decoder_blocks: list[list[Count]] | None = None
    """Hidden channels of depthwise blocks that each level of g_s, the coarsest first, is given to be trained."""
    decoder_levels: list[dict[str, Any]] | None = None
    """Blocks of any kind that levels of g_s are given, and finer levels after its own (training/grow.with_levels)."""
    context: list[Count] | None = None
    """As many hidden channels as each stage of the context is to have, instead of its fewer own."""
    new_alone: Switch = False
    """Train what is new in g_s alone: all else stays as it was. Needs training.freeze_encoder."""
    encoder: Encoder | None = None
    """Another g_a that the student is given to be trained, instead of its own."""
    quantise: Switch = False
    """Turn its decoder into one of integers, whose pixels are the same everywhere, before it is trained, if it is."""
    training: Training | None
    """How it is trained; null leaves it as its last round left it."""
    tables: Tables | None = None
    """Tables for the trained student: banks of z, corrections of g_s.head; null keeps those of its training."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Validation:
    """What is measured after every epoch, and what the gate judges by."""

    side: Annotated[int, Strict(), Field(ge=CELL), says(f"must be at least {CELL} pixels, a whole number")]
    """Side of the centre crops in pixels."""
    limit: Count | None
    """Photos; null takes all."""
    qualities: list[Quality]
    """At which the gate measures its curves."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Evaluate:
    """What is measured on real files when the student is done."""

    folders: list[Text]
    """Folders of photos, each a set named like the folder; none takes the validation photos."""
    limit: Count | None
    """Photos of each set; null takes all."""
    qualities: list[Quality]
    """At which models write their files."""
    anchors: list[Text]
    """Other codecs beside the models."""
    metrics: list[Text]
    """Groups or names of metrics."""
    models: list[Text]
    """Other model directories beside the run's, or names in the zoos."""
    efforts: list[Annotated[int, Strict(), Field(ge=1, le=10), says("must be a whole number from 1 to 10")]]
    """The student's files are also written with this much effort."""
    effort_qualities: list[Quality]
    """At which they are."""
    rounds: Switch
    """Also measure the student before pruning and after each round."""
    memory: Switch
    """Also measure the peak memory of each codec."""
    jobs: Count
    """Processes that measure at a time."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Trainer:
    """Where and how fast training runs. Nothing here changes what is learned, but for rounding and the crops drawn."""

    accelerator: Annotated[str, one_of("cpu", "gpu")]
    """What trains."""
    devices: Annotated[
        int | Literal["auto"], Field(union_mode="left_to_right"), says("must be a number of processes, or auto")
    ]
    """Processes that share each batch: one for each GPU, auto for all of them."""
    precision: Annotated[str, one_of("32-true", "bf16-mixed", "16-mixed")]
    """Of the arithmetic."""
    gradient_clip_val: Weight | None
    """Largest norm of the gradients."""
    log_every_n_steps: Count
    """Steps from one line of the log to the next."""
    say_every_seconds: Positive = 30
    """Seconds from one line about a training to the next, where there is no terminal, and in run.log."""
    benchmark: Switch = False
    """Let cuDNN look for its fastest kernels."""
    max_time: Annotated[
        str | None,
        Field(pattern=r"^\d+:\d\d:\d\d:\d\d$"),
        says("must be days:hours:minutes:seconds, such as 00:01:30:00"),
    ]
    """Training ends cleanly after this time, days:hours:minutes:seconds; the same command continues."""
    checkpoint_minutes: Weight
    """From one checkpoint inside an epoch to the next."""
    compile: Switch
    """Train through torch.compile."""
    whole_step: Switch = False
    """Do the whole step at once, on a GPU as one CUDA graph: for one process."""
    crop_workers: NotNegative
    """Processes that cut the crops of the next steps; 0 leaves it to the training process, or its GPU."""
    more: dict[str, Any]
    """Further arguments of lightning.Trainer."""

    @property
    def max_seconds(self) -> float | None:
        if self.max_time is None:
            return None
        days, hours, minutes, seconds = map(int, self.max_time.split(":"))
        return ((24 * days + hours) * 60 + minutes) * 60 + seconds


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Wandb:
    """Weights & Biases."""

    project: Text
    """Where the runs are."""
    group: Text | None = None
    """What runs are compared in; null: the run's name, which the jobs of a sweep have in common."""
    job_type: Text | None = None
    """What kind of job it is; null: sweep for a job of a sweep, the stage if there is one alone, or run."""
    tags: list[Text] = Field(default_factory=list)
    """Beside the name of the experiment."""
    notes: Text | None = None
    """What the run is about."""
    pictures: NotNegative
    """Validation crops whose reconstructions are kept."""
    qualities: list[Quality]
    """At which."""
    init_timeout_seconds: Positive
    """Without an answer in this time the run is kept offline."""
    finish_timeout_seconds: Positive
    """For the last uploads; what is missing then stays on the disk."""


@dataclass(frozen=True, kw_only=True, config=FORMAT)
class Loggers:
    """What is told of a run, and to whom. A section that is there is wanted."""

    csv: dict[str, Any] | None = None
    """Losses and validation by step, as a table in the run directory."""
    tensorboard: dict[str, Any] | None = None
    """The same for TensorBoard."""
    wandb: Wandb | None = None
    """The same, pictures, models and the evaluation for Weights & Biases."""

    @property
    def any(self) -> bool:
        return any(section is not None for section in vars(self).values())
