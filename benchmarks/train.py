"""Training pictures a second in the flagship's three phases, what cutting crops takes of it, and CompressAI's step.

Fine-tuning is measured three times: of everything, with g_a frozen, and from stored latents (training/latents).

    python benchmarks/train.py --photos PHOTOS [--precision bf16] [--threads 2] [--steps 12] [--json FILE]
    python benchmarks/train.py --photos PHOTOS --device cuda --batch 256 --steps 200

Everything is measured in one process, a step of each in turn: their ratio holds on a machine whose clock does not.
`mbt2018_mean` (N = 192, M = 320) is trained as in CompressAI's own example, by Adam and with its auxiliary loss, on
the same crops, in the same precision.

With --batch, fine-tuning of slim-2k is also measured as a run does it, in Lightning's frame: with steps in parts, and
with whole steps (training/fast). Beside the crops a second stands the share of the memory's bandwidth: the bytes that
the operations of a step read and write, by their tensors, over those that a plain copy moves in the same time.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from slimcodec.codec.architecture import Architecture
from slimcodec.codec.atomic import write_text
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.codec.quantise import Quantiser
from slimcodec.pipeline.settings import Settings, read
from slimcodec.training.crops import PhotoCache
from slimcodec.training.data import PhotoData
from slimcodec.training.distill import Distill
from slimcodec.training.fast import Drawn
from slimcodec.training.inheritance import student_architecture
from slimcodec.training.latents import StoredLatents
from slimcodec.training.photos import Photo, folder_photos
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.pyramid import PhotoPyramid
from slimcodec.training.teach import Teach, fit, load_trained

ROOT = Path(__file__).resolve().parents[1]
ANCHOR = "mbt2018_mean"
ENOUGH_PHOTOS = 64
CROP = 256


class Phase(NamedTuple):
    """`draw(step)` cuts a step's crops; `step(crops)` trains on them."""

    draw: Callable[[int], tuple]
    step: Callable[[tuple], None]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        configuration = compose("config", ["experiment=flagship", f"data.root={options.photos}"])
    settings = read(OmegaConf.to_container(configuration, resolve=True))
    photos = folder_photos(options.photos, limit=ENOUGH_PHOTOS, max_pixels=settings.data.max_pixels)
    dtype = torch.bfloat16 if options.precision == "bf16" else None
    phases = _phases(settings, photos, options.device, dtype)
    seconds = {name: {"draw": [], "step": []} for name in phases}
    for number in tqdm(range(options.warm_up + options.steps), "steps"):
        for name, phase in phases.items():
            times = _timed(phase, number, options.device)
            if number >= options.warm_up:
                for part, value in times.items():
                    seconds[name][part].append(value)
    result = {
        "date": date.today().isoformat(),
        "device": options.device,
        "threads": options.threads,
        "precision": options.precision,
        "torch": torch.__version__,
        "batch": settings.teacher.training.batch,
        "crop": settings.teacher.training.crop,
        "phases": {
            name: {part: statistics.median(values) for part, values in parts.items()} for name, parts in seconds.items()
        },
    }
    if options.batch:
        bandwidth = _bandwidth(options.device)
        result["copied_bytes_per_second"] = bandwidth
        result["runs"] = {
            name: _run(photos, options, dtype, bandwidth, whole=whole)
            for name, whole in (("in parts", False), ("whole", True))
        }
    print(json.dumps(result, indent=1))
    if options.json:
        write_text(options.json, json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--batch", type=int, help="also measure whole runs, with so many crops a step")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------- whole runs


def _run(
    photos: list[Photo], options: argparse.Namespace, dtype: torch.dtype | None, bandwidth: float, *, whole: bool
) -> dict[str, float]:
    """Fine-tuning of slim-2k for some steps."""
    codec, prior, model = load_trained("slim-2k")
    settings = {"batch": options.batch, "crop": CROP, "learning_rate": 1e-5, "optimizer": "soap", "basis_every": 100}
    module = Teach(
        codec,
        prior,
        cache=PhotoPyramid(photos, device=options.device),
        quantiser=Quantiser(model.tables, torch.device(options.device)),
        steps=options.warm_up + options.steps,
        whole_step=whole,
        **settings,
    )
    clock, data = Clock(options), PhotoData(validation_photos=[], steps_per_epoch=options.warm_up + options.steps)
    with tempfile.TemporaryDirectory() as folder:
        fit(module, data, Path(folder), functools.partial(_trainer, options, dtype, clock))
    moved = _bytes_of_a_step(module.to(options.device), dtype)
    steps_per_second = options.steps / clock.seconds
    return {
        "crops_per_second": options.batch * steps_per_second,
        "ms_per_step": 1e3 / steps_per_second,
        "share_of_bandwidth": moved * steps_per_second / bandwidth,
    }


def _trainer(
    options: argparse.Namespace, dtype: torch.dtype | None, clock: lightning.Callback, directory: Path, **more: Any
) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu" if options.device == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed" if dtype else "32-true",
        gradient_clip_val=1.0,
        benchmark=options.device != "cpu",
        log_every_n_steps=50,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
        callbacks=[*more.pop("callbacks"), clock],
        **more,
    )


class Clock(lightning.Callback):
    """The seconds from the end of the warm-up to the end."""

    def __init__(self, options: argparse.Namespace):
        self.device, self.warm_up = options.device, options.warm_up

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.warm_up:
            self.began = _now(self.device)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            self.seconds = _now(self.device) - self.began


class Moved(TorchDispatchMode):
    """Adds up the bytes of what operations read and write. Views do neither."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        if not function.is_view:
            tensors = [each for each in tree_leaves((arguments, named, result)) if isinstance(each, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def _bytes_of_a_step(module: Teach, dtype: torch.dtype | None) -> int:
    optimizer, kind = module.train().configure_optimizers()["optimizer"], module.device.type
    drawn, noise = module.drawn(0), module.seeded(0)
    for _ in range(2):  # the second one is a step like all others
        with Moved() as moved:
            with torch.autocast(kind, dtype, enabled=dtype is not None, cache_enabled=False):
                loss, _ = module.loss_of(drawn, noise)
            loss.backward()
            module.clip(1.0)
            optimizer.prepare()
            optimizer.update()
    return moved.bytes


def _bandwidth(device: str) -> float:
    """Bytes a second that a copy of 256 MiB reads and writes; the median of nine."""
    source = torch.zeros(2**26, device=device)
    target, seconds = torch.empty_like(source), []
    for _ in range(9):
        began = _now(device)
        target.copy_(source)
        seconds.append(_now(device) - began)
    return 2 * source.numel() * source.element_size() / statistics.median(seconds)


# ----------------------------------------------------------------------------------------------------- single steps


def _timed(phase: Phase, number: int, device: str) -> dict[str, float]:
    began = _now(device)
    crops = phase.draw(number)
    drawn = _now(device)
    phase.step(crops)
    return {"draw": drawn - began, "step": _now(device) - drawn}


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def _phases(settings: Settings, photos: list[Photo], device: str, dtype: torch.dtype | None) -> dict[str, Phase]:
    cache = PhotoCache(photos, device=device)
    teacher = Architecture.from_dict(settings.teacher.architecture)
    student = student_architecture(settings.student.architecture, teacher, inherit_encoder=True)
    finetuning, kept = settings.prune.training.of_module, [load_trained("slim-2k").codec.to(device) for _ in range(2)]
    for codec in kept:
        codec.g_a.requires_grad_(False)
    stored = StoredLatents(photos, kept[1].g_a, settings.prune.training.crop, device=device)
    modules = {
        "teacher": Teach(*_fresh(teacher), cache=cache, **settings.teacher.training.of_module),
        "distillation": Distill(
            *_fresh(student),
            *_fresh(teacher),
            weights=settings.distill.weights,
            inherited_encoder=True,
            freeze_share=0,
            cache=cache,
            **settings.student.training.of_module,
        ),
        "fine-tuning": Teach(*load_trained("slim-2k")[:2], cache=cache, **finetuning),
        "fine-tuning, g_a frozen": Teach(kept[0], load_trained("slim-2k").prior, cache=cache, **finetuning),
        "fine-tuning, latents stored": Teach(kept[1], load_trained("slim-2k").prior, cache=stored, **finetuning),
    }
    ours = {name: _ours(module, device, dtype) for name, module in modules.items()}
    return ours | {ANCHOR: _anchor(modules["teacher"], device, dtype)}


def _fresh(architecture: Architecture) -> tuple[HyperpriorCodec, FactorizedPrior]:
    return HyperpriorCodec(architecture), FactorizedPrior(architecture.hypers, architecture.rungs)


def _ours(module: Teach, device: str, dtype: torch.dtype | None) -> Phase:
    """The module's own step, with the batch drawn before it."""
    module.to(device, memory_format=torch.channels_last).train()
    optimizer = module.configure_optimizers()["optimizer"]
    if isinstance(module, Distill):
        module.teacher.to(device, memory_format=torch.channels_last)

    def step(batch: tuple[int, Drawn]) -> None:
        number, drawn = batch
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss, _ = module.loss_of(drawn, module.seeded(number))
        _descend(optimizer, loss, module)

    return Phase(lambda number: (number, module.drawn(number)), step)


def _anchor(ours: Teach, device: str, dtype: torch.dtype | None) -> Phase:
    """CompressAI's training step on the crops of ours."""
    from compressai.losses import RateDistortionLoss
    from compressai.models import MeanScaleHyperprior

    model = MeanScaleHyperprior(192, 320).to(device).train()
    quantiles = {name for name, _ in model.named_parameters() if name.endswith(".quantiles")}
    named = dict(model.named_parameters())
    optimizer = torch.optim.Adam([named[name] for name in named if name not in quantiles], lr=1e-4)
    auxiliary = torch.optim.Adam([named[name] for name in quantiles], lr=1e-3)
    criterion = RateDistortionLoss(lmbda=0.013)

    def step(x: Tensor) -> None:
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = criterion(model(x), x)["loss"]
        _descend(optimizer, loss, model)
        _descend(auxiliary, model.aux_loss(), model)

    return Phase(lambda number: ours.pictures(ours.drawn(number)).contiguous(), step)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, module: torch.nn.Module) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()
