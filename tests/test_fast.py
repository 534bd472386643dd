"""A whole step at once is the step that Lightning takes in parts, whatever is drawn, learned and frozen in it."""

import contextlib

import pytest
import torch
from test_teach import Break, KillAt, Killed, assert_equal, distilling, teaching, weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_parts import photo_data, trainer_factory

from slimcodec.codec.quantise import Quantiser
from slimcodec.training import fast
from slimcodec.training.checkpoints import LAST
from slimcodec.training.errors import TrainingStopped
from slimcodec.training.names import OPTIMIZERS
from slimcodec.training.photos import embedded
from slimcodec.training.pyramid import PhotoPyramid
from slimcodec.training.schedule import Late
from slimcodec.training.teach import Teach, fit, load_trained

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


def test_in_mixed_precision_too(tmp_path, pyramid):
    settings = {"steps": 6, "optimizer": "soap", "basis_every": 2, "cache": pyramid}
    parts, whole = distilling(**settings), distilling(**settings, whole_step=True)
    expected, expected_weights = trained(parts, tmp_path / "parts", precision="bf16-mixed")
    found, found_weights = trained(whole, tmp_path / "whole", precision="bf16-mixed")
    for one, other in zip(expected, found, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5)
    for name, value in expected_weights.items():
        torch.testing.assert_close(found_weights[name], value, rtol=1e-2, atol=1e-4)


class Recordable(TorchDispatchMode):
    """Notes operations that a CUDA graph cannot hold: ones that read or write the CPU, or whose shapes depend on data.

    The step runs on the meta device, which stands for the GPU. A list as an index comes by as `lift_fresh`.
    """

    NEVER = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh")

    def __init__(self):
        super().__init__()
        self.operations, self.others = 0, []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        tensors = [leaf for leaf in tree_leaves((arguments, named, result)) if isinstance(leaf, torch.Tensor)]
        self.operations += 1
        if any(tensor.dim() and tensor.device.type != "meta" for tensor in tensors):
            self.others.append(f"{function}: of another device")
        if any(name in str(function) for name in self.NEVER):
            self.others.append(str(function))
        return result


def as_in_files(**settings):
    codec, prior, model = load_trained("slim-2k")
    return Teach(codec, prior, quantiser=Quantiser(model.tables, torch.device("meta")), **settings)


@pytest.mark.parametrize("make", [teaching, distilling, as_in_files])
def test_a_graph_can_hold_all_of_it(monkeypatch, make):
    pyramid = PhotoPyramid(embedded("train"), saturated=0.25)
    settings = {"steps": 8, "batch": 4, "crop": 64, "learning_rate": 1e-3}
    module = make(cache=pyramid, optimizer="soap", **settings).train().to("meta")
    drawn = module.drawn(0)
    pyramid.pixels, pyramid.device = pyramid.pixels.to("meta"), torch.device("meta")
    if make is distilling:
        module.teacher.to("meta")
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["count"] = 5  # the first step is never recorded
    optimizer.prepare()
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know the device
    with Recordable() as seen:
        loss, _ = module.loss_of(drawn, None)
        loss.backward()
        module.clip(1.0)
        optimizer.update()
    assert seen.others == []
    assert seen.operations > 1000 and loss.device.type == "meta"


def test_what_a_graph_cannot_hold_is_seen():
    with Recordable() as seen:
        torch.empty(2, 4, device="meta")[:, [3, 1]]
        torch.empty(3).sum()
    assert seen.others[0] == "aten.lift_fresh.default" and "another device" in seen.others[-1]


def test_a_whole_step_that_is_not_a_number_stops_and_leaves_no_checkpoint(tmp_path):
    with pytest.raises(TrainingStopped, match=r"not finite at step 2 \(rate_distortion nan\)"):
        module = teaching(steps=4, whole_step=True)
        fit(module, photo_data(4), tmp_path, trainer_factory(Break()), checkpoint_minutes=0)
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_killed_it_goes_on_to_the_very_same_weights(tmp_path, optimizer):
    settings = {"optimizer": optimizer, "whole_step": True}
    whole = teaching(**settings)
    fit(whole, photo_data(4), tmp_path / "whole", trainer_factory())
    with pytest.raises(Killed):
        fit(teaching(**settings), photo_data(4), tmp_path / "killed", trainer_factory(KillAt(6)))
    resumed = teaching(**settings)
    fit(resumed, photo_data(4), tmp_path / "killed", trainer_factory())
    assert_equal(weights(resumed), weights(whole))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [teaching, distilling])
def test_ten_steps_of_the_graph_are_those_in_parts(tmp_path, make):
    """In float32. Sums in another order, and rounding of symbols, take a little of the accuracy."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    pyramid = PhotoPyramid(embedded("train"), device="cuda", saturated=0.25)
    settings = {"steps": STEPS, "optimizer": "soap", "basis_every": 4, "cache": pyramid}
    on_gpu = {"accelerator": "gpu"}
    expected, _ = trained(make(**settings), tmp_path / "parts", **on_gpu)
    found, _ = trained(make(**settings, whole_step=True), tmp_path / "whole", **on_gpu)
    for one, other in zip(expected, found, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=2e-2, atol=1e-4)
