"""Specialists share a trunk, take equal shares of what they are best for, and one alone is plain training."""

import itertools

import pytest
import torch
from training_parts import lively, photos, student

from slimcodec import InvalidInput
from slimcodec.training.compete import Compete, shares
from slimcodec.training.teach import Teach

SETTINGS = {"steps": 8, "batch": 4, "crop": 64, "learning_rate": 1e-3}


def competing(count, **changes):
    codecs, priors = zip(*(lively(student(), seed) for seed in range(count)), strict=True)
    return Compete(codecs, priors, **(SETTINGS | {"cache": photos()} | changes)).train()


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


def test_specialists_have_one_trunk_and_their_own_rest():
    module = competing(2)
    first, second = module.codecs
    assert first.g_a.levels is second.g_a.levels
    module.loss_at(0)[0].backward()
    for part in (
        first.g_a.levels,
        *(codec.g_s for codec in (first, second)),
        *(codec.h_a for codec in (first, second)),
    ):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters() if parameter.ndim > 1)
    names = [name for name, _ in module.named_parameters()]
    assert len({id(parameter) for parameter in module.parameters()}) == len(names)


def test_everyone_trains_on_what_they_code_best():
    module = competing(2)
    drawn = module.drawn(0)
    x = module.pictures(drawn)
    costs = module.log_costs(x, drawn.quality, module.codec.g_a.features(x))
    batch = module.coded_of(drawn, module.seeded(0))
    who = shares(costs)
    assert torch.equal(batch.x, x[who.flatten()])
    assert torch.equal(batch.quality, drawn.quality[who.flatten()])


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_equal_and_close_to_the_best_that_equal_shares_can_be(seed):
    generator = torch.Generator().manual_seed(seed)
    costs = 0.05 * torch.randn(8, 2, generator=generator) + torch.randn(8, 1, generator=generator)
    costs[:, 0] -= 0.04  # the first is better at nearly all
    who = shares(costs)
    assert sorted(who.flatten().tolist()) == list(range(8))
    best = min(
        costs[list(first), 0].sum() + costs[[each for each in range(8) if each not in first], 1].sum()
        for first in itertools.combinations(range(8), 4)
    )
    found = sum(costs[chosen, number].sum() for number, chosen in enumerate(who))
    assert found - best < 0.02


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(InvalidInput, match=r"training\.batch=4: must be a multiple of the 3 specialists"):
        competing(3)
