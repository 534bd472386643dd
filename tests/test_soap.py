"""Our SOAP, and Adam as the case of it without bases, move parameters as those of well-known libraries do."""

import pytest
import torch
from pytorch_optimizer import SOAP

from slimcodec.training import optimizers

STEPS, EVERY, RATE = 30, 3, 1e-2
AS_ADAM = {"max_precondition_dim": 0, "betas": (0.9, 0.999)}


def parameters() -> optimizers.Parameters:
    """Weights of both kinds of convolution, one with a dimension that is too long for a basis, gains, and the rest."""
    random = torch.Generator().manual_seed(1)
    shapes = {"weights": [(24, 16, 3, 3), (600, 8, 1, 1)], "gains": [(8, 4)], "rest": [(24,), (32, 3, 3)]}
    return optimizers.Parameters(
        **{
            group: [torch.randn(shape, generator=random).requires_grad_() for shape in of_group]
            for group, of_group in shapes.items()
        }
    )


def trained(optimizer, groups, first=0, thawed=0):
    """All parameters after steps with gradients that depend on where they are, and not very small ones.

    The first weight has none before the step `thawed`.
    """
    moved = [parameter for group in groups for parameter in group]
    for step in range(first, STEPS):
        random = torch.Generator().manual_seed(step)
        for parameter in moved:
            noise = torch.randn(parameter.shape, generator=random)
            parameter.grad = (noise + noise.sign()) * 0.1 + 0.05 * parameter.detach()
        if step < thawed:
            groups.weights[0].grad = None
        optimizer.step()
    return [parameter.detach() for parameter in moved]


def theirs(name, groups):
    gains = {"params": groups.gains, "lr": optimizers.GAIN_LEARNING_RATE * RATE}
    if name == "adam":
        return torch.optim.Adam([{"params": groups.weights + groups.rest}, gains], lr=RATE)
    rest = {"params": groups.rest, **AS_ADAM}
    settings = {"weight_decay": 0.0, "max_precondition_dim": 512, "precondition_frequency": EVERY}
    return SOAP([{"params": groups.weights}, gains | AS_ADAM, rest], lr=RATE, **settings)


@pytest.mark.parametrize("name, thawed", [("adam", 0), ("soap", 0), ("soap", 5)])
def test_it_is_theirs(name, thawed):
    one, other = parameters(), parameters()
    found = trained(optimizers.MAKE[name](one, RATE, EVERY), one, thawed=thawed)
    expected = trained(theirs(name, other), other, thawed=thawed)
    for ours, their in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, their, rtol=1e-3, atol=1e-4)
        assert (ours - parameters().weights[0].mean()).abs().max() > 0.1  # it did move


@pytest.mark.parametrize("name", optimizers.MAKE)
def test_its_state_goes_on_bit_by_bit(name):
    whole, pieces = parameters(), parameters()
    expected = trained(optimizers.MAKE[name](whole, RATE, EVERY), whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "STEPS", 10)
        first = optimizers.MAKE[name](pieces, RATE, EVERY)
        trained(first, pieces)
    again = optimizers.MAKE[name](pieces, RATE, EVERY)
    again.load_state_dict(first.state_dict())
    assert all(map(torch.equal, trained(again, pieces, first=10), expected))


def test_tensors_keep_their_places():
    """A graph repeats what it does to addresses."""
    groups = parameters()
    optimizer = optimizers.soap(groups, RATE, EVERY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "STEPS", 2)
        trained(optimizer, groups)

    def places():
        states = [*optimizer.state.values(), dict(enumerate(optimizer.sizes))]
        tensors = [value for state in states for value in state.values()]
        return [each.data_ptr() for value in tensors for each in (value if isinstance(value, list) else [value])]

    before = places()
    trained(optimizer, groups)
    assert places() == before and len(before) > 20
