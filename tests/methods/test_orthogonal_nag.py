"""Orthogonal NAG: its laws, and where it acts."""

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.methods.attention.onag import OrthogonalAttention, without
from reference import tensors
from strong import B, close, made
from test_strong import call_of


def features():
    return [t.double() for t in tensors(3, 2, 2, 3, 5, 4)]


def along(a, b):
    """<a, b> of each token over all heads."""
    return (a * b).sum((1, 3))


def test_what_both_say_alike_stays():
    plus, minus = features()
    sizes = torch.tensor([-2.0, 0.5, 0.0, 1.0, 7.0], dtype=torch.float64).view(1, 1, 5, 1)
    close(without(plus, sizes * plus, 4.0), plus)  # a token over all heads is one vector
    assert torch.equal(without(plus, minus, 0.0), plus)


def test_only_the_orthogonal_part_is_taken_out():
    plus, minus = features()
    new = without(plus, minus, 1.5)
    close(along(new, plus), along(plus, plus))  # nothing along Z+ changes
    taken = (plus - new) / 1.5
    close(along(taken, plus), torch.zeros(2, 5, dtype=torch.float64), atol=1e-12, rtol=0)
    close(minus - taken, (along(minus, plus) / along(plus, plus)).view(2, 1, 5, 1) * plus)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_features_of_size_zero_stay_finite(dtype):
    plus, minus = (t.to(dtype) for t in features())
    close(without(torch.zeros_like(plus), minus, 2.0), -2 * minus.float())
    assert without(3e4 * torch.ones_like(plus), -3e4 * torch.ones_like(plus), 4.0).isfinite().all()


@pytest.mark.parametrize("kind", ["image-text", "text-image", "cross"])
def test_it_acts_on_conditional_image_rows_while_the_noise_lasts(kind):
    call = call_of(kind)
    live = made(OrthogonalAttention((3,), False, 0.0, 0.0), call)[0]
    out, state = made(OrthogonalAttention((3,), False, 3.0, 0.7), call)
    moved = (out - live).abs().amax((1, 3)) > 1e-6
    assert not moved[:B].any() and moved[B:, call.image].all() and moved.sum() == moved[B:, call.image].sum()
    assert bool(state.differed)
    close(made(OrthogonalAttention((3,), False, 3.0, 0.7), call, index=1)[0], live)  # sigma 0.5


def test_a_window_without_steps_is_refused():
    with pytest.raises(BadValue, match=r"o-nag sigma_end=0\.95 leaves no step"):
        OrthogonalAttention((3,), False, 3.0, 0.95).check((0.9, 0.5))
    for wrong in ({"strength": -1.0}, {"sigma_end": 2.0}):
        with pytest.raises(BadValue, match="o-nag strength is at least 0"):
            emag.ONAG(**wrong)
