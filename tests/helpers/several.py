"""Sums of several conditions, and what their tests share."""

import torch

from emag.core import COND, UNCOND, Conditioned, combine
from emag.maths.masks import evaluate_mask
from reference import at_step, tensors

NAMES = ("a", "b", "c")


def close(a, b, **more):
    torch.testing.assert_close(a, b, **{"atol": 1e-11, "rtol": 1e-11, **more})


def keyed(values):
    """Predictions by name as a rule gets them."""
    return {name if name in (COND, UNCOND) else Conditioned(name): value for name, value in values.items()}


def made(seed=0, *shape):
    """One prediction for each of "cond", "uncond", "a", "b" and "c", in float64."""
    names = (COND, UNCOND, *NAMES)
    return dict(zip(names, (t.double() for t in tensors(seed, len(names), *(shape or (2, 4, 6, 6))))))


def guided(rule, values, step=None, state=None):
    step = step or at_step(x=values[COND])
    return combine((rule,), values[COND], keyed(values), step, [{} if state is None else state])


def cfg(values, scale, weak=UNCOND, strong=COND):
    return values[weak] + scale * (values[strong] - values[weak])


def asked(rule, step=None):
    """Names of the branches a rule asks for at a step, UNCOND among them."""
    step = step or at_step()
    return {branch.name for branch in rule.branches(step)} | ({UNCOND} if rule.reads_null(step) else set())


def plain_sum(rule, values, step):
    """base + sum_j w_j m_j (plus_j - minus_j), written out."""
    total = values[rule.base]
    for term in rule.terms:
        mask = 1 if term.mask is None else evaluate_mask(term.mask, total, step)
        total = total + term.scale * mask * (values[term.plus] - values[term.minus])
    return total


def same(a, b):
    """Equal within 1e-4 of the size of the latents."""
    torch.testing.assert_close(a, b, atol=1e-4 * max(1.0, float(b.abs().max())), rtol=1e-4)
