"""Training lowers the loss, is a function of (seed, step), continues where it was, and stops with a reason."""

import copy
import dataclasses
import time
from itertools import pairwise
from types import SimpleNamespace

import lightning
import pytest
import torch
from training_parts import ARCHITECTURES, configured, lively, photo_data, photos, student, teacher, trainer_factory

from slimcodec import InvalidInput
from slimcodec.training import optimizers
from slimcodec.training.checkpoints import LAST
from slimcodec.training.distill import Distill, new_student
from slimcodec.training.errors import TrainingInterrupted, TrainingStopped
from slimcodec.training.inheritance import inherited_parts
from slimcodec.training.names import OPTIMIZERS
from slimcodec.training.schedule import Late, Schedule
from slimcodec.training.teach import Teach, accumulate_gradients, fit

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
WEIGHTS = {"output": 0.2, "latent": 0.2, "hyper_latent": 0.2, "decoder": 0.05, "hyper": 0.02}
SAME_WIDTHS = ("h_scale", "h_mean", "stages", "context", "context_kind")
SETTINGS = {"batch": 4, "crop": 64, "learning_rate": 1e-3}


def teaching(seed=0, **changes) -> Teach:
    codec, prior = lively(teacher(), seed)
    return Teach(codec, prior, **(SETTINGS | {"steps": 8, "cache": photos()} | changes))


def distilling(*, inherit=True, **changes) -> Distill:
    torch.manual_seed(0)
    taught = lively(teacher(), 1)
    pupil = new_student(student(), *taught, inherit_encoder=inherit)
    settings = SETTINGS | {"steps": 8, "weights": WEIGHTS, "inherited_encoder": inherit, "cache": photos()} | changes
    return Distill(*pupil, *taught, **settings)


def batch(module, step):
    """The pictures of a step and their qualities."""
    drawn = module.drawn(step)
    return module.pictures(drawn), drawn.quality


def noise(module, step, coded):
    return module.noise(coded, module.seeded(step))


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


# ----------------------------------------------------------------------------------------------------------- the step


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_lowers_the_cost_of_a_repeated_step(optimizer):
    module = teaching(learning_rate=3e-3, optimizer=optimizer).train()
    optimizer = module.configure_optimizers()["optimizer"]
    before = module.coded_at(3).measured.cost.mean().item()
    for _ in range(12):
        optimizer.zero_grad()
        module.loss_at(3)[0].backward()
        optimizer.step()
    assert module.coded_at(3).measured.cost.mean().item() < 0.8 * before


def test_the_batch_is_keyed_by_seed_and_step():
    one, same, other = teaching(), teaching(), teaching(seed=0)
    other.seed = 1
    (x, quality), (x_same, quality_same) = batch(one, 5), batch(same, 5)
    assert torch.equal(x, x_same) and torch.equal(quality, quality_same)
    assert not torch.equal(x, batch(one, 6)[0]) and not torch.equal(x, batch(other, 5)[0])
    coded = one.codec(x, quality)
    noise_r, noise_z = noise(one, 5, coded)
    torch.rand(10)  # the global generator plays no part
    assert all(map(torch.equal, noise(one, 5, coded), noise(same, 5, coded)))
    assert noise_r.shape == coded.residual.shape and noise_z.shape == coded.z.shape
    assert noise_r.abs().max() <= 0.5 and noise_r.std() == pytest.approx(12**-0.5, rel=0.05)
    assert not torch.equal(noise_r, noise(one, 6, coded)[0])
    assert not torch.equal(noise_r, noise(other, 5, coded)[0])


def test_processes_share_the_batch_and_its_noise():
    whole = teaching()
    x, quality = batch(whole, 2)
    coded = whole.codec(x, quality)
    parts = []
    for rank in range(2):
        module = teaching()
        module._trainer = SimpleNamespace(world_size=2, global_rank=rank)
        x_part, quality_part = batch(module, 2)
        part = module.codec(x_part, quality_part)
        parts.append((x_part, quality_part, *noise(module, 2, part)))
    for found, expected in zip(zip(*parts, strict=True), (x, quality, *noise(whole, 2, coded)), strict=True):
        assert torch.equal(torch.cat(found), expected)


def test_soap_renews_its_eigenbases_as_often_as_it_is_told():
    optimizer = teaching(optimizer="soap", basis_every=3).configure_optimizers()["optimizer"]
    weight = optimizer.param_groups[0]["params"][0]
    bases = []
    for step in range(8):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        bases.append(optimizer.state[weight]["Q"][0].clone())
    changed = [not torch.equal(before, after) for before, after in pairwise(bases)]
    assert changed == [False, False, True, False, False, True, False]


def test_an_unknown_optimizer_or_no_basis_is_named():
    assert tuple(optimizers.MAKE) == OPTIMIZERS
    with pytest.raises(InvalidInput, match=r"training\.optimizer=sgd: must be one of adam, soap"):
        teaching(optimizer="sgd")
    with pytest.raises(InvalidInput, match=r"training\.basis_every=0: must be 1 or more"):
        teaching(optimizer="soap", basis_every=0)


def test_each_rung_s_cost_is_balanced_by_its_running_mean():
    module = teaching()
    quality = 256 * torch.tensor([1, 1, 3, 8])
    first = module.balanced(torch.tensor([1.0, 3.0, 10.0, 100.0]), quality)
    assert first.tolist() == pytest.approx([0.5, 1.5, 1, 1])
    assert module.loss_mean.tolist() == pytest.approx([2, 0, 10, 0, 0, 0, 0, 100])
    cost = torch.tensor([5.0, 5.0, 20.0], requires_grad=True)
    second = module.balanced(cost, 256 * torch.tensor([1, 3, 3]))
    # One of rung 1: 0.98·2 + 0.02·5; two of rung 3, of mean 12.5: 0.98·10 + 0.02·12.5; rung 8 unseen.
    assert module.loss_mean.tolist() == pytest.approx([2.06, 0, 10.05, 0, 0, 0, 0, 100])
    assert second.tolist() == pytest.approx([5 / 2.06, 5 / 10.05, 20 / 10.05])
    second.sum().backward()
    assert cost.grad.tolist() == pytest.approx([1 / 2.06, 1 / 10.05, 1 / 10.05])  # the mean is detached


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    module = teaching(steps=300)
    configured_optimizer = module.configure_optimizers()
    optimizer, scheduler = configured_optimizer["optimizer"], configured_optimizer["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(301):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[:6] == pytest.approx([1e-3 * step / 6 for step in range(1, 7)])
    assert rates[6:200] == pytest.approx([1e-3] * 194)
    assert rates[250] == pytest.approx(0.5e-3) and rates[300] == 0 and rates[299] > 0
    assert all(later < earlier for earlier, later in pairwise(rates[200:]))


def test_the_learning_rate_begins_again_and_may_fall_from_the_start():
    steps = 400
    rates = [Schedule(steps, 8, 64, decay_from=0.5, restarts=1).learning_rate_factor(step) for step in range(steps + 1)]
    assert rates[:200] == pytest.approx(rates[200:400])
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1]) and rates[100] == 1 and rates[150] == pytest.approx(0.5)
    assert rates[200] == 0.25 and rates[400] == 0
    falling = [Schedule(steps, 8, 64, decay_from=0).learning_rate_factor(step) for step in range(8, steps)]
    assert falling == pytest.approx([1 - step / steps for step in range(8, steps)])


def test_late_steps_have_crops_of_their_own():
    schedule = Schedule(10, 8, 64, late=Late(share=0.3, batch=2, crop=128))
    assert [schedule.batch_at(step) for step in range(11)] == [8] * 7 + [2] * 4
    assert [schedule.crop_at(step) for step in range(11)] == [64] * 7 + [128] * 4
    module = teaching(steps=10, batch=8, late=Late(share=0.3, batch=2, crop=128))
    assert [batch(module, step)[0].shape for step in (6, 7)] == [(8, 3, 64, 64), (2, 3, 128, 128)]


def test_gradients_for_taylor_are_sums_over_batches_of_the_rate_distortion_cost():
    module = distilling()
    module.codec.g_a.requires_grad_(False)
    accumulate_gradients(module, 2)
    found = [parameter.grad.clone() for parameter in module.codec.parameters()]
    assert all(adapter.grad is None for adapter in module.adapters.parameters())

    again = distilling()
    again.train()
    costs = []
    for step in range(2):
        _, quality, _, measured = again.coded_at(step)
        costs.append(again.balanced(measured.cost, quality).mean())
    expected = torch.autograd.grad(sum(costs), list(again.codec.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


# ------------------------------------------------------------------------------------------------------------- fitting


class Killed(Exception):
    pass


class KillAt(lightning.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise Killed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [teaching, distilling])
def test_a_killed_run_continues_to_the_very_same_weights(tmp_path, make, optimizer):
    """Killed in the second epoch, it goes on from the end of the first: optimizer, schedule, EMA, running means."""
    more = {"optimizer": optimizer} | ({"freeze_share": 0.75} if make is distilling else {})
    whole = make(**more)
    fit(whole, photo_data(4), tmp_path / "whole", trainer_factory())

    with pytest.raises(Killed):
        fit(make(**more), photo_data(4), tmp_path / "killed", trainer_factory(KillAt(6)))
    assert torch.load(tmp_path / "killed" / LAST, weights_only=True)["global_step"] == 4
    resumed = make(**more)
    fit(resumed, photo_data(4), tmp_path / "killed", trainer_factory())
    assert_equal(weights(resumed), weights(whole))


def test_killed_after_its_last_step_it_still_ends_with_the_average(tmp_path):
    whole = teaching(steps=4)
    fit(whole, photo_data(2), tmp_path, trainer_factory())
    resumed = teaching(steps=4)
    fit(resumed, photo_data(2), tmp_path, trainer_factory())
    assert_equal(weights(resumed), weights(whole))


class Recorder(lightning.Callback):
    """The weights after every step, before averaging puts its own in their place."""

    def __init__(self, of):
        self.of, self.seen = of, []

    def on_train_batch_end(self, trainer, module, *_):
        self.seen.append([parameter.detach().clone() for parameter in self.of(module)])


def test_the_result_is_the_exponential_average(tmp_path):
    recorder = Recorder(lambda module: module.codec.g_s.parameters())
    module = teaching(steps=5)
    fit(module, photo_data(5), tmp_path, trainer_factory(recorder))
    average = recorder.seen[0]
    for step, current in enumerate(recorder.seen[1:], start=1):
        decay = (1 + step) / (10 + step)  # still below 0.999
        average = [decay * old + (1 - decay) * new for old, new in zip(average, current, strict=True)]
    for found, expected, last in zip(module.codec.g_s.parameters(), average, recorder.seen[-1], strict=True):
        torch.testing.assert_close(found.detach(), expected)
        assert not torch.equal(found, last)


def test_time_is_up_and_the_same_command_continues(tmp_path):
    for step in (1, 2):
        with pytest.raises(TrainingInterrupted, match=f"stopped at step {step} of 3; the same command continues"):
            fit(teaching(steps=3), photo_data(8), tmp_path / "limited", trainer_factory(), deadline=time.monotonic())
    resumed, whole = teaching(steps=3), teaching(steps=3)
    fit(resumed, photo_data(8), tmp_path / "limited", trainer_factory(), deadline=time.monotonic())
    fit(whole, photo_data(8), tmp_path / "whole", trainer_factory())
    assert_equal(weights(resumed), weights(whole))


class Break(lightning.Callback):
    """Spoils a weight before the third step."""

    def on_train_batch_start(self, trainer, module, *_):
        if trainer.global_step == 2:
            module.codec.g_s.head.conv.weight.data[0, 0] = float("nan")


def test_a_loss_that_is_not_a_number_stops_and_names_the_step(tmp_path):
    with pytest.raises(TrainingStopped, match=r"not finite at step 2 \(rate_distortion nan\)"):
        fit(teaching(steps=4), photo_data(4), tmp_path, trainer_factory(Break()))


def test_a_loaded_codec_trains_in_training_mode(tmp_path, recwarn):
    module = distilling(steps=2)
    module.eval()

    class Modes(lightning.Callback):
        def on_train_batch_start(self, trainer, module, *_):
            assert all(part.training for part in module.modules())
            assert not any(part.training for part in module.teacher.modules())

    fit(module, photo_data(1), tmp_path, trainer_factory(Modes()))
    assert not [warning for warning in recwarn if "eval mode" in str(warning.message)]


# --------------------------------------------------------------------------------------------------- inherited encoder


def encoder(codec):
    return [parameter for part in (codec.g_a, codec.h_a) for parameter in part.parameters() if parameter.ndim > 1]


def test_an_inherited_encoder_is_the_teacher_s_and_frozen_for_a_third(tmp_path):
    recorder = Recorder(lambda module: encoder(module.codec))
    module = distilling(steps=6)
    inherited = [parameter.detach().clone() for parameter in encoder(module.teacher)]
    assert all(map(torch.equal, encoder(module.codec), inherited))
    assert torch.equal(module.codec.log_gain, module.teacher.log_gain)
    decoder = copy.deepcopy(module.codec.g_s.state_dict())
    fit(module, photo_data(3), tmp_path, trainer_factory(recorder))
    for step, seen in enumerate(recorder.seen):
        moved = [not torch.equal(now, then) for now, then in zip(seen, inherited, strict=True)]
        assert not any(moved) if step < 2 else all(moved), step
    assert all(map(torch.equal, encoder(module.teacher), inherited))
    assert not any(torch.equal(decoder[name], tensor) for name, tensor in module.codec.g_s.state_dict().items())


def test_without_inheritance_the_encoder_is_new_and_moves_at_once(tmp_path):
    recorder = Recorder(lambda module: encoder(module.codec))
    module = distilling(inherit=False, steps=1)
    before = [parameter.detach().clone() for parameter in encoder(module.codec)]
    assert not any(map(torch.equal, before, encoder(module.teacher)))
    fit(module, photo_data(1), tmp_path, trainer_factory(recorder))
    assert not any(map(torch.equal, recorder.seen[0], before))


def test_a_student_may_leave_out_the_encoder():
    assert "g_a" not in configured("student/tiny")
    assert student().g_a == teacher().g_a and student().latent_channels == ARCHITECTURES["teacher"].latent_channels


def test_the_entropy_model_is_inherited_where_its_widths_are_the_teachers():
    taught = lively(teacher())
    same = dataclasses.replace(student(), **{name: getattr(teacher(), name) for name in SAME_WIDTHS})
    other = dataclasses.replace(same, h_scale=(12, 8, 16))
    for architecture, inherited in ((same, True), (other, False)):
        codec, _ = new_student(architecture, *taught, inherit_encoder=True)
        assert ("h_mean" in inherited_parts(architecture, teacher(), inherit_encoder=True)) is inherited
        assert torch.equal(codec.h_mean[0].weight, taught[0].h_mean[0].weight) is inherited
        assert torch.equal(codec.context[0][0].weight, taught[0].context[0][0].weight) is inherited
    assert inherited_parts(same, teacher(), inherit_encoder=False) == ()
