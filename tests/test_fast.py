"""A whole step at once is the step that Lightning takes in parts, whatever is drawn, learned and frozen in it."""

import pytest
import torch
from test_teach import distilling, teaching, weights
from training_parts import photo_data, trainer_factory

from slimcodec.training import fast
from slimcodec.training.names import OPTIMIZERS
from slimcodec.training.photos import embedded
from slimcodec.training.pyramid import PhotoPyramid
from slimcodec.training.schedule import Late
from slimcodec.training.teach import fit

STEPS = 10


@pytest.fixture(scope="module")
def pyramid():
    return PhotoPyramid(embedded("train"), saturated=0.25)


def trained(module, directory, **more):
    """The figures of every step, and the weights in the end."""
    seen = []
    log = module.log_dict
    module.log_dict = lambda figures, **named: (seen.append(dict(figures)), log(figures, **named))
    fit(module, photo_data(STEPS), directory, trainer_factory(**more))
    return [figures for figures in seen if "train/bpp" in figures], weights(module)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [teaching, distilling])
def test_ten_steps_are_those_of_the_step_in_parts(tmp_path, pyramid, make, optimizer):
    """Of them the first three of each kind are eager, and the rest go through the function that a GPU records."""
    late = Late(share=0.4, batch=2, crop=128)
    settings = {"steps": STEPS, "optimizer": optimizer, "basis_every": 4, "cache": pyramid, "late": late}
    if make is distilling:
        settings["freeze_share"] = 0.5
    parts, whole = make(**settings), make(**settings, whole_step=True)
    expected, expected_weights = trained(parts, tmp_path / "parts")
    found, found_weights = trained(whole, tmp_path / "whole")
    assert len(expected) == len(found) == STEPS
    for one, other in zip(expected, found, strict=True):
        assert other.keys() - one.keys() == {fast.GRADIENT_NORM}
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-7)
    assert found_weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        torch.testing.assert_close(found_weights[name], value, rtol=1e-4, atol=1e-6)
