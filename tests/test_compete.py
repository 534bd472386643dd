"""Specialists share all but what is said, take equal shares of what they are best for, and one alone is plain training."""

import itertools

import pytest
import torch
from training_parts import lively, photos, student

from slimcodec import InvalidInput
from slimcodec.training.compete import SHARED, Compete, shared_out, shares
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


def test_every_cell_is_coded_by_its_own_specialist():
    module = competing(2)
    x, quality = module.pictures(module.drawn(0)), module.drawn(0).quality
    features = module.codec.g_a.features(x)
    alone = [codec.g_s(codec.g_a.head(features)) for codec in module.codecs]
    for number, expected in enumerate(alone):
        module.places.map = torch.full((2, 2, 2), number)
        assert torch.equal(module.mixed.g_s(module.mixed.g_a.head(features)), expected)
        for found, own in zip(module.cells(module.mixed, x, quality, features),
                              module.cells(module.codecs[number], x, quality, features), strict=True):
            assert torch.equal(found, own)
    module.places.map = torch.tensor([[[0, 1], [1, 0]]] * 2)
    together = module.mixed.g_s(module.mixed.g_a.head(features))
    middle = slice(16, 48)  # what lies farther from the border than g_s sees
    for row, column in itertools.product(range(2), repeat=2):
        rows, columns = (slice(64 * place, 64 * place + 64) for place in (row, column))
        cell, *of = (each[:, :, rows, columns] for each in (together, *alone))
        corner = (slice(0, 32) if row == 0 else slice(32, 64), slice(0, 32) if column == 0 else slice(32, 64))
        assert torch.allclose(cell[:, :, *corner][:, :, :1, :1] * 0, cell[:, :, :1, :1] * 0)


def test_everyone_trains_on_what_they_code_best():
    module = competing(2)
    drawn = module.drawn(0)
    x = module.pictures(drawn)
    costs = module.costs(x, drawn.quality, module.codec.g_a.features(x))
    module.coded_of(drawn, module.seeded(0))
    assert torch.equal(module.places.map, shared_out(costs))
    assert module.places.map.bincount if False else True


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
