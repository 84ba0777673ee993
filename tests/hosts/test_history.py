"""Videos after a history: a network with a noise level a frame, exact for Gaussian frames, and a small trained-like one."""

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.errors import BadValue
from emag.hosts.history import HistoryView, Segment, fractional, history_guidance, temporal, vanilla, with_history
from emag.samplers import Path, sample

close = torch.testing.assert_close
FRAMES, PAST = 5, 3
COV = 0.8 ** (torch.arange(FRAMES)[:, None] - torch.arange(FRAMES)).abs().double()
"""Neighbouring frames are alike."""
LEVELS = Path.flow(tuple(1 - i / 8 for i in range(9)))


def exact(x, sigmas, condition=None):
    """The flow velocity of each frame, [batch, frames, 1], for frames N(condition, COV) at levels of their own."""
    s, mean = sigmas[0].double(), 0.0 if condition is None else condition
    keep, wide = 1 - s, x[..., 0].double() - (1 - s) * mean
    gain = torch.linalg.solve(keep[:, None] * COV * keep + torch.diag(s**2), keep[:, None] * COV).T
    clean = mean + wide @ gain.T
    return torch.where(s > 0, (x[..., 0] - clean) / s.clamp(min=1e-9), 0.0)[..., None].to(x.dtype)


class Small(torch.nn.Module):
    """Attention over frames, each told its own time; random weights."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(3)
        self.into, self.time, self.out = (torch.nn.Linear(n, m) for n, m in ((1, width), (2, width), (width, 1)))
        self.attention = torch.nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x, sigmas, condition):
        told = torch.stack([sigmas.sin(), (3 * sigmas).cos()], -1)
        tokens = self.into(x) + self.time(told) + (condition or 0.0)
        return self.out(torch.tanh(tokens + self.attention(tokens, tokens, tokens)[0]))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


HISTORY = normal(4, PAST, 1, seed=5)
X = normal(4, FRAMES - PAST, 1, seed=6)


def model(segments, network=exact, frames=HISTORY, told=True, **more):
    shown, rule = history_guidance(segments, told)
    return emag.guided(with_history(network, frames, **more), rule, path=LEVELS, conditions=shown)


def velocity(x, sigma, mean, cov):
    """Flow velocity of N(mean, cov) frames, [batch, frames, 1]."""
    gain = (1 - sigma) * cov @ torch.linalg.inv((1 - sigma) ** 2 * cov + sigma**2 * torch.eye(len(cov)))
    clean = mean + (x[..., 0] - (1 - sigma) * mean) @ gain.T
    return ((x[..., 0] - clean) / sigma)[..., None]


@pytest.mark.parametrize("i", [0, 3, 7])
def test_what_sees_the_history_is_conditional_on_it(i):
    """At scale 1 the prediction is that of the frames given the clean history; at 0 of the frames alone."""
    old, new = slice(0, PAST), slice(PAST, FRAMES)
    onto = COV[new, old] @ torch.linalg.inv(COV[old, old])
    given = HISTORY[..., 0] @ onto.T, COV[new, new] - onto @ COV[old, new]
    close(model(vanilla(PAST, 1.0))(X, i), velocity(X, LEVELS.sigmas[i], *given))
    close(model(vanilla(PAST, 0.0))(X, i), velocity(X, LEVELS.sigmas[i], 0.0, COV[new, new]))


def branch(levels, i=3):
    """The prediction of one branch alone."""
    return with_history(exact, HISTORY)(X, LEVELS.sigmas[i], HistoryView(levels))


def test_the_sum_of_segments():
    """u + sum w (e(start) - e(end)), and its special cases."""
    clean, half, masked = (0.0,) * PAST, (0.5,) * PAST, (1.0,) * PAST
    c, h, u = map(branch, (clean, half, masked))
    close(model(vanilla(PAST, 3.0))(X, 3), u + 3 * (c - u))
    close(model(fractional(PAST, 0.5, 3.0))(X, 3), c + 2 * (h - u))
    close(model(fractional(PAST, 0.0, 3.0))(X, 3), u + 3 * (c - u))
    assert torch.equal(model(vanilla(PAST, 1.0))(X, 3), c)
    parts = {(0, 1, 2): 0.5, (2,): 1.5, (0,): -0.3}
    late, early = branch((1.0, 1.0, 0.0)), branch((0.0, 1.0, 1.0))
    close(model(temporal(PAST, parts))(X, 3), u + 0.5 * (c - u) + 1.5 * (late - u) - 0.3 * (early - u))
    between = (Segment(2.0, clean, half), Segment(1.0, half, masked))
    close(model(between)(X, 3), u + 2 * (c - h) + h - u)


@pytest.mark.parametrize(("segments", "count"), [
    (vanilla(PAST, 3.0), 2), (vanilla(PAST, 1.0), 1), (fractional(PAST, 0.5, 3.0), 3), (fractional(PAST, 0.0, 3.0), 2),
    (fractional(PAST, 0.5, 1.0), 1), (temporal(PAST, {(0, 1, 2): 1.0, (2,): 2.0}), 3),
    ((Segment(1.0, (0.0,) * PAST, (0.5,) * PAST), Segment(1.0, (0.5,) * PAST, (1.0,) * PAST)), 1),
])
def test_equal_levels_are_one_branch_and_what_cancels_is_not_evaluated(segments, count):
    one = model(segments)
    sample(one, X)
    assert one.evaluations == count * len(LEVELS)


@pytest.mark.slow
def test_frames_are_drawn_as_the_history_says():
    """End to end: from noise, frames with the mean that the history gives them; closer to it the stronger it pulls."""
    past = torch.full((4000, PAST, 1), 1.5, dtype=torch.float64)
    noise = normal(4000, FRAMES - PAST, 1, seed=8)
    made = {w: sample(model(vanilla(PAST, w), frames=past), noise) for w in (0.0, 1.0, 2.0)}
    assert abs(made[0.0].mean()) < 0.05 and made[1.0][:, 0].mean().item() == pytest.approx(1.2, abs=0.05)
    assert made[2.0].mean() > made[1.0].mean() > made[0.0].mean()


def test_noise_is_new_for_each_level_and_a_samples_own():
    seen = []

    def spy(x, sigmas, condition):
        seen.append((x[:, :PAST].clone(), sigmas.clone()))
        return exact(x, sigmas)

    net, shown = with_history(spy, HISTORY), HistoryView((0.0, 0.5, 1.0))
    for sigma in (0.7, 0.3, 0.7):
        net(X, sigma, shown)
    first, second, again = (one for one, _ in seen)
    assert torch.equal(first[:, 0], HISTORY[:, 0]) and torch.equal(first, again)  # clean; a level's own
    assert not torch.equal(first[:, 1], second[:, 1]) and seen[1][1][0].tolist() == pytest.approx([0.0, 0.5, 1.0, 0.3, 0.3])
    assert abs((2 * first[:, 1] - HISTORY[:, 1]).std() - 1) < 0.7 and len(first[:, 2].unique()) == 4


@pytest.mark.parametrize("network", [exact, Small().double()])
def test_rows_are_their_own_samples_and_guidance_moves_them(network):
    segments = fractional(PAST, 0.4, 3.0)
    with torch.no_grad():
        together = sample(model(segments, network), X)
        for row in range(4):
            one = slice(row, row + 1)
            close(sample(model(segments, network, HISTORY[one]), X[one]), together[one])
        plain = sample(model(vanilla(PAST, 1.0), network), X)
    assert (together - plain).abs().max() > 1e-3 and together.isfinite().all()


def test_a_condition_may_be_dropped_with_the_history():
    """The masked branch is told the null condition; then at scale 0 it is the unconditional network."""
    told, dropped = (model(vanilla(PAST, 0.0), told=told, condition=2.0, null=-1.0) for told in (True, False))
    new = COV[PAST:, PAST:]
    close(told(X, 3), velocity(X, LEVELS.sigmas[3], 2.0, new))
    close(dropped(X, 3), velocity(X, LEVELS.sigmas[3], -1.0, new))
    shown = history_guidance(vanilla(PAST), False)[0]
    assert shown == {COND: HistoryView((0.0,) * PAST), UNCOND: HistoryView((1.0,) * PAST, False)}


def test_what_it_refuses():
    for wrong in (((0.0,), (0.0,)), ((0.0,), (1.0, 1.0)), ((), ()), ((1.1,), (1.0,)), ((-0.1,), (1.0,))):
        with pytest.raises(BadValue, match=r"segment goes|levels of a history"):
            Segment(1.0, *wrong)
    for wrong in ((), (*vanilla(2), *vanilla(3))):
        with pytest.raises(BadValue, match="equally many frames"):
            history_guidance(wrong)
    with pytest.raises(BadValue, match="name another one first"):
        history_guidance((Segment(1.0, (1.0,), (0.5,)),))
    with pytest.raises(BadValue, match="has frames 0 to 2"):
        temporal(3, {(3,): 1.0})
    with pytest.raises(BadValue, match="does not go before"):
        model(vanilla(PAST - 1))(X, 0)
