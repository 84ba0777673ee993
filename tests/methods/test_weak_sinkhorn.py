"""The transport plan of ASAG: its marginals, invariances and limits, in chunks."""

import pytest
import torch

from emag.errors import BadValue, Unsupported
from emag.maths import attention
from emag.maths.attention import Attention
from emag.methods import METHODS as C
from emag.methods.weak.asag import SinkhornAttention, logits, potentials, transported
from reference import softmax_map
from weak import IMAGE, ORDERS, B, H, call_of, near, perturbed, sinkhorn

close = torch.testing.assert_close
MANY = 300


def plan(call, iterations):
    """P as a whole, [B, H, n, n], fp32."""
    f, g = potentials(call, iterations)
    return torch.exp(f[..., :, None] + g[..., None, :] - logits(call, slice(None)))


def chunked(monkeypatch, call, rows):
    monkeypatch.setattr(attention, "CHUNK_BYTES", 4 * B * H * call.k.shape[2] * rows)


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("order", ORDERS)
def test_columns_are_exact_and_rows_in_the_limit(order, iterations):
    call = call_of(order)
    even = torch.full((B, H, IMAGE), 1 / IMAGE)
    close(plan(call, iterations).sum(-2), even)
    assert not near(plan(call, iterations).sum(-1), even, 1e-6)
    close(plan(call, MANY).sum(-1), even)
    close(plan(call, MANY).sum(-2), even)


def test_rows_come_nearer_with_each_iteration():
    call = call_of("image")
    off = [float((plan(call, count).sum(-1) * IMAGE - 1).abs().max()) for count in (1, 2, 4, 8, 16)]
    assert off == sorted(off, reverse=True) and off[-1] < 1e-2 < off[0]


@pytest.mark.parametrize("rows", [1, 5, 12])
@pytest.mark.parametrize("order", ORDERS)
def test_chunks_change_nothing(monkeypatch, order, rows):
    call = call_of(order)
    whole = transported(call, 3)
    chunked(monkeypatch, call, rows)
    assert len(list(call.chunks())) == -(-IMAGE // rows)
    close(transported(call, 3), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("iterations", [1, 2, 50])
@pytest.mark.parametrize("order", ORDERS)
def test_against_scaling_vectors_in_fp64(order, iterations):
    call = call_of(order)
    expected = sinkhorn(iterations)(call.q, call.k, call.v, call.image)
    assert near(perturbed(SinkhornAttention((0,), iterations), call)[0], expected, 1e-6)


def test_no_similarity_is_a_uniform_plan():
    call = call_of("image", sharp=0.0)
    close(plan(call, 1), torch.full((B, H, IMAGE, IMAGE), IMAGE**-2.0))
    close(transported(call, 2), call.v.float().mean(2, keepdim=True).expand(-1, -1, IMAGE, -1))


@pytest.mark.parametrize("order", ORDERS)
def test_rows_of_n_p_weigh_as_much_as_attention(order):
    """A port forgets the factor n: where all values are one, so is the output; without the factor it is n times less."""
    call = call_of(order)
    even = Attention(call.q, call.k, torch.ones_like(call.v), call.image)
    close(transported(even, MANY), torch.ones(B, H, IMAGE, call.v.shape[-1]))
    assert (transported(even, 2) - 1).abs().max() < 0.5


def shifted(call, rows=0.0, columns=0.0):
    """The call with constants added to the logits of each row and of each column."""
    size = *call.q.shape[:-1], 1
    scale = call.q.shape[-1] ** -0.5
    shift = torch.arange(size[2], dtype=call.q.dtype).view(-1, 1).expand(size) / size[2]
    q = torch.cat([call.q * scale, rows * shift, torch.ones(size)], -1)
    k = torch.cat([call.k, torch.ones(size), columns * shift.flip(2)], -1)
    return Attention(q, k.to(q), call.v, call.image, None, 1.0)


@pytest.mark.parametrize("change", [{"rows": 3.0}, {"columns": 3.0}, {"rows": -2.0, "columns": 2.0}])
def test_constants_per_row_and_column_leave_the_plan(change):
    call = call_of("image")
    close(plan(shifted(call, **change), MANY), plan(call, MANY), atol=1e-6, rtol=1e-4)
    maps = [softmax_map(c.q, c.k, scale=c.scale) for c in (shifted(call, **change), shifted(call))]
    assert near(*maps) == ("columns" not in change)  # softmax is blind to those of rows only


def test_it_prefers_what_is_least_alike():
    call = call_of("image", sharp=2.0)
    similarity = logits(call, slice(None)).double()
    attended = (softmax_map(call.q, call.k) * similarity).sum((-2, -1)) / IMAGE
    transport = (plan(call, 2) * similarity).sum((-2, -1))
    assert (transport < similarity.mean((-2, -1))).all() and (similarity.mean((-2, -1)) < attended).all()


def test_sharp_logits_stay_finite():
    """exp of the bare logits would overflow at 89."""
    call = call_of(sharp=1e3)
    made, differed = perturbed(SinkhornAttention((0,), 2), call)
    assert logits(call, slice(None)).abs().max() > 1000
    assert differed and made.isfinite().all()
    close(plan(call, 2).sum(-2), torch.full((B, H, IMAGE), 1 / IMAGE), atol=1e-4, rtol=1e-3)


def test_a_mask_is_refused():
    call = call_of()
    with pytest.raises(Unsupported, match="mask"):
        transported(Attention(call.q, call.k, call.v, call.image, torch.ones(17, 17, dtype=torch.bool)), 2)


@pytest.mark.parametrize("change", [{"iterations": 0}, {"iterations": 2.0}, {"scale": float("inf")}, {"layers": ()}])
def test_values_that_make_no_sense_are_refused(change):
    with pytest.raises(BadValue):
        C["asag"](**change)
