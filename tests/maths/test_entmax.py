"""Entmax against its definition, solved by bisection, and where it has a closed form."""

import pytest
import torch

from emag.errors import BadValue
from emag.maths.entmax import ALPHAS, entmax
from reference import tensors

close = torch.testing.assert_close
alphas = pytest.mark.parametrize("alpha", ALPHAS)


def bisected(z, alpha):
    """[(alpha - 1) z - tau]_+^(1 / (alpha - 1)), the tau for which it sums to 1 found by halving an interval."""
    z = (alpha - 1) * z
    low, high = z.amax(-1, keepdim=True) - 1, z.amax(-1, keepdim=True)
    for _ in range(200):
        middle = (low + high) / 2
        over = (z - middle).clamp(min=0).pow(1 / (alpha - 1)).sum(-1, keepdim=True) > 1
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return (z - low).clamp(min=0).pow(1 / (alpha - 1))


@alphas
@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0, 50.0])
@pytest.mark.parametrize("n", [1, 2, 5, 77, 512])
def test_it_is_what_its_definition_says(alpha, spread, n):
    z = spread * tensors(n, 1, 4, 3, n)[0].double()
    p = entmax(z, alpha)
    close(p, bisected(z, alpha), atol=1e-11, rtol=0)
    close(p.sum(-1), torch.ones(4, 3).double(), atol=1e-12, rtol=0)
    assert (p >= 0).all()


@alphas
def test_a_constant_changes_nothing_and_the_order_stays(alpha):
    z = tensors(3, 1, 6, 9)[0].double()
    close(entmax(z + 123.0, alpha), entmax(z, alpha), atol=1e-12, rtol=0)
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    close(entmax(z[:, shuffled], alpha), entmax(z, alpha)[:, shuffled], atol=1e-14, rtol=0)
    assert (entmax(z, alpha).gather(-1, z.argsort(-1)).diff(dim=-1) >= 0).all()


@alphas
def test_equal_logits_share_alike(alpha):
    close(entmax(torch.full((7,), 4.0).double(), alpha), torch.full((7,), 1 / 7).double())


def test_two_logits_have_a_closed_form():
    gap = torch.linspace(0, 3, 31).double()
    z = torch.stack([gap, torch.zeros_like(gap)], -1)
    close(entmax(z, 2.0)[:, 0], ((1 + gap) / 2).clamp(max=1), atol=1e-14, rtol=0)
    small = ((2 - gap.clamp(max=2) ** 2 / 4).sqrt() - gap.clamp(max=2) / 2) / 2
    close(entmax(z, 1.5)[:, 1], small**2, atol=1e-14, rtol=0)


@pytest.mark.parametrize(("alpha", "gap"), [(2.0, 1.0), (1.5, 2.0)])
def test_a_wide_gap_leaves_one_and_a_narrower_one_does_not(alpha, gap):
    z = torch.tensor([gap, 0.0, -0.3, 0.0]).double()
    close(entmax(z, alpha), torch.tensor([1.0, 0, 0, 0]).double(), atol=1e-15, rtol=0)
    z[0] = 0.98 * gap
    assert (entmax(z, alpha) > 0).sum() > 1


@alphas
def test_masked_logits_are_as_good_as_absent(alpha):
    z = tensors(5, 1, 4, 6)[0].double()
    masked = torch.cat([z, torch.full((4, 3), -torch.inf)], -1)
    close(entmax(masked, alpha)[:, :6], entmax(z, alpha), atol=1e-14, rtol=0)
    assert (entmax(masked, alpha)[:, 6:] == 0).all()
    only = torch.tensor([-torch.inf, 2.0, -torch.inf])
    assert torch.equal(entmax(only, alpha), torch.tensor([0.0, 1.0, 0.0]))


@alphas
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_full(alpha, dtype):
    z = (0.7 * tensors(7, 1, 8, 300)[0]).to(dtype)
    p = entmax(z, alpha)
    assert p.dtype == dtype and torch.equal(p, entmax(z.float(), alpha).to(dtype))
    close(p.float().sum(-1), torch.ones(8), atol=2e-2, rtol=0)
    largest = torch.tensor([65504.0, -65504.0, 65440.0]).to(dtype)
    assert torch.equal(entmax(largest, alpha).isfinite(), torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize("alpha", [1.0, 1.7, 3, float("nan")])
def test_another_alpha_is_refused(alpha):
    with pytest.raises(BadValue, match=r"1\.5 or 2"):
        entmax(torch.zeros(3), alpha)
