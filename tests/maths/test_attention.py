"""Attention in chunks against the whole map, and what the seam hands over."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from emag.engine.seam import Seam
from emag.maths import attention
from emag.maths.attention import Attention
from emag.maths.streams import Streams
from emag.methods.emag.map_average import MapAverage
from emag.methods.emag.query_average import QueryAverage
from reference import VARIANTS, live_of, replaced, softmax_map, statistic_of, tensors

B, H, IMAGE, TEXT, D = 3, 4, 6, 5, 8
S = IMAGE + TEXT
close = torch.testing.assert_close
ORDERS = {"image-text": slice(0, IMAGE), "text-image": slice(TEXT, S), "image": slice(0, S)}


def mask_of(kind):
    keep = torch.rand(B, H, S, S, generator=torch.Generator().manual_seed(5)) < 0.7
    keep[..., 2] = True
    additive = tensors(6, 1, B, H, S, S)[0]
    return {"none": None, "bool": keep, "additive": additive, "keys": keep[:, :1, :1], "heads": additive[:, :1],
            "rows": keep[:1, :1], "plain": additive[0, 0], "headed": additive[0], "keys-only": additive[0, 0, :1]}[kind]


MASKS = ("none", "bool", "additive", "keys", "heads", "rows", "plain", "headed", "keys-only")


def call_of(order="image-text", mask="none", groups=H, scale=None):
    (q,), (k, v) = tensors(1, 1, B, H, S, D), tensors(2, 2, B, groups, S, D)
    return Attention(q, k, v, ORDERS[order], mask_of(mask), scale)


def whole(call):
    return softmax_map(call.q, call.k, call.mask, call.scale)[:, :, call.image].float()


def sdpa_of(call):
    return lambda q: F.scaled_dot_product_attention(q, call.k, call.v, call.mask, scale=call.scale,
                                                    enable_gqa=call.k.shape[1] != call.q.shape[1])


def chunked(monkeypatch, rows):
    """At most `rows` query rows at a time."""
    monkeypatch.setattr(attention, "CHUNK_BYTES", 4 * B * H * S * rows)


def stitched(call, queries=None):
    return torch.cat([call.weights(chunk, queries) for chunk in call.chunks()], dim=2)


@pytest.mark.parametrize("rows", [0, 1, 2, 4, 100])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mask", MASKS)
def test_weights_are_the_softmax_rows(monkeypatch, mask, order, rows):
    chunked(monkeypatch, rows)
    call = call_of(order, mask)
    count = call.image.stop - call.image.start
    assert sum(c.stop - c.start for c in call.chunks()) == count
    assert len(list(call.chunks())) == -(-count // min(max(rows, 1), count))
    close(stitched(call), whole(call), atol=1e-6, rtol=1e-5)
    close(stitched(call) @ call.values(), sdpa_of(call)(call.q)[:, :, call.image], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [None, 0.1, 1.0])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads_and_scale(monkeypatch, groups, scale):
    chunked(monkeypatch, 4)
    call = call_of("text-image", "bool", groups, scale)
    close(stitched(call), whole(call), atol=1e-6, rtol=1e-5)
    close(stitched(call) @ call.values(), sdpa_of(call)(call.q)[:, :, call.image], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", MASKS)
def test_rows_of_a_call_are_the_call_of_the_rows(mask):
    call = call_of("image-text", mask)
    for rows in (slice(0, 1), slice(1, 3)):
        close(stitched(call.rows(rows)), whole(call)[rows], atol=1e-6, rtol=1e-5)


def test_other_queries_take_the_place_of_the_image_rows(monkeypatch):
    chunked(monkeypatch, 4)
    call = call_of("text-image", "bool")
    q = call.q.clone()
    q[:, :, call.image] = other = tensors(9, 1, B, H, IMAGE, D)[0]
    close(stitched(call, other), whole(Attention(q, call.k, call.v, call.image, call.mask)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("order", "text"), [("image-text", True), ("text-image", True), ("image", False)])
def test_text_is_known_by_the_keys(order, text):
    assert call_of(order).has_text == text


@pytest.mark.parametrize("give", [
    lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, 0.0, False, scale=0.2),
    lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m, scale=0.2),
    lambda q, k, v, m: F.scaled_dot_product_attention(value=v, key=k, query=q, scale=0.2, attn_mask=m, is_causal=False)])
def test_seam_binds_by_position_and_by_keyword(give):
    call, seen = call_of(mask="keys", scale=0.2), []

    def handle(got, live):
        seen.append(got)
        close(stitched(got) @ got.values(), live(got)[:, :, got.image], atol=1e-5, rtol=1e-5)
        return live(replace(got, q=2 * got.q))

    with Seam(S, call.image, handle) as seam:
        out = give(call.q, call.k, call.v, call.mask)
        shorter = give(call.q[:, :, :3], call.k, call.v, None)
        longer = give(call.q, torch.cat([call.k] * 2, 2), torch.cat([call.v] * 2, 2), None)
    got, = seen
    assert seam.fired == 1 and got.scale == 0.2
    assert got.q is call.q and got.k is call.k and got.v is call.v and got.mask is call.mask
    close(out, give(2 * call.q, call.k, call.v, call.mask), atol=0, rtol=0)
    close(shorter, give(call.q[:, :, :3], call.k, call.v, None), atol=0, rtol=0)
    close(longer, give(call.q, torch.cat([call.k] * 2, 2), torch.cat([call.v] * 2, 2), None), atol=0, rtol=0)


# the running averages of one block, on calls made here


def average_of(variant, **settings):
    values = {"beta": 0.8, "strength": 1.0, "statistic": "mae", "against": "old", "dtype": torch.float32,
              "jitter": 0.0, "name": "emag/1", "streams": Streams.of(tensors(0, 1, B, 4)[0])}
    kind = {"columns": {"map": "all"}.get(variant, variant)} if variant != "query" else {}
    return (QueryAverage if variant == "query" else MapAverage)(**{**values, **settings}, **kind)


def series(count=4, order="text-image"):
    """Calls that drift from one to the next."""
    base = [tensors(1, 3, B, H, S, D)] + [tensors(20 + i, 3, B, H, S, D) for i in range(count - 1)]
    return [Attention(*(base[0][j] + 0.5 * each[j] * (i > 0) for j in range(3)), ORDERS[order])
            for i, each in enumerate(base)]


STATISTICS = [(v, s) for v in VARIANTS for s in ("mae", "kl", "cosine", "entropy", "logits")
              if s != "logits" or v == "query"]


@pytest.mark.parametrize("against", ["old", "updated"])
@pytest.mark.parametrize(("variant", "statistic"), STATISTICS)
def test_statistics_against_whole_maps(monkeypatch, variant, statistic, against):
    chunked(monkeypatch, 4)
    average, expected = average_of(variant, statistic=statistic, against=against), None
    for call in series():
        live = live_of(variant, call.q, call.k, call.image)
        old, expected = expected, live if expected is None else 0.8 * expected + 0.2 * live
        found = average.observe(call)
        close(average.value.double(), expected, atol=1e-5, rtol=1e-5)
        if old is None:
            assert torch.equal(found, torch.zeros(B))
            continue
        held = old if against == "old" else expected
        true = statistic_of(statistic, variant, held, call.q, call.k, call.image)
        close(found.double(), true, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_is_the_blend_of_live_and_average(monkeypatch, variant, order, strength):
    chunked(monkeypatch, 4)
    average, calls = average_of(variant, strength=strength), series(order=order)
    for call in calls[:-1]:
        average.observe(call)
    call, chosen = calls[-1], torch.tensor([True, False, True])
    live = live_of(variant, call.q, call.k, call.image)
    mixed = (1 - strength) * live + strength * average.value.double()
    expected = replaced(variant, call.q, call.k, call.v, call.image, mixed)
    plain = sdpa_of(call)(call.q)
    out, differs = average.output(call, sdpa_of(call), chosen)
    assert differs
    close(out[chosen], expected[chosen], atol=1e-5, rtol=1e-5)
    assert torch.equal(out[1], plain[1])
    text = [i for i in range(S) if not call.image.start <= i < call.image.stop]
    assert torch.equal(out[:, :, text], plain[:, :, text])


@pytest.mark.parametrize("jitter", [0.0, 0.2])
@pytest.mark.parametrize("variant", ["map", "image"])
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_rows_of_the_map_in_use_sum_to_1(variant, strength, jitter):
    average = average_of(variant, strength=strength, jitter=jitter)
    for call in series():
        average.observe(call)
    ones = Attention(call.q, call.k, torch.ones_like(call.v), call.image)
    out, _ = average.output(ones, sdpa_of(ones), torch.ones(B, dtype=torch.bool))
    close(out, torch.ones_like(out), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"beta": 0.0}])
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_strength_or_no_memory_is_the_live_attention(variant, settings):
    average = average_of(variant, **settings)
    for call in series():
        average.observe(call)
    out, _ = average.output(call, sdpa_of(call), torch.ones(B, dtype=torch.bool))
    close(out, sdpa_of(call)(call.q), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("against", ["old", "updated"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_same_call_again_does_not_count_as_a_difference(variant, against):
    average, call = average_of(variant, beta=0.988, against=against), series()[0]
    for _ in range(5):
        assert torch.equal(average.observe(call), torch.zeros(B))
    out, differs = average.output(call, sdpa_of(call), torch.ones(B, dtype=torch.bool))
    assert not differs
    close(out, sdpa_of(call)(call.q), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_difference_in_rows_not_chosen_does_not_count(variant):
    average, (first, second) = average_of(variant), series(2)
    moved = Attention(torch.cat([first.q[:2], second.q[2:]]), first.k, first.v, first.image)
    average.observe(first)
    average.observe(moved)
    for chosen, expected in (([True, True, False], False), ([False, False, True], True)):
        _, differs = average.output(moved, sdpa_of(moved), torch.tensor(chosen))
        assert bool(differs) is expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_storage(variant):
    average, expected = average_of(variant, dtype=torch.float16, beta=0.9), None
    for call in series():
        live = live_of(variant, call.q, call.k, call.image)
        expected = live if expected is None else 0.9 * expected + 0.1 * live
        average.observe(call)
    assert average.value.dtype == torch.float16
    close(average.value.double(), expected, atol=2e-3, rtol=2e-3)
