"""Each term against a reference, zero at equality, and its gradient reaches what it should and nothing else."""

import copy
import dataclasses
import math

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn import functional as F
from training_parts import lively, photos, student, teacher

from slimcodec import InvalidInput
from slimcodec.codec import models, rate
from slimcodec.training import losses
from slimcodec.training.distill import Distill, new_student
from slimcodec.training.teach import save_trained

TERMS = ("output", "latent", "hyper_latent", "decoder", "encoder", "hyper")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------- references


def test_mse_and_rate_distortion():
    x, x_hat = random(3, 3, 8, 8), random(3, 3, 8, 8, seed=1)
    distortion = losses.mse(x_hat, x)
    for picture in range(3):
        assert distortion[picture] == pytest.approx(F.mse_loss(x_hat[picture], x[picture]).item())
    assert losses.mse(x, x).tolist() == [0, 0, 0]
    lmbda, bpp = torch.tensor([0.01, 0.1, 0.2]), torch.tensor([1.0, 2.0, 3.0])
    expected = [0.01 * 65025 * distortion[0] + 1, 0.1 * 65025 * distortion[1] + 2, 0.2 * 65025 * distortion[2] + 3]
    assert losses.rate_distortion(distortion, bpp, lmbda).tolist() == pytest.approx([v.item() for v in expected])


def test_residual_bits_are_a_gaussian_integrated_over_a_unit():
    index = torch.tensor([0.0, 20.0, 40.5, 63.0]).repeat(500, 1)
    noise = torch.rand(500, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    residual = (rate.scale(index) * random(500, 4)).round()
    normal = Normal(torch.zeros(()).double(), rate.scale(index).double())
    value = (residual + noise).double()
    expected = -(normal.cdf(value + 0.5) - normal.cdf(value - 0.5)).clamp_min(2**-16).log2()
    torch.testing.assert_close(losses.residual_bits(residual, index, noise), expected.float(), rtol=1e-3, atol=1e-3)
    assert losses.bits_per_pixel(torch.ones(2, 3, 4, 5), 60).tolist() == [1, 1]


def test_gaussian_kl_is_torch_s_in_bits():
    mu, other = random(50), random(50, seed=1)
    sigma, wide = random(50, seed=2).exp(), random(50, seed=3).exp()
    expected = kl_divergence(Normal(mu, sigma), Normal(other, wide)) / math.log(2)
    torch.testing.assert_close(losses.gaussian_kl_bits(mu, sigma, other, wide), expected)
    assert losses.gaussian_kl_bits(mu, sigma, mu, sigma).abs().max() == 0


def test_table_kl_is_torch_s_in_bits():
    one, other = random(4, 256).softmax(-1), random(4, 256, seed=1).softmax(-1)
    expected = kl_divergence(Categorical(one), Categorical(other)) / math.log(2)
    torch.testing.assert_close(losses.table_kl_bits(one, other), expected, rtol=1e-4, atol=1e-5)
    assert losses.table_kl_bits(one, one).abs().max() == 0
    spike = F.one_hot(torch.tensor([3]), 256).float()  # probabilities of zero are no trouble
    assert losses.table_kl_bits(spike, torch.full((1, 256), 1 / 256)).item() == pytest.approx(8)
    assert losses.table_kl_bits(torch.full((1, 256), 1 / 256), spike).isfinite()


def test_feature_error_is_relative_to_the_teacher():
    student_feature, teacher_feature = random(2, 5, 3, 3), random(2, 5, 3, 3, seed=1)
    found = losses.feature(student_feature, teacher_feature)
    scale = teacher_feature.square().mean()
    assert found[0] == pytest.approx((F.mse_loss(student_feature[0], teacher_feature[0]) / scale).item())
    torch.testing.assert_close(losses.feature(10 * student_feature, 10 * teacher_feature), found)
    assert losses.feature(teacher_feature, teacher_feature).tolist() == [0, 0]
    assert losses.feature(teacher_feature, 0 * teacher_feature).isfinite().all()


def test_sigma_of_y_is_the_scale_over_the_gain():
    gain = torch.tensor([0.5, 2.0])
    sigma = losses.latent_sigma(torch.tensor([10.0, 70.0]), gain)
    assert sigma.tolist() == pytest.approx([rate.scale(torch.tensor(10.0)).item() / 0.5, 256 / 2])


# ------------------------------------------------------------------------------------------------- terms of distilling


def distilling(architecture=None, **changes) -> Distill:
    taught = lively(teacher(), 1)
    torch.manual_seed(0)
    pupil = new_student(architecture or student(), *taught, inherit_encoder=True)
    with torch.no_grad():  # as they are inherited, the encoder's and the prior's terms would be at their optimum
        for parameter in [*pupil[0].g_a.parameters(), *pupil[1].bottleneck.biases]:
            parameter.add_(0.1 * torch.randn_like(parameter))
    settings = {"steps": 8, "batch": 4, "crop": 64, "learning_rate": 1e-3, "inherited_encoder": True}
    module = Distill(*pupil, *taught, **(settings | {"weights": dict.fromkeys(TERMS, 1.0)} | changes), cache=photos())
    return module.train()


def terms(module):
    x, quality, coded, measured = module.coded_at(0)
    balanced = module.balanced(measured.cost, quality)
    return {"rate_distortion": balanced} | module.terms(x, quality, coded)


# The parts that a term must move, and those that it must not. Rounding is straight-through, so y_hat = mu + r / gain
# does not depend on mu: what arrives at h_mean and the context by the picture is rounding error, and not named here.
REACHES = {
    "rate_distortion": ({"g_a", "h_a", "h_scale", "h_mean", "context", "g_s", "log_gain", "prior"}, {"adapters"}),
    "output": ({"g_s", "g_a", "log_gain"}, {"h_scale", "prior", "adapters"}),
    "decoder": ({"g_s", "g_a", "adapters.decoder"}, {"g_s.head", "h_scale", "prior", "adapters.hyper"}),
    "encoder": ({"g_a", "adapters.encoder"}, {"g_a.head", "h_a", "h_scale", "h_mean", "context", "g_s", "prior"}),
    "hyper": ({"h_mean", "h_a", "g_a", "adapters.hyper"}, {"h_scale", "context", "g_s", "prior", "adapters.decoder"}),
    "latent": ({"h_scale", "h_mean", "context", "h_a", "g_a"}, {"g_s", "prior", "adapters"}),
    "hyper_latent": ({"prior"}, {"codec", "adapters"}),
}


@pytest.mark.parametrize("term", REACHES)
def test_gradients_reach_what_they_should(term):
    module = distilling()
    terms(module)[term].mean().backward()

    def largest(part):
        prefix = part if part.split(".")[0] in ("codec", "prior", "adapters") else f"codec.{part}"
        prefix = prefix.replace("adapters.decoder", "adapters.decoder_")
        found = [parameter.grad for name, parameter in module.named_parameters() if name.startswith(prefix)]
        assert found, part
        return max((gradient.abs().max().item() for gradient in found if gradient is not None), default=0.0)

    reached, untouched = REACHES[term]
    assert {part for part in reached if largest(part) == 0} == set()
    assert {part for part in untouched if largest(part) > 0} == set()
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert module.prior.bottleneck.quantiles.grad is None


def test_the_teacher_is_no_part_of_the_module():
    module = distilling()
    before = [parameter.clone() for parameter in module.teacher.parameters()]
    optimizer = module.configure_optimizers()["optimizer"]
    module.loss_at(0)[0].backward()
    optimizer.step()
    assert all(map(torch.equal, before, module.teacher.parameters()))
    own = {id(parameter) for parameter in module.parameters()}
    assert not own & {id(parameter) for parameter in module.teacher.parameters()}
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())
    assert not [name for name in module.state_dict() if "teacher" in name]


def test_every_term_is_zero_for_a_student_that_is_the_teacher():
    codec, prior = lively(teacher(), 1)
    settings = {"steps": 8, "batch": 4, "crop": 64, "learning_rate": 1e-3, "inherited_encoder": True}
    weights = dict.fromkeys(TERMS, 1.0)
    module = Distill(
        copy.deepcopy(codec), copy.deepcopy(prior), codec, prior, weights=weights, cache=photos(), **settings
    )
    with torch.no_grad():
        found = terms(module)  # in eval mode, as the teacher is
    assert set(found) == {"rate_distortion", *TERMS}
    for term in TERMS:
        assert found[term].shape == (4,) and found[term].abs().max() == pytest.approx(0, abs=1e-9), term
    assert (found["rate_distortion"] > 0).all()


def test_the_total_is_the_weighted_sum():
    weights = {"output": 0.5, "latent": 0.25, "hyper": 0.125}
    module = distilling(weights=weights)
    loss, figures = module.loss_at(0)
    again = distilling(weights=weights)
    parts = {name: value.mean().item() for name, value in terms(again).items()}
    assert set(parts) == {"rate_distortion", *weights}  # a term without weight is not computed
    assert loss.item() == pytest.approx(sum(parts[name] * ({"rate_distortion": 1} | weights)[name] for name in parts))
    assert figures["train/output"].item() == pytest.approx(0.5 * parts["output"])
    assert not any(value.requires_grad for value in figures.values())
    assert {name.split("_")[0] for name in module.adapters} == {"hyper"}


def test_latents_are_compared_with_the_teacher_s_channel_of_the_same_name():
    """A pruned student's y is compared on the channels it kept."""
    few = dataclasses.replace(student(), latent_channels=(2, 5, 11), hyper_channels=(7, 1))
    taught = lively(teacher(), 1)
    torch.manual_seed(0)
    pupil = new_student(few, *taught, inherit_encoder=False)
    settings = {"steps": 8, "batch": 4, "crop": 64, "learning_rate": 1e-3, "inherited_encoder": True}
    module = Distill(*pupil, *taught, weights={"latent": 1.0, "hyper_latent": 1.0}, cache=photos(), **settings)
    assert module.latent_positions.tolist() == [2, 5, 11]
    assert torch.equal(module.teacher_pmf, taught[1].pmf().detach()[:, [7, 1]])
    x, quality, coded, _ = module.coded_at(0)
    same = taught[0](x, quality)
    chosen = coded._replace(**{field: getattr(same, field)[:, :, [2, 5, 11]] for field in ("mu", "index", "gain")})
    assert module.latent_waste(chosen, same, x).abs().max() == pytest.approx(0, abs=1e-6)
    shifted = chosen._replace(mu=chosen.mu.roll(1, dims=2))
    assert module.latent_waste(shifted, same, x).min() > 1e-3

    with pytest.raises(InvalidInput, match="latent_channels: channel 99 is not among the teacher's"):
        distilling(dataclasses.replace(student(), latent_channels=(*range(15), 99)))


def test_an_unknown_term_is_an_error():
    with pytest.raises(InvalidInput, match=r"distill\.weights\.colour: there is no such term"):
        distilling(weights={"colour": 1.0})


def test_adapters_start_as_identities_and_are_not_saved(tmp_path):
    module = distilling()
    x = random(1, 16, 4, 4)  # p has 16 channels on both sides
    torch.testing.assert_close(module.adapters["hyper"](x), x)
    assert {name.split("_")[0] for name in module.adapters} == {"encoder", "decoder", "hyper"}
    # g_s of the student has no level at 1/8: only what both have is compared.
    assert {name for name in module.adapters if name.startswith("decoder")} == {"decoder_16", "decoder_4"}
    save_trained(tmp_path / "student", module.codec, module.prior, role="student")
    model = models.load(tmp_path / "student")
    names = set(model.codec.state_dict()) | set(models.load_training_state(model))
    assert names and not [name for name in names if "adapter" in name or "teacher" in name]
