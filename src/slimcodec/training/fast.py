"""The whole of a training step at once: crops, forward, backward, clipping, optimizer. On a GPU it is one CUDA graph.

A step of a narrow network is thousands of small kernels, and launching them takes longer than they do. A graph launches
them together. What it may hold is tensors of fixed places and shapes: what changes from step to step is put into such
tensors before it is repeated, and eigenbases are renewed outside of it.

    drawn(step), seed of the noise, size of the step ──► [crops ─ forward ─ backward ─ clip ─ update] ──► figures
                                                          eager for the first steps, then the graph

The first steps of every shape are taken eagerly: they are steps like any others, and libraries choose their kernels
and workspaces in them. On the CPU the function that a GPU records is simply called: the numbers are the same.
"""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import lightning
import torch
from torch import Tensor

from slimcodec.training.losses import require_finite
from slimcodec.training.soap import Soap

EAGER_STEPS = 3  # PyTorch asks for three before a graph is recorded
LOOKED_AT_EVERY = 50  # steps: to look at a figure is to wait for the GPU
GRADIENT_NORM = "train/gradient_norm"


class Drawn(NamedTuple):
    """What is drawn for a step besides noise, on the module's device."""

    crops: Tensor  # what the cache cuts pictures from
    quality: Tensor  # int64 [b]
    size: int  # side of the pictures


class WholeStep:
    """Does the steps of a module, `training/teach`, that is in training by a Trainer."""

    def __init__(self, module: lightning.LightningModule):
        self._module = (module,)  # in a tuple: a module that holds this must not find itself in it
        self._kind: Hashable = None
        self._taken = 0  # steps of this kind
        self._replay: Callable[[], None] | None = None

    @property
    def module(self) -> lightning.LightningModule:
        return self._module[0]

    def __call__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Take a step: its loss and its figures, detached, which the next step does not change."""
        kind = self.module.device.type
        # A graph must not find weights in the cache that were cast before it. The optimizer works in float32.
        forward = torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), False)
        with torch.autocast(kind, enabled=False):
            found = self._take(self.module.drawn(step), self.module.seeded(step), forward)
        if step % LOOKED_AT_EVERY == 0:
            require_finite(step, found)
        figures = {name: value.clone() for name, value in found.items()}
        return figures["loss"], {name: value for name, value in figures.items() if name != "loss"}

    def _take(self, drawn: Drawn, noise: torch.Generator, forward: torch.autocast) -> dict[str, Tensor]:
        if (kind := self._kind_of(drawn)) != self._kind:
            self._kind, self._taken, self._replay = kind, 0, None
        optimizer: Soap = self.module.optimizers(use_pl_optimizer=False)
        self._taken += 1
        if self._taken > EAGER_STEPS:
            return self._repeat(drawn, noise, forward, optimizer)
        with _beside(self.module.device):
            found = self._gradients(drawn, noise, forward)
            optimizer.step()
        return found

    def _kind_of(self, drawn: Drawn) -> Hashable:
        """What a graph depends on: the shapes, and which parameters are trained."""
        trained = tuple(parameter.requires_grad for parameter in self.module.parameters())
        return drawn.crops.shape, drawn.size, trained

    def _gradients(self, drawn: Drawn, noise: torch.Generator, forward: torch.autocast) -> dict[str, Tensor]:
        """Everything up to the clipped gradients."""
        module = self.module
        module.zero_grad(set_to_none=True)  # so that a graph gets places of its own for them
        with forward:
            loss, figures = module.loss_of(drawn, noise)
        loss.backward()
        norm = module.clip(module.trainer.gradient_clip_val)
        return {"loss": loss.detach(), **figures, GRADIENT_NORM: norm}

    def _repeat(
        self, drawn: Drawn, noise: torch.Generator, forward: torch.autocast, optimizer: Soap
    ) -> dict[str, Tensor]:
        optimizer.prepare()
        if self._replay is None:
            self._drawn = drawn._replace(crops=drawn.crops.clone(), quality=drawn.quality.clone())
            self._replay = self._recorded(noise, forward, optimizer)
        self._drawn.crops.copy_(drawn.crops)
        self._drawn.quality.copy_(drawn.quality)
        self._replay()
        optimizer.refresh()
        return self._found

    def _recorded(self, noise: torch.Generator, forward: torch.autocast, optimizer: Soap) -> Callable[[], None]:
        """What does a step with what then is in its tensors."""

        def work() -> None:
            self._found = self._gradients(self._drawn, noise, forward)
            optimizer.update()

        return _graph_of(work, noise) if self.module.device.type == "cuda" else work


def _graph_of(work: Callable[[], None], noise: torch.Generator) -> Callable[[], None]:
    """Record what `work` does on the GPU; a call that does it again. Recording does nothing itself."""
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(noise)  # a repetition goes on from where the generator then is
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads pin memory and write checkpoints
        work()
    return graph.replay


class _beside:
    """On a GPU, work in a stream of its own: gradients that began in the default one could not be recorded."""

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __enter__(self) -> None:
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream())
            self.inside = torch.cuda.stream(self.stream)
            self.inside.__enter__()

    def __exit__(self, *error: object) -> None:
        if self.stream:
            self.inside.__exit__(*error)
            torch.cuda.current_stream().wait_stream(self.stream)
