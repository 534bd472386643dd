"""Pruning removes exactly the channels it says, the rebuilt codec is the pruned one, and a round meets its budget."""

import copy
import dataclasses

import pytest
import torch
from torch import nn
from training_parts import ARCHITECTURES, QUALITY, lively, photos, pictures

from slimcodec import InvalidInput
from slimcodec.codec import models
from slimcodec.codec.complexity import macs_per_pixel
from slimcodec.training import groups, prune, widths
from slimcodec.training.teach import Teach, accumulate_gradients, load_trained, save_trained

FLOORS = {"latent": 8, "hyper": 4}
ENCODER = ("g_a", "h_a")
CASES = [
    pytest.param(name, scope, id=f"{name}-{scope}")
    for name in ARCHITECTURES
    for scope in ("decoder", "encoder")
    if scope == "decoder" or name == "teacher"  # all have the same encoder
]


@torch.no_grad()
def coded(codec, x):
    return codec.eval()(x, QUALITY)


@torch.no_grad()
def zero(layer, channels):
    """Silence output channels of a layer, which may have a pixel shuffle of its own."""
    conv = getattr(layer, "conv", layer)
    copies = getattr(layer, "ratio", 1) ** 2
    rows = [row * copies + number for row in channels for number in range(copies)]
    weight = conv.weight.transpose(0, 1) if isinstance(conv, nn.ConvTranspose2d) else conv.weight
    weight[rows] = 0
    conv.bias[rows] = 0


def silence(codec, path, channels):
    """Make the channels of a path zero wherever they are produced; found by hand, not through the pruner's groups."""
    part, *place = path.split(".")
    place = [int(number) for number in place]
    architecture = codec.architecture
    if part in ("g_a", "g_s"):
        level = getattr(codec, part).levels[place[0]]
        if len(place) == 1:
            for layer in (level.enter, *(block.project for block in level.blocks)):
                zero(layer, channels)
        else:
            block = level.blocks[place[1]]
            zero(block.expand, channels)
            if hasattr(block, "depthwise"):
                zero(block.depthwise, channels)
    elif part == "h_a":
        zero(codec.h_a[2 * place[0]], channels)
    elif part == "h_scale":
        zero(codec.h_scale.layers[place[0]], channels)
    elif part == "h_mean":
        zero(codec.h_mean[2 * place[0]], channels)
        if place[0] == 2 and architecture.context_kind == "depthwise":
            for c_k in codec.context:
                zero(c_k[0], channels)
    elif part == "context":
        zero(codec.context[place[0]][-3], channels)
    elif part == "hyper":
        zero(codec.h_a[-1], channels)
    elif part == "latent":
        zero(codec.g_a.head, channels)
        for stage, (planes, c_k) in enumerate(zip(architecture.stages, codec.context, strict=True)):
            zero(c_k[-1], [c + architecture.latents * n for c in channels for n in range(len(planes))])
            if architecture.context_kind == "depthwise":
                known = sum(len(planes) for planes in architecture.stages[:stage])
                first = architecture.h_mean[2]
                zero(c_k[0], [first + c + architecture.latents * n for c in channels for n in range(known)])


@torch.no_grad()
def anchored(codec):
    """Channel 0 holds h_scale's largest weights, so that removing others leaves the fixed-point exponents alone."""
    for layer in codec.h_scale.layers:
        layer.weight[0, 0] = layer.weight.abs().max() * 1.01
    return codec


def kept(width, removed):
    return [channel for channel in range(width) if channel not in removed]


def assert_same_outputs(pruned, silenced, latents, hypers):
    torch.testing.assert_close(pruned.x_hat, silenced.x_hat, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pruned.z, silenced.z[:, hypers], rtol=1e-4, atol=1e-4)
    for field in ("y", "mu", "residual"):
        expected = getattr(silenced, field)[:, :, latents]
        torch.testing.assert_close(getattr(pruned, field), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(pruned.index, silenced.index[:, :, latents])


def some_channels(architecture, path):
    """Equally many of each part that a width falls into."""
    width, parts = widths.widths(architecture)[path], widths.equal_parts(architecture, path)
    if parts == 1:
        return sorted({1, width // 2, width - 1})
    return [number * width // parts + (1 + number) % (width // parts) for number in range(parts)]


@pytest.mark.parametrize(("name", "scope"), CASES)
def test_removing_channels_is_silencing_them(name, scope):
    codec, prior = lively(ARCHITECTURES[name])
    anchored(codec)
    x = pictures()
    before = coded(codec, x)
    assert before.residual.round().abs().mean() > 0.3 and before.z.round().abs().mean() > 0.3
    for group in groups.groups(copy.deepcopy(codec), prior, scope):
        removed = some_channels(codec.architecture, group.path)
        silenced, pruned, fewer = copy.deepcopy(codec), copy.deepcopy(codec), copy.deepcopy(prior)
        silence(silenced, group.path, removed)
        prune.remove_channels(pruned, fewer, scope, {group.path: removed})
        expected = coded(silenced, x)
        assert not all(map(torch.equal, expected, before)), f"{group.path} was silent before"
        latents = kept(codec.architecture.latents, removed if group.path == "latent" else [])
        hypers = kept(codec.architecture.hypers, removed if group.path == "hyper" else [])
        try:
            assert_same_outputs(coded(pruned, x), expected, latents, hypers)
        except AssertionError as error:
            raise AssertionError(f"{group.path}: {error}") from error
        whole = widths.widths(codec.architecture)
        assert widths.widths(pruned.architecture) == whole | {group.path: whole[group.path] - len(removed)}


@pytest.mark.parametrize(("name", "scope"), CASES)
def test_all_groups_at_once_and_rebuilt_bit_for_bit(name, scope):
    """Several groups own rows of the same layers; their indices are those before anything was cut."""
    codec, prior = lively(ARCHITECTURES[name])
    anchored(codec)
    x = pictures()
    removed = {path: some_channels(codec.architecture, path) for path in widths.widths(codec.architecture)}
    removed = {path: rows for path, rows in removed.items() if path.split(".")[0] in widths.PARTS[scope]}
    silenced, pruned = copy.deepcopy(codec), copy.deepcopy(codec)
    for path, channels in removed.items():
        silence(silenced, path, channels)
    prune.remove_channels(pruned, prior, scope, removed)
    latents = kept(codec.architecture.latents, removed.get("latent", []))
    hypers = kept(codec.architecture.hypers, removed.get("hyper", []))
    assert_same_outputs(coded(pruned, x), coded(silenced, x), latents, hypers)

    fresh, fresh_prior = prune.rebuilt(pruned, prior)
    assert all(map(torch.equal, coded(fresh, x), coded(pruned, x)))
    assert fresh.architecture == pruned.architecture and fresh_prior.hypers == len(hypers)
    z = coded(fresh, x).z.round()
    assert torch.equal(fresh_prior.bits(z, QUALITY), prior.bits(z, QUALITY))
    assert not {id(p) for p in fresh.parameters()} & {id(p) for p in pruned.parameters()}


def test_gains_prior_sets_and_names_stay_with_their_channels():
    architecture = dataclasses.replace(
        ARCHITECTURES["student"],
        latent_channels=tuple(range(10, 26)),
        hyper_channels=(9, 8, 7, 6, 5, 4, 3, 2),
    )
    codec, prior = lively(architecture)
    z = 3 * torch.randn(2, 8, 2, 2)
    gains, bits = codec.log_gain.detach().clone(), prior.bits(z, QUALITY).detach()
    prune.remove_channels(codec, prior, "decoder", {"latent": [0, 5], "hyper": [1, 7]})
    prune.remove_channels(codec, prior, "decoder", {"latent": [0], "hyper": [0]})
    latents, hypers = [2, 3, 4, *range(6, 16)], [2, 3, 4, 5, 6]
    assert codec.architecture.latent_channels == tuple(10 + channel for channel in latents)
    assert codec.architecture.hyper_channels == tuple(9 - channel for channel in hypers)
    assert torch.equal(codec.log_gain, gains[:, latents])
    torch.testing.assert_close(prior.bits(z[:, hypers], QUALITY).detach(), bits[:, hypers])


# --------------------------------------------------------------------------------------------------------- importance


def test_taylor_is_the_gradient_of_a_gate_on_the_channel():
    codec, prior = lively(ARCHITECTURES["teacher"])
    x = pictures()
    block = codec.g_s.levels[0].blocks[0]
    gate = torch.ones(1, block.expand.out_channels, 1, 1, requires_grad=True)
    block.expand.register_forward_hook(lambda _layer, _inputs, output: output * gate)
    (codec(x, QUALITY).x_hat - x).square().sum().backward()
    scores = {group.path: prune.taylor(group) for group in groups.groups(codec, prior, "decoder")}
    # Both members, `expand` with its bias and the columns of `project`, are the same gate.
    torch.testing.assert_close(scores["g_s.0.0"], 2 * gate.grad.flatten().abs(), rtol=1e-3, atol=1e-4)


def test_magnitude_sees_small_channels_whatever_the_layer():
    for architecture in (ARCHITECTURES["teacher"], ARCHITECTURES["student"]):
        codec, prior = lively(architecture)
        for group in [*groups.groups(codec, prior, "decoder"), *groups.groups(codec, prior, "encoder")]:
            shrunk = copy.deepcopy((codec, prior))
            silence(shrunk[0], group.path, [2])
            scope = "encoder" if group.path[:3] in ENCODER else "decoder"
            scores = {g.path: prune.magnitude(g) for g in groups.groups(*shrunk, scope)}[group.path]
            assert scores[2] < prune.magnitude(group)[2], group.path
            assert scores.mean().item() == pytest.approx(1, rel=1e-4)


# ------------------------------------------------------------------------------------------------------------- budgets


def random_importance(architecture, scope, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        path: torch.rand(width, generator=generator) ** (1 + seed)  # ever more uneven
        for path, width in widths.widths(architecture).items()
        if path.split(".")[0] in widths.PARTS[scope]
    }


@pytest.mark.parametrize("scope", ["decoder", "encoder"])
@pytest.mark.parametrize("name", ["teacher", "student"])
def test_widths_meet_the_budget_and_are_multiples(name, scope):
    architecture = ARCHITECTURES[name]
    start = widths.COUNTS[scope](architecture)
    for seed, share in enumerate((0.95, 0.9, 0.8, 0.7, 0.6)):
        importance = random_importance(architecture, scope, seed)
        budget = share * start
        chosen = prune.choose_widths(architecture, importance, scope=scope, budget=budget, floors=FLOORS)
        macs = widths.COUNTS[scope](widths.resized(architecture, chosen))
        assert 0.93 * budget <= macs <= budget
        before = widths.widths(architecture)
        for path, width in chosen.items():
            assert width % widths.multiple(architecture, path) == 0
            assert before[path] / 2 <= width <= before[path]
            assert width >= FLOORS.get(path, 8) or width == before[path]
            one_more = min(before[path], width + widths.multiple(architecture, path))
            if one_more > width:
                assert widths.COUNTS[scope](widths.resized(architecture, chosen | {path: one_more})) > budget


def test_multiples_are_of_eight_where_channels_are_wide():
    architecture = ARCHITECTURES["teacher"]
    multiples = {path: widths.multiple(architecture, path) for path in widths.widths(architecture)}
    assert {path for path, multiple in multiples.items() if multiple == 8} == {
        *("latent", "g_a.1", "g_a.1.0"),  # 1/16
        *("g_s.0", "g_s.0.0", "g_s.1", "g_s.1.0"),  # 1/16 and 1/8
    }
    assert set(multiples.values()) == {4, 8}


def test_cheap_loss_for_many_macs_goes_first():
    """Of two equally unimportant widths, the one whose channels cost more MAC/pixel is cut."""
    architecture = ARCHITECTURES["teacher"]
    importance = {path: torch.ones(width) for path, width in widths.widths(architecture).items() if path[:3] == "g_s"}
    budget = 0.7 * widths.COUNTS["decoder"](architecture)
    chosen = prune.choose_widths(architecture, importance, scope="decoder", budget=budget, floors={})
    assert chosen["g_s.2"] < 24 and chosen["g_s.0.0"] == 32


def test_an_impossible_budget_is_an_error():
    codec, prior = lively(ARCHITECTURES["student"])
    with pytest.raises(InvalidInput, match=r"decoder cannot go from .* to 20 MAC/pixel"):
        prune.prune(codec, prior, scope="decoder", budget=20, importance="magnitude", floors=FLOORS)
    with pytest.raises(InvalidInput, match="importance is one of"):
        prune.prune(codec, prior, scope="decoder", budget=200, importance="random", floors=FLOORS)
    codec, prior = lively(dataclasses.replace(ARCHITECTURES["student"], upsampling="modulated"))
    with pytest.raises(InvalidInput, match="what is modulated cannot be pruned"):
        prune.prune(codec, prior, scope="decoder", budget=200, importance="magnitude", floors=FLOORS)


# ---------------------------------------------------------------------------------------------------------- whole step


def snapshot(codec, prior):
    """Copies of every tensor and gradient."""
    tensors = [*codec.state_dict().values(), *prior.state_dict().values()]
    gradients = [parameter.grad for parameter in codec.parameters()]
    return [tensor.clone() for tensor in tensors + [gradient for gradient in gradients if gradient is not None]]


@pytest.mark.parametrize("scope", ["decoder", "encoder"])
def test_a_step_prunes_a_copy_and_touches_one_side_only(scope):
    codec, prior = lively(ARCHITECTURES["student"])
    module = Teach(codec, prior, cache=photos(), steps=1, batch=4, crop=64, learning_rate=1e-3)
    accumulate_gradients(module, 2)
    before, architecture = snapshot(codec, prior), codec.architecture
    budget = 0.8 * widths.COUNTS[scope](architecture)
    smaller, smaller_prior = prune.prune(codec, prior, scope=scope, budget=budget, importance="taylor", floors=FLOORS)

    assert len(before) > len([*codec.state_dict(), *prior.state_dict()])  # with gradients
    assert all(map(torch.equal, snapshot(codec, prior), before)) and codec.architecture is architecture
    assert 0.93 * budget <= widths.COUNTS[scope](smaller.architecture) <= budget
    old, new = widths.widths(architecture), widths.widths(smaller.architecture)
    changed = {path.split(".")[0] for path in old if new[path] != old[path]}
    assert changed and changed <= set(widths.PARTS[scope])
    if scope == "encoder":
        assert macs_per_pixel(smaller.architecture)["g_s"] == macs_per_pixel(architecture)["g_s"]
        assert all(torch.equal(smaller.g_s.state_dict()[name], t) for name, t in codec.g_s.state_dict().items())
    assert smaller_prior.hypers == smaller.architecture.hypers
    assert smaller.training == codec.training


def test_frozen_layers_are_pruned_like_others():
    codec, prior = lively(ARCHITECTURES["student"])
    settings = {"scope": "encoder", "importance": "magnitude", "floors": FLOORS}
    budget = 0.8 * widths.COUNTS["encoder"](codec.architecture)
    free, _ = prune.prune(codec, prior, budget=budget, **settings)
    codec.requires_grad_(False)
    frozen, _ = prune.prune(codec, prior, budget=budget, **settings)
    assert frozen.architecture == free.architecture != codec.architecture
    assert all(map(torch.equal, frozen.state_dict().values(), free.state_dict().values()))
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    assert all(parameter.requires_grad for parameter in frozen.parameters())


def test_an_optimizer_of_the_rebuilt_codec_moves_it_and_an_old_one_does_not():
    codec, prior = lively(ARCHITECTURES["student"])
    old = torch.optim.Adam(codec.parameters(), lr=0.01)
    budget = 0.8 * widths.COUNTS["decoder"](codec.architecture)
    smaller, _ = prune.prune(codec, prior, scope="decoder", budget=budget, importance="magnitude", floors=FLOORS)
    new = torch.optim.Adam(smaller.parameters(), lr=0.01)
    before = [parameter.detach().clone() for parameter in smaller.g_s.parameters()]
    x = pictures()
    (smaller(x, QUALITY).x_hat - x).square().mean().backward()
    old.step()
    assert all(map(torch.equal, before, smaller.g_s.parameters()))
    new.step()
    assert not any(map(torch.equal, before, smaller.g_s.parameters()))


def test_a_pruned_codec_is_a_model_directory_like_any_other(tmp_path):
    codec, prior = lively(ARCHITECTURES["student"])
    budget = 0.7 * widths.COUNTS["decoder"](codec.architecture)
    codec, prior = prune.prune(codec, prior, scope="decoder", budget=budget, importance="magnitude", floors=FLOORS)
    x = pictures()
    save_trained(tmp_path / "pruned", codec, prior, role="student")
    model = models.load(tmp_path / "pruned")
    again, again_prior, _ = load_trained(tmp_path / "pruned")
    assert model.codec.architecture == codec.architecture
    assert model.info["decoder_macs_per_pixel"] == widths.COUNTS["decoder"](codec.architecture) <= budget
    expected = coded(codec, x)
    for loaded in (model.codec, again):
        assert all(map(torch.equal, coded(loaded, x), expected))
    assert torch.equal(again_prior.pmf(), prior.pmf())
    assert model.tables["z_frequencies"].shape == (8, codec.architecture.hypers, 256)


@pytest.mark.parametrize("scope", ["decoder", "encoder"])
def test_the_lowest_cost_above_the_floors_is_what_pruning_comes_to(scope):
    architecture, floors = ARCHITECTURES["student"], {"latent": 8, "hyper": 6, "g_s.0": 24, "h_mean": 9}
    lowest = widths.lowest_macs_per_pixel(architecture, scope=scope, floors=floors)
    while widths.COUNTS[scope](architecture) > lowest:  # round by round, each as far as one can go
        budget = widths.lowest_macs_per_pixel(architecture, scope=scope, floors=floors, lowest_share=0.5)
        scores = _even_scores(architecture, scope)
        with pytest.raises(InvalidInput, match="above the floors"):
            prune.choose_widths(architecture, scores, scope=scope, budget=0.999 * budget, floors=floors)
        chosen = prune.choose_widths(architecture, scores, scope=scope, budget=budget, floors=floors)
        architecture = widths.resized(architecture, chosen)
        assert widths.COUNTS[scope](architecture) == budget >= lowest
    assert architecture.hypers == (8 if scope == "decoder" else ARCHITECTURES["student"].hypers)


def _even_scores(architecture, scope):
    found = widths.widths(architecture).items()
    return {path: torch.ones(width) for path, width in found if path.split(".")[0] in widths.PARTS[scope]}
