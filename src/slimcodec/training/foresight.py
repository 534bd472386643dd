"""The small network that foresees which specialist codes a cell best (codec/foresight), learned from trying them all.

Its loss is what a cell costs on average where specialists are drawn by their scores: cells count by what is at stake.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from slimcodec.codec.bitstream import QUALITY_ONE
from slimcodec.codec.choice import Choice
from slimcodec.codec.foresight import HIDDEN, HIDDEN_BIAS, SCORES, SCORES_BIAS, inputs
from slimcodec.codec.models import Model

WIDTH = 32
STEPS, BATCH, RATE, DECAY = 3000, 1024, 2e-3, 1e-2


class Examples(NamedTuple):
    """N cells, of photos at several rungs."""

    seen: Tensor  # float32 [N, 2·C + Q]: `foresight.inputs`
    costs: Tensor  # float32 [N, K]: with every specialist, over what a cell of its photo costs on average


def learned(model: Model, photos: Iterable[np.ndarray], *, seed: int = 0) -> dict[str, Tensor]:
    """The tables of a model of specialists, and those of its foresight.

    photos  uint8 [H, W, 3], sides multiples of 64
    """
    return model.tables | trained(gathered(model, photos), seed=seed)


def gathered(model: Model, photos: Iterable[np.ndarray]) -> Examples:
    """Photos at every third rung, each next one from another rung on."""
    transforms, rungs, seen, costs = model.transforms(), model.codec.architecture.rungs, [], []
    for number, pixels in enumerate(photos):
        choice, features = Choice(transforms, pixels, quick=False), transforms.analyse(pixels)
        for rung in range(number % min(3, rungs), rungs, 3):
            found = choice.costs(features, choice.grid, (rung + 1) * QUALITY_ONE)
            costs.append(found.reshape(len(found), -1).T / found.mean())
            seen.append(inputs(transforms.networks.numpy(features), rung, rungs).reshape(len(costs[-1]), -1))
    return Examples(*(torch.from_numpy(np.concatenate(each)).float() for each in (seen, costs)))


def trained(examples: Examples, *, seed: int = 0) -> dict[str, Tensor]:
    """The tables of a network that was trained on examples."""
    random = torch.Generator().manual_seed(seed)
    mean, spread = examples.seen.mean(0), examples.seen.std(0).clamp_min(1e-6)
    seen, stake = (examples.seen - mean) / spread, examples.costs - examples.costs.amin(dim=1, keepdim=True)
    hidden, scores = nn.Linear(seen.shape[1], WIDTH), nn.Linear(WIDTH, stake.shape[1])
    with torch.no_grad():
        for layer in (hidden, scores):
            layer.weight.normal_(std=layer.in_features**-0.5, generator=random)
            layer.bias.zero_()
    weights = [*hidden.parameters(), *scores.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(seen), (BATCH,), generator=random)
        drawn = torch.softmax(-scores(torch.relu(hidden(seen[chosen]))), dim=1)
        optimizer.zero_grad()
        (drawn * stake[chosen]).sum(dim=1).mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        weight = hidden.weight / spread
        found = {HIDDEN: weight, HIDDEN_BIAS: hidden.bias - weight @ mean, SCORES: scores.weight}
        return {name: table.detach().clone() for name, table in (found | {SCORES_BIAS: scores.bias}).items()}
