"""Effort above 0: a picture's latents get better for it, and nothing else changes."""

import numpy as np
import pytest
import skimage.data
import torch

import slimcodec
from slimcodec import InvalidInput, load
from slimcodec.codec import costs, refine
from slimcodec.codec.architecture import LADDER
from slimcodec.codec.rounding import REFINED_ERROR_BITS


def cost(encoding, fixed_quality):
    """Bits plus lmbda · 255² · squared error, with refinement's weight: what it lowers."""
    lmbda = costs.ERROR_WEIGHT * costs.lmbda_at(encoding.transforms.architecture.quality_ladder, fixed_quality)
    squared = np.square(encoding.decoded(fixed_quality).astype(float) - encoding.picture.pixels).sum() / 3
    return encoding.bits(fixed_quality) + lmbda * squared


@pytest.fixture(scope="module")
def student():
    return load("slim-2k", backend="torch")


@pytest.fixture
def photo(pictures):
    return np.ascontiguousarray(pictures["astronaut 100x130"])


@pytest.mark.parametrize(("name", "effort"), [("small", 3), ("slim-2k", 10), ("slim-2k-exact", 10)])
def test_effort_lowers_the_cost_of_a_real_student(name, effort):
    """The search of 1,024 states leaves little: 50 steps gain `slim-2k` 0.1 to 0.5 % of such a crop."""
    student, photo, found = load(name), skimage.data.astronaut(), []
    for corner in (0, 100, 256):
        crop = np.ascontiguousarray(photo[corner : corner + 256, corner : corner + 256])
        found.append([cost(student.encoding(crop, effort=each), 1024) for each in (0, effort)])
        assert found[-1][1] < found[-1][0]
    plain, refined = np.sum(found, axis=0)
    assert refined < 0.998 * plain


@pytest.mark.parametrize("quality", [1, 5.3, 8])
def test_a_refined_file_decodes_to_what_the_encoder_foresaw(codec, photo, quality):
    fixed = codec.fixed_quality(quality)
    encoding = codec.encoding(photo, effort=1)
    data = encoding.file(fixed)
    assert np.array_equal(np.asarray(codec.decompress(data)), encoding.decoded(fixed))
    assert codec.compress(photo, quality, effort=1) == data  # the same file every time
    # What a piece gains by its own estimate it gains in the file, within rounding to 8 bits.
    assert cost(encoding, fixed) <= 1.001 * cost(codec.encoding(photo), fixed)


def test_pieces_with_their_surroundings_make_one_picture(student, pictures, monkeypatch):
    photo = np.ascontiguousarray(pictures["1x300"].repeat(130, axis=0))
    monkeypatch.setattr(refine, "TILE", 2)
    monkeypatch.setattr(refine, "MARGIN", 1)
    shares = []
    encoding = student.encoding(photo, effort=1, progress=shares.append)
    assert cost(encoding, 1024) < 1.02 * cost(student.encoding(photo), 1024)
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) >= 6 * costs.STEPS[1]


def test_a_piece_that_does_not_gain_stays_as_it_was(student, photo, monkeypatch):
    monkeypatch.setattr(refine, "LEARNING_RATE", 100.0)
    monkeypatch.setattr(student.quantiser, "error_bits", REFINED_ERROR_BITS)
    assert student.compress(photo, 4, effort=1) == student.compress(photo, 4)


@pytest.mark.parametrize("error_bits", [1, 5])  # the model's own is 10
def test_refined_residuals_are_not_chosen_as_others_are(photo, monkeypatch, error_bits):
    """Where they are not quantised dependently."""
    student = load("small", backend="torch")
    refined, plain = student.compress(photo, 4, effort=1), student.compress(photo, 4)
    monkeypatch.setattr(student.quantiser, "error_bits", error_bits)
    assert student.compress(photo, 4, effort=1) == refined
    assert len(student.compress(photo, 4)) < len(plain)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
def test_it_learns_where_the_caller_does_not(model_directory, codec, photo, mode):
    """Also in the latents of an encoding that was begun outside, and with a codec that was loaded inside."""
    data = codec.compress(photo, 4, effort=1)
    assert data != codec.compress(photo, 4)
    encoding = codec.encoding(photo, effort=1)
    with mode():
        assert codec.compress(photo, 4, effort=1) == data
        assert load(model_directory).compress(photo, 4, effort=1) == data
        assert encoding.file(1024) == data
        inside = codec.encoding(photo, effort=1)
    assert inside.file(1024) == data


def test_what_pytorch_cannot_do_after_a_fork_is_said(codec, photo, monkeypatch):
    """On machines with a GPU, where gradients have threads of their own."""

    def backward(*_):
        raise RuntimeError("Unable to handle autograd's threading in combination with fork-based multiprocessing.")

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with pytest.raises(RuntimeError, match="autograd"):
        codec.compress(photo, effort=1)
    monkeypatch.setattr(slimcodec, "forked", True)
    with pytest.raises(InvalidInput, match=r"effort.*spawn"):
        codec.compress(photo, effort=1)


def test_targets_count_what_effort_saves(student, photo):
    data = student.compress(photo, target_bpp=2, effort=1)
    assert abs(8 * len(data) / (100 * 130) - 2) <= 0.04


def rounded(quantiser, exact, index, decided):
    """Refinement's rounding of residuals, and the gradient that it gives them where none comes back to it."""
    exact = exact.clone().requires_grad_(True)
    index = torch.full(exact.shape, index)
    r = refine._Round.apply(exact, index, torch.full(exact.shape, decided), quantiser)
    r.backward(torch.zeros_like(r))
    return r.detach(), exact.grad


def test_a_decided_residual_is_the_files_and_stays(student):
    exact = torch.linspace(-3, 3, 601)
    index = torch.full(exact.shape, 20)
    r, gradient = rounded(student.quantiser, exact, 20, True)
    assert torch.equal(r, student.quantiser.reconstruct(student.quantiser.choose(exact, index, refined=True), index))
    assert not gradient.any()


def test_a_free_residual_rises_from_integer_to_integer_and_its_gradient_is_that_of_the_bits(student):
    whole, between = torch.arange(-3.0, 4.0), torch.linspace(-2.99, 2.99, 300, dtype=torch.float64)
    index = torch.full(whole.shape, 20)
    r, gradient = rounded(student.quantiser, whole, 20, False)
    assert torch.equal(r, student.quantiser.reconstruct(whole, index)) and not gradient.any()
    r, gradient = rounded(student.quantiser, between, 20, False)
    assert (r[between > 0].diff() >= 0).all()  # around 0 the decoder's offset jumps
    lower, fraction = between.floor(), between - between.floor()
    bits = [student.quantiser.bits(end, torch.full(end.shape, 20)) for end in (lower, lower + 1)]
    assert torch.allclose(gradient, (bits[1] - bits[0]) * 6 * fraction * (1 - fraction), atol=1e-4)


def test_what_is_skipped_is_zero(student):
    exact = torch.linspace(-3, 3, 61)
    for decided in (False, True):
        r, gradient = rounded(student.quantiser, exact, student.quantiser.skip - 1, decided)
        assert not r.any() and not gradient.any()


def test_every_effort_takes_more_steps_than_the_one_before():
    assert list(costs.STEPS) == sorted(set(costs.STEPS)) and costs.STEPS[0] == 0


def test_lmbda_lies_geometrically_between_the_rungs():
    assert costs.lmbda_at(LADDER, 256) == pytest.approx(LADDER[0])
    assert costs.lmbda_at(LADDER, 2048) == pytest.approx(LADDER[7])
    assert costs.lmbda_at(LADDER, 384) == pytest.approx((LADDER[0] * LADDER[1]) ** 0.5)


@pytest.mark.parametrize("effort", [-1, 11, 2.5, "3", None, float("nan")])
def test_an_effort_out_of_range_is_refused(codec, photo, effort):
    with pytest.raises(InvalidInput, match=r"effort .*must be a whole number from 0 to 10"):
        codec.compress(photo, effort=effort)
