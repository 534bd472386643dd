"""Specialists compete for cells: they share what they should, take equal shares, and one alone is plain training."""

import itertools

import pytest
import torch
from torch import nn
from training_parts import lively, photos, student

from slimcodec import InvalidInput
from slimcodec.training.compete import SHARED, Choice, Compete, shared_out, shares
from slimcodec.training.teach import Teach

SETTINGS = {"steps": 8, "batch": 2, "crop": 128, "learning_rate": 1e-3}


def competing(count, **changes):
    codecs, priors = zip(*(lively(student(), seed) for seed in range(count)), strict=True)
    return Compete(codecs, priors[0], **(SETTINGS | {"cache": photos()} | changes)).train()


def test_one_alone_is_plain_training():
    alone = competing(1)
    plain = Teach(*lively(student(), 0), cache=photos(), **SETTINGS).train()
    for module in (alone, plain):
        module.loss_at(3)[0].backward()
    assert alone.loss_at(3)[1] == plain.loss_at(3)[1]
    assert all(
        torch.equal(ours.grad, theirs.grad)
        for ours, theirs in zip(alone.codec.parameters(), plain.codec.parameters(), strict=True)
        if theirs.grad is not None
    )


def test_specialists_have_a_last_layer_of_g_a_and_a_g_s_of_their_own():
    module = competing(2)
    first, second = (dict(codec.named_parameters()) for codec in module.codecs)
    own = {name for name in first if first[name] is not second[name]}
    assert own == {name for name in first if not name.startswith(SHARED)}
    assert {".".join(name.split(".")[:2]) for name in own} == {"g_a.head", "g_s.levels", "g_s.head"}
    module.loss_at(0)[0].backward()
    for codec in module.codecs:
        for part in (codec.g_a, codec.h_a, codec.g_s):
            assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters() if parameter.ndim > 1)
    names = [name for name, _ in module.named_parameters()]
    assert len({id(parameter) for parameter in module.parameters()}) == len(names)


def test_a_map_of_one_specialist_is_that_specialist():
    module = competing(2)
    x, quality = module.pictures(module.drawn(0)), module.drawn(0).quality
    features = module.codec.g_a.features(x)
    for number, codec in enumerate(module.codecs):
        module.places.map = torch.full((2, 2, 2), number)
        assert torch.equal(module.mixed.g_s(module.mixed.g_a.head(features)), codec.g_s(codec.g_a.head(features)))
        bits, errors = module.cells(module.mixed, x, quality, features)
        own_bits, own_errors = module.cells(codec, x, quality, features)
        assert torch.equal(bits, own_bits) and torch.equal(errors, own_errors)


def test_every_layer_has_the_weights_of_each_cells_specialist():
    module = competing(2)
    module.places.map = torch.tensor([[[0, 1], [1, 0]]])
    layers = [layer for layer in module.mixed.modules() if isinstance(layer, Choice)]
    assert len(layers) == sum(isinstance(layer, nn.Conv2d) for layer in module.codec.g_s.modules()) + 1
    for layer in layers:
        x = torch.randn(1, layer.layers[0].weight.shape[1] * layer.layers[0].groups, 8, 8)
        found, one, other = (each(x).unfold(2, 4, 4).unfold(3, 4, 4) for each in (layer, *layer.layers))
        assert torch.equal(found[:, :, 0, 0], one[:, :, 0, 0]) and torch.equal(found[:, :, 0, 1], other[:, :, 0, 1])
        assert torch.equal(found[:, :, 1, 0], other[:, :, 1, 0]) and torch.equal(found[:, :, 1, 1], one[:, :, 1, 1])


def test_everyone_trains_on_what_they_code_best():
    module = competing(2)
    drawn = module.drawn(0)
    x = module.pictures(drawn)
    costs = module.costs(x, drawn.quality, module.codec.g_a.features(x))
    assert costs.shape == (2, 2, 2, 2)
    module.coded_of(drawn, module.seeded(0))
    assert torch.equal(module.places.map, shared_out(costs))
    assert module.places.map.flatten().bincount().tolist() == [4, 4]


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_equal_and_close_to_the_best_that_equal_shares_can_be(seed):
    generator = torch.Generator().manual_seed(seed)
    costs = 0.05 * torch.randn(8, 2, generator=generator) + torch.randn(8, 1, generator=generator)
    costs[:, 0] -= 0.04  # the first is better at nearly all
    who = shares(costs)
    assert who.bincount().tolist() == [4, 4]
    best = min(
        sum(costs[row, 0 if row in first else 1] for row in range(8)) for first in itertools.combinations(range(8), 4)
    )
    assert costs.gather(1, who[:, None]).sum() - best < 0.02


def test_cells_that_cannot_be_shared_out_are_refused():
    with pytest.raises(InvalidInput, match=r"training\.batch: its 8 cells must be a multiple of 3 specialists"):
        competing(3)
