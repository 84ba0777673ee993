"""NASA: its formula on joint and cross attention, and where it acts."""

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.methods.attention.nasa import SubtractedAttention
from reference import softmax_map
from strong import B, close, made
from test_strong import call_of, text_of


def spec(strength):
    return SubtractedAttention((3,), False, strength)


@pytest.mark.parametrize("kind", ["image-text", "text-image", "cross"])
def test_the_negative_texts_attention_is_taken_out(kind):
    call = call_of(kind)
    live = made(spec(0.0), call)[0]
    out, state = made(spec(0.7), call)
    k, v = (x[:B, :, text_of(call)] for x in (call.k, call.v))
    minus = softmax_map(call.q[B:, :, call.image], k) @ v
    close(out[B:, :, call.image], live[B:, :, call.image] - 0.7 * minus)
    rest = out.clone()
    rest[B:, :, call.image] = live[B:, :, call.image]
    assert torch.equal(rest, live) and bool(state.differed)  # the negative rows, and all text rows


def test_of_two_equal_texts_a_share_is_left():
    """Cross-attention alone: Z- = Z+."""
    call = call_of("cross")
    call.k[B:], call.v[B:] = call.k[:B], call.v[:B]
    live, out = made(spec(0.0), call)[0], made(spec(0.3), call)[0]
    close(out[B:], 0.7 * live[B:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_features_of_16_bits_stay_finite(dtype):
    assert made(spec(1.0), call_of("cross", dtype=dtype))[0].isfinite().all()


def test_a_strength_below_0_is_refused():
    with pytest.raises(BadValue, match="nasa strength must be at least 0"):
        emag.NASA(-0.1)
