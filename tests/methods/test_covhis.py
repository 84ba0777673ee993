"""CovHiS: closed forms, and the space it takes out."""

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.errors import BadValue
from emag.methods.combining.covhis import _within
from reference import at_step, tensors

close = torch.testing.assert_close


def made(rule, cond, uncond, state, index=0):
    x = torch.zeros_like(cond)
    return rule.apply(cond, {COND: cond, UNCOND: uncond}, at_step(x=x, index=index), state)


def row(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def test_the_length_is_set_by_gamma():
    """q = |w D| / |c|: from gamma on cut to gamma |c|, below it sqrt(gamma q) |c|."""
    for size, wanted in ((5.0, 0.5), (0.1, (0.5 * 0.2) ** 0.5)):
        cond = row(1, 0)
        found = made(emag.CovHiS(2.0, gamma=0.5), cond, cond - row(0, size), {}) - (cond - row(0, size))
        close(found, row(0, wanted), rtol=1e-6, atol=1e-6)


def test_what_was_pushed_before_is_left_out():
    rule, state = emag.CovHiS(1.0, window=2, rank=1, momentum=0.0, gamma=1e-3), {}
    made(rule, row(3, 0, 0), row(0, 0, 0), state, 0)
    push = made(rule, row(2, 4, 0), row(0, 0, 0), state, 1)
    close(push / push.norm(), row(0, 1, 0))
    # the past is (3, 0), (2, 4): its first direction, by the closed form of a 2 x 2 matrix
    _, _, right = torch.linalg.svd(torch.tensor([[3.0, 0.0], [2.0, 4.0]], dtype=torch.float64))
    left = right[1]
    push = made(rule, row(1, 1, 0), row(0, 0, 0), state, 2)[0, :2, 0, 0]
    close(push / push.norm(), left * torch.sign(left.sum()))


def test_eta_keeps_it_and_momentum_sums_up():
    state = {}
    rule = emag.CovHiS(1.0, momentum=-0.5, eta=1.0, gamma=1e-3)
    made(rule, row(2, 0), row(0, 0), state, 0)
    push = made(rule, row(2, 3), row(0, 0), state, 1)
    close(push / push.norm(), row(1, 3) / 10**0.5)  # (2, 3) - (2, 0) / 2
    again = made(rule, row(2, 3), row(0, 0), state, 1)
    close(again, push)  # the same level twice is remembered once


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_space_is_that_of_the_singular_vectors(rank):
    x, *past = tensors(4, 4, 2, 3, 4, 4)
    x, past = x.double(), [one.double() for one in past]
    for i in range(2):
        rows = torch.stack([one[i].flatten() for one in past])
        right = torch.linalg.svd(rows, full_matrices=False)[2][:rank]
        close(_within(x, past, rank)[i].flatten(), right.T @ (right @ x[i].flatten()))


def test_a_past_of_nothing_takes_out_nothing():
    x = tensors(5, 1, 2, 3, 4, 4)[0].double()
    assert torch.equal(_within(x, [], 1), torch.zeros_like(x))
    assert torch.equal(_within(x, [torch.zeros_like(x)] * 2, 2), torch.zeros_like(x))


@pytest.mark.parametrize("values", [{"rank": 0}, {"rank": 5}, {"momentum": 1.0}, {"eta": 2.0}, {"gamma": 0.0}])
def test_values_are_checked(values):
    with pytest.raises(BadValue, match="covhis needs"):
        emag.CovHiS(3.0, **values)
