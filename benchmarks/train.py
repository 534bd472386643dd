"""Training pictures a second in the flagship's three phases, what cutting crops takes of it, and CompressAI's step.

    python benchmarks/train.py --photos PHOTOS [--precision bf16] [--threads 2] [--steps 12] [--json FILE]

Everything is measured in one process, a step of each in turn: their ratio holds on a machine whose clock does not.
`mbt2018_mean` (N = 192, M = 320) is trained as in CompressAI's own example, by Adam and with its auxiliary loss, on
the same crops, in the same precision.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from slimcodec.codec.architecture import Architecture
from slimcodec.codec.files import writing
from slimcodec.codec.network import HyperpriorCodec
from slimcodec.pipeline.settings import Settings, read
from slimcodec.training.crops import PhotoCache
from slimcodec.training.distill import Distill
from slimcodec.training.inheritance import student_architecture
from slimcodec.training.photos import folder_photos
from slimcodec.training.prior import FactorizedPrior
from slimcodec.training.teach import Teach, load_trained

ROOT = Path(__file__).resolve().parents[1]
ANCHOR = "mbt2018_mean"
ENOUGH_PHOTOS = 64


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
    phases = _phases(settings, PhotoCache(photos, device=options.device), options.device, dtype)
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
    print(json.dumps(result, indent=1))
    if options.json:
        with writing(options.json) as file:
            file.write((json.dumps(result, indent=1) + "\n").encode())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


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


def _phases(settings: Settings, cache: PhotoCache, device: str, dtype: torch.dtype | None) -> dict[str, Phase]:
    teacher = Architecture.from_dict(settings.teacher.architecture)
    student = student_architecture(settings.student.architecture, teacher, inherit_encoder=True)
    pruned, pruned_prior, _ = load_trained("slim-2k")
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
        "fine-tuning": Teach(pruned, pruned_prior, cache=cache, **settings.prune.training.of_module),
    }
    ours = {name: _ours(module, device, dtype) for name, module in modules.items()}
    return ours | {ANCHOR: _anchor(modules["teacher"], device, dtype)}


def _fresh(architecture: Architecture) -> tuple[HyperpriorCodec, FactorizedPrior]:
    return HyperpriorCodec(architecture), FactorizedPrior(architecture.hypers, architecture.rungs)


def _ours(module: Teach, device: str, dtype: torch.dtype | None) -> Phase:
    """The module's own step, with the batch drawn before it."""
    module.to(device, memory_format=torch.channels_last).train()
    optimizer = module.configure_optimizers()["optimizer"]
    draw, drawn = module.draw, {}
    module.draw = lambda step: drawn[step]
    if isinstance(module, Distill):
        module.teacher.to(device, memory_format=torch.channels_last)

    def step(batch: tuple[int, tuple[Tensor, Tensor]]) -> None:
        number, drawn[number] = batch
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss, _ = module.loss_at(number)
        _descend(optimizer, loss, module)
        drawn.clear()

    return Phase(lambda number: (number, draw(number)), step)


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
    draw = type(ours).draw

    def step(batch: tuple[Tensor, Tensor]) -> None:
        x = batch[0].contiguous()
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = criterion(model(x), x)["loss"]
        _descend(optimizer, loss, model)
        _descend(auxiliary, model.aux_loss(), model)

    return Phase(lambda number: draw(ours, number), step)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, module: torch.nn.Module) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()


if __name__ == "__main__":
    main()
