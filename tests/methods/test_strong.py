"""NAG, VSF and PLADIS: their laws, the attention of every block against the whole map, and whole runs."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.core import Rows
from emag.errors import BadValue, Unsupported
from emag.maths import attention
from emag.maths.attention import Attention
from emag.maths.entmax import entmax
from emag.methods.attention.nag import NAG, normalized
from emag.methods.attention.pladis import PLADIS, sharpening
from emag.methods.attention.vsf import VSF, negative_share
from emag.methods.common.inside import Keys
from reference import tensors
from strong import BOTH, IMAGE, STREAMS, TEXT, B, D, H, close, live_of, made, nag, pladis, vsf

S = IMAGE + TEXT
ORDERS = {"image-text": (slice(0, IMAGE), slice(IMAGE, S)), "text-image": (slice(TEXT, S), slice(0, TEXT))}
KINDS = (*ORDERS, "cross")
MASKS = ("none", "bool", "additive", "keys", "plain")
ALONE = Rows(slice(0, B), None, B)
kinds, masks = pytest.mark.parametrize("kind", KINDS), pytest.mark.parametrize("mask", MASKS)


def mask_of(kind, columns, queries):
    keep = torch.rand(2 * B, H, queries, columns, generator=torch.Generator().manual_seed(5)) < 0.7
    keep[..., 2], keep[..., -1] = True, True
    additive = tensors(6, 1, 2 * B, H, queries, columns)[0].double()
    return {"none": None, "bool": keep, "additive": additive, "keys": keep[:, :1, :1], "plain": additive[0, 0]}[kind]


def call_of(kind="image-text", mask="none", groups=H, scale=None, dtype=torch.float64):
    """A call of both branches: [negative, positive] rows."""
    queries, columns = (IMAGE, TEXT) if kind == "cross" else (S, S)
    q, = tensors(1, 1, 2 * B, H, queries, D)
    k, v = tensors(2, 2, 2 * B, groups, columns, D)
    image = slice(0, IMAGE) if kind == "cross" else ORDERS[kind][0]
    mask = mask_of(mask, columns, queries)
    mask = mask if mask is None or mask.dtype == torch.bool else mask.to(dtype)
    return Attention((1.5 * q).to(dtype), k.to(dtype), v.to(dtype), image, mask, scale, kind == "cross")


def text_of(call):
    return slice(0, TEXT) if call.cross else next(text for image, text in ORDERS.values() if image == call.image)


def logits_of(call):
    """Logits of the image queries, fp64, masks added."""
    k = call.k.double().repeat_interleave(H // call.k.shape[1], 1)
    logits = call.q.double() @ k.transpose(-1, -2) * (D ** -0.5 if call.scale is None else call.scale)
    if call.mask is not None:
        logits = logits.masked_fill(~call.mask, -torch.inf) if call.mask.dtype == torch.bool else logits + call.mask.double()
    return logits[:, :, call.image]


def values_of(call):
    return call.v.double().repeat_interleave(H // call.v.shape[1], 1)


# what each puts in the place of the image rows of the conditional branch, from whole maps


def nag_by_hand(call, spec):
    text, logits, values = text_of(call), logits_of(call), values_of(call)
    plus = logits[B:].softmax(-1) @ values[B:]
    negative = torch.einsum("bhqd,bhkd->bhqk", call.q[B:, :, call.image], call.k[:B].repeat_interleave(
        H // call.k.shape[1], 1)[:, :, text]) * (D ** -0.5 if call.scale is None else call.scale)
    if call.mask is not None:
        own = replace(call, q=torch.cat([call.q[B:]] * 2), k=torch.cat([call.k[:B]] * 2), v=torch.cat([call.v[:B]] * 2))
        negative = logits_of(own)[:B][..., text]  # the negative rows' own mask
    if call.cross:
        minus = negative.softmax(-1) @ values[:B]
    else:
        both = torch.cat([logits[B:][..., call.image], negative], -1)
        minus = both.softmax(-1) @ torch.cat([values[B:][:, :, call.image], values[:B][:, :, text]], 2)
    return nag_of_features(plus, minus, spec)


def nag_of_features(plus, minus, spec):
    out = plus.clone()
    for b in range(plus.shape[0]):
        for token in range(plus.shape[2]):
            up, down = plus[b, :, token].flatten(), minus[b, :, token].flatten()
            far = up + (spec.scale - 1) * (up - down)
            size = (lambda z: z.abs().sum()) if spec.norm == "l1" else (lambda z: z.square().sum().sqrt())
            ratio = size(far) / size(up)
            far = far * min(ratio, spec.tau) / ratio
            out[b, :, token] = (spec.alpha * far + (1 - spec.alpha) * up).view(H, D)
    return out


def vsf_by_hand(call, spec):
    text, logits, values = text_of(call), logits_of(call), values_of(call)
    own = replace(call, q=torch.cat([call.q[B:]] * 2), k=torch.cat([call.k[:B]] * 2), v=torch.cat([call.v[:B]] * 2))
    both = torch.cat([logits[B:], logits_of(own)[:B][..., text] - spec.offset], -1)
    return both.softmax(-1) @ torch.cat([values[B:], -spec.flip * values[:B][:, :, text]], 2)


def pladis_by_hand(call, spec):
    text, logits = text_of(call), logits_of(call)
    weights = logits.softmax(-1)
    share = weights[..., text].sum(-1, keepdim=True)
    dense, sparse = logits[..., text].softmax(-1), entmax(logits[..., text], spec.alpha)
    weights[..., text] = share * (dense + spec.weight * (sparse - dense))
    return weights @ values_of(call)


BY_HAND = {"nag": (nag(), nag_by_hand), "nag-l2": (nag(norm="l2", tau=1.05), nag_by_hand), "vsf": (vsf(), vsf_by_hand)}
SPECS = {"nag": nag(), "vsf": vsf(), "pladis": pladis()}


@kinds
@masks
@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize(("groups", "scale"), [(H, None), (2, 0.2)])
def test_negative_text_acts_as_written_down(name, kind, mask, groups, scale):
    spec, by_hand = BY_HAND[name]
    call = call_of(kind, mask, groups, scale)
    live, (out, state) = live_of(call)(call.q), made(spec, call)
    close(out[B:, :, call.image], by_hand(call, spec), atol=1e-10, rtol=1e-10)
    assert state.proves and bool(state.differed)
    untouched = out.clone()
    untouched[B:, :, call.image] = live[B:, :, call.image]
    assert torch.equal(untouched, live)  # unconditional rows and text rows, bit for bit


@kinds
@masks
@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_pladis_acts_as_written_down(monkeypatch, kind, mask, rows, alpha):
    monkeypatch.setattr(attention, "CHUNK_BYTES", 4 * 2 * B * H * S * rows)
    call, spec = call_of(kind, mask), pladis(alpha=alpha)
    live, (out, state) = live_of(call)(call.q), made(spec, call)
    close(out[:, :, call.image], pladis_by_hand(call, spec), atol=1e-5, rtol=1e-5)
    assert bool(state.differed)
    untouched = out.clone()
    untouched[:, :, call.image] = live[:, :, call.image]
    assert torch.equal(untouched, live)


# PLADIS


@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_the_text_keeps_its_share_and_may_get_negative_weights(alpha):
    weights = (2 * tensors(8, 1, 3, 40, 12)[0].double()).softmax(-1)[..., 2:9]
    shift = sharpening(weights, alpha)
    close(shift.sum(-1), torch.zeros(3, 40).double(), atol=1e-14, rtol=0)
    share = weights.sum(-1, keepdim=True)
    close(weights + shift, share * entmax(weights.log(), alpha), atol=1e-14, rtol=0)
    assert (weights + 2 * shift < 0).any() and (weights + shift >= -1e-15).all()


def test_a_single_text_token_stays():
    close(sharpening(torch.tensor([[0.3], [1.0], [1e-20]]).double(), 1.5), torch.zeros(3, 1).double(), atol=1e-16, rtol=0)


@pytest.mark.parametrize(("alpha", "gap"), [(2.0, 1.0), (1.5, 2.0)])
def test_a_clear_favourite_takes_all(alpha, gap):
    weights = torch.tensor([gap, 0.0, -0.1]).double().softmax(-1)
    close(weights + sharpening(weights, alpha), torch.tensor([1.0, 0, 0]).double(), atol=1e-14, rtol=0)


def test_text_that_nobody_may_see_is_left_alone():
    keep = torch.ones(S, S, dtype=torch.bool)
    keep[:, IMAGE:] = False
    call = replace(call_of(), mask=keep)
    close(made(pladis(), call)[0], live_of(call)(call.q), atol=1e-12, rtol=0)


def test_both_readings_of_lambda():
    dense, sparse = PLADIS(2.0, layers=(1,)), PLADIS(1.0, origin="sparse", layers=(1,))
    assert dense.perturbation == sparse.perturbation  # sparse + (sparse - dense) = dense + 2 (sparse - dense)
    assert PLADIS(0.0).neutral and PLADIS(-1.0, origin="sparse").neutral
    assert not PLADIS(0.0, origin="sparse").neutral


# NAG


def features():
    plus, minus = (t.double() for t in tensors(4, 2, B, H, IMAGE, D))
    return plus, minus


def size_of(z, norm):
    return torch.linalg.vector_norm(z, {"l1": 1, "l2": 2}[norm], dim=(1, 3))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_laws_of_normalized_attention(norm):
    plus, minus = features()
    assert torch.equal(normalized(plus, minus, nag(norm=norm, scale=1.0)), plus)
    assert torch.equal(normalized(plus, minus, nag(norm=norm, alpha=0.0)), plus)
    assert torch.equal(normalized(plus, plus.clone(), nag(norm=norm)), plus)
    capped = normalized(plus, minus, nag(norm=norm, alpha=1.0, scale=8.0))
    close(size_of(capped, norm), 1.2 * size_of(plus, norm), atol=1e-12, rtol=0)  # the cap binds everywhere at s = 8
    pure = normalized(plus, minus, nag(norm=norm, alpha=1.0, tau=1e6))
    close(pure, plus + 3 * (plus - minus), atol=1e-12, rtol=0)
    for k in (1e-3, 7.0):
        scaled = normalized(k * plus, k * minus, nag(norm=norm))
        close(scaled, k * normalized(plus, minus, nag(norm=norm)), atol=0, rtol=1e-10)


def test_the_two_norms_differ_and_each_token_is_capped_by_itself():
    plus, minus = features()
    one, two = (normalized(plus, minus, nag(norm=norm, alpha=1.0)) for norm in ("l1", "l2"))
    assert not torch.allclose(one, two, atol=1e-3)
    minus[:, :, 1:] = plus[:, :, 1:]
    only = normalized(plus, minus, nag())
    assert torch.equal(only[:, :, 1:], plus[:, :, 1:]) and not torch.allclose(only[:, :, :1], plus[:, :, :1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_features_of_size_zero_stay_finite(dtype):
    plus, minus = (t.to(dtype) for t in features())
    zero = torch.zeros_like(plus)
    assert torch.equal(normalized(zero, minus, nag()), zero.float())  # at most tau times nothing
    assert torch.equal(normalized(zero, zero, nag()), zero.float())
    assert normalized(3e4 * torch.ones_like(plus), -3e4 * torch.ones_like(plus), nag()).isfinite().all()


def test_nag_ends_at_its_noise_level():
    call, spec = call_of(), nag(sigma_end=0.7)
    live = live_of(call)(call.q)
    assert not torch.equal(made(spec, call, index=0)[0], live)
    out, state = made(spec, call, index=1)
    assert torch.equal(out, live) and not state.held and state.differed is None
    assert made(nag(sigma_end=0.5), call, index=1)[1].differed is not None  # the level itself is inside
    with pytest.raises(BadValue, match="leaves no step"):
        spec.check((0.6, 0.3))


# VSF


@kinds
def test_vsf_at_minus_one_is_further_tokens(kind):
    call = call_of(kind, "additive")
    text = text_of(call)
    part, negative = call.rows(slice(B, 2 * B)), call.rows(slice(0, B))
    added = Keys.of(part, slice(0, part.k.shape[2])).beside(Keys.of(negative, text))
    plain = F.scaled_dot_product_attention(part.image_queries(), added.k, added.v, added.mask)
    close(made(vsf(-1.0, 0.0), call)[0][B:, :, call.image], plain, atol=1e-12, rtol=0)


@kinds
def test_vsf_is_affine_in_its_scale_and_nothing_far_down(kind):
    call = call_of(kind, "bool")
    at = [made(vsf(s), call)[0] for s in (0.0, 1.0, 3.0)]
    close(at[2] - at[0], 3 * (at[1] - at[0]), atol=1e-12, rtol=1e-12)
    assert not torch.allclose(at[1], at[0], atol=1e-3)
    assert torch.equal(made(vsf(2.0, 1e4), call)[0], live_of(call)(call.q))


def test_image_rows_do_not_see_the_negative_text_unflipped():
    """Where own values are zero, what they get is all minus the negative values."""
    call = call_of("cross")
    v = call.v.abs()
    v[B:] = 0
    assert (made(vsf(), replace(call, v=v))[0][B:] < 0).all()


def test_the_share_of_the_negative_text():
    call = call_of("text-image", "additive")
    negative = Keys.of(call.rows(slice(0, B)), text_of(call))
    share = negative_share(call.rows(slice(B, 2 * B)), negative, 0.3)
    known = vsf_by_hand(replace(call, v=torch.ones_like(call.v)), vsf(0.0))  # (1 - g) 1 + g 0
    close(1 - share, known[..., :1], atol=1e-12, rtol=0)


def test_padded_negative_tokens_do_not_count():
    call = call_of("cross")
    keep = torch.ones(2 * B, 1, 1, TEXT, dtype=torch.bool)
    keep[:B, ..., 3:] = False
    k = call.k.clone()
    k[:B, :, 3:] = 50.0
    for spec in (nag(), vsf()):
        close(made(spec, replace(call, mask=keep, k=k))[0], made(spec, replace(call, mask=keep))[0], atol=1e-12, rtol=0)


@kinds
def test_a_negative_text_masked_as_a_whole_makes_no_nan(kind):
    call = call_of(kind)
    keep = torch.ones(2 * B, 1, 1, call.k.shape[2], dtype=torch.bool)
    keep[:B, ..., text_of(call)] = False
    part = replace(call, mask=keep).rows(BOTH.cond)
    live = F.scaled_dot_product_attention(part.q, part.k, part.v)
    close(made(vsf(), replace(call, mask=keep))[0][B:], live, atol=1e-12, rtol=0)
    assert made(nag(), replace(call, mask=keep))[0][B:].isfinite().all()


# weak passes


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("mask", ["none", "additive"])
def test_a_weak_pass_is_strengthened_alike(name, mask):
    """Conditional rows alone, once or repeated, with the negative text that the clean pass had."""
    call, spec = call_of("text-image", mask), SPECS[name]
    out, state = made(spec, call)
    part = call.rows(BOTH.cond)
    close(made(spec, part, ALONE, state=state)[0], out[B:], atol=1e-6, rtol=1e-6)
    twice = replace(part, q=torch.cat([part.q] * 2), k=torch.cat([part.k] * 2), v=torch.cat([part.v] * 2),
                    mask=None if part.mask is None else torch.cat([part.mask] * 2))
    again = made(spec, twice, Rows(slice(0, 2 * B), None, 2 * B), state=state)[0]
    close(again, torch.cat([out[B:]] * 2), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["nag", "vsf"])
def test_the_negative_text_is_of_this_step_and_of_the_clean_pass(name):
    spec, call = SPECS[name], call_of()
    out, state = made(spec, call)
    other = replace(call, k=call.k + 1, v=2 * call.v)  # a weak pass of all rows
    made(spec, other, state=state)
    close(made(spec, call.rows(BOTH.cond), ALONE, state=state)[0], out[B:], atol=1e-12, rtol=0)
    state.begin(0)
    with pytest.raises(Unsupported, match="unconditional rows"):
        made(spec, call.rows(BOTH.cond), ALONE, state=state)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_what_it_is(name, dtype):
    call = call_of("cross", "bool", dtype=dtype)
    out = made(SPECS[name], call)[0]
    assert out.dtype == dtype and out.isfinite().all()
    close(out.double(), made(SPECS[name], call_of("cross", "bool"))[0], atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", SPECS)
def test_a_weak_effect_in_the_same_block_is_kept(name):
    call = call_of()
    spec, weaker = SPECS[name], live_of(replace(call, v=call.v + 1))
    state = spec.start((0.9,), STREAMS)
    state.begin(0)
    assert not torch.allclose(state.strengthen(3, call, weaker, BOTH), made(spec, call)[0], atol=1e-2)


@pytest.mark.parametrize("name", SPECS)
def test_attention_without_text_is_refused(name):
    call = replace(call_of(), image=slice(0, S))
    with pytest.raises(Unsupported, match="needs text"):
        made(SPECS[name], call)


@pytest.mark.parametrize("wrong", [
    lambda: NAG(-1.0), lambda: NAG(float("nan")), lambda: NAG(tau=0.9), lambda: NAG(tau=float("inf")),
    lambda: NAG(alpha=1.1), lambda: NAG(sigma_end=-0.1), lambda: NAG(norm="l3"), lambda: NAG(eps=0.0), lambda: NAG(layers=3),
    lambda: NAG(layers=()), lambda: NAG(emag.MAMBOG(2.0)),
    lambda: VSF(float("inf")), lambda: VSF(1.0, float("nan")), lambda: VSF(layers="1"),
    lambda: PLADIS(float("nan")), lambda: PLADIS(alpha=1.2), lambda: PLADIS(origin="port"), lambda: PLADIS(layers=(1.5,))])
def test_bad_values_are_refused(wrong):
    with pytest.raises(BadValue):
        wrong()
