"""Ctrl-Z: back up by noise where a reward does not rise, and the better of two is kept."""

import math

import pytest
import torch

import emag
from emag.errors import BadValue, Unsupported
from emag.hosts.own_loop import Loop, loop_model
from emag.maths.streams import Streams, digest
from emag.samplers import CtrlZ, Path, sample
from emag.samplers.ctrl_z import raised
from paths import CURVED, EXACT, PAIRS, PLAIN, WIDE, Tanh, Toy, close, every_pair, path, points

NEVER, ALWAYS = -1e9, 1e9  # as delta: what counts as stuck


def near(goal):
    return lambda x0: -(x0 - goal).square().flatten(1).mean(1)


def test_off_is_bit_identical_and_costs_nothing():
    for kind, space in PAIRS:
        model = Toy(path(kind), space)
        plain = sample(model, points())
        assert torch.equal(sample(model, points(), CtrlZ(near(1.0), depth=0)), plain) and model.beside == 0
        assert not torch.equal(sample(model, points(), CtrlZ(near(1.0), delta=ALWAYS)), plain)


def test_what_rises_is_left_alone():
    model, states = Toy(path("flow"), "flow"), []
    assert torch.equal(sample(model, points(), CtrlZ(near(1.0), delta=NEVER), states=states), sample(model, points()))
    assert model.beside == 7 and len(states[0]["scores"]) == 7  # one look after each step but the last


@pytest.mark.parametrize(("window", "depth", "tries"), [(1, 1, 1), (1, 3, 2), (3, 2, 1)])
def test_it_counts_what_it_says(window, depth, tries):
    """Stuck everywhere: at each level a look, then d steps and a look for each try from d levels up."""
    model = Toy(path("flow"), "flow")
    sample(model, points(), CtrlZ(near(1.0), 1.0, ALWAYS, window, depth, tries))
    searched = sum(tries * (up + 1) for level in range(window + 1, 8) for up in range(1, min(depth, level) + 1))
    assert model.beside == 7 + searched and model.calls == 8


@every_pair
def test_the_way_up_is_the_forward_process(kind, space):
    """x of the data's marginal at one level is of its marginal at the level above; no level of the path is left out."""
    levels, x = path(kind), points(200_000)
    for i, j in ((3, 2), (6, 1), (8, 0)):
        low, high = PLAIN.marginal(*levels.at(i)), PLAIN.marginal(*levels.at(j))
        found = raised(low.mean + low.matrix.sqrt()[0] * x, levels, i, j, points(200_000, 9))
        assert found.mean().item() == pytest.approx(high.mean.item(), abs=0.02 * high.matrix.item() ** 0.5)
        assert found.var().item() == pytest.approx(high.matrix.item(), rel=0.02)


def test_scores_never_fall_by_a_search_and_only_the_stuck_are_touched():
    """By hand, one level: the kept one is the better of the two where the score had not risen."""
    model, corrector, x = Toy(path("flow"), "flow", cond=CURVED, uncond=WIDE), CtrlZ(near(2.0), 1.0, depth=1), points(64)
    before = torch.where(torch.arange(64) % 2 == 0, 1e9, -1e9).double()  # even ones are stuck, odd ones are not
    plain = corrector._score(x, 4, model)
    state = {"scores": [before]}
    found = corrector.after(x, 3, model, state)
    moved, best = (found != x).any(1), state["scores"][-1]
    assert not moved[1::2].any() and 0 < moved.sum() < 32
    close(best, corrector._score(found, 4, model), **EXACT)
    assert (best[moved] > plain[moved]).all() and torch.equal(best[~moved], plain[~moved])


def test_a_search_reaches_more_of_the_reward():
    goal, x = near(2.0), points(256)
    ends = [sample(Toy(path("flow", 12), "flow", cond=CURVED), x, *parts)
            for parts in ((), (CtrlZ(goal, 1.0, 0.05, depth=6, tries=3),))]
    plain, found = (goal(end).mean().item() for end in ends)
    assert found > 0.6 * plain  # rewards are below 0


def test_rows_are_their_own_samples():
    x = points(3, shape=(2, 3, 3))

    def run(rows):
        model, streams = Toy(path("flow"), "flow", cond=Tanh(1.0), uncond=Tanh(0.3)), Streams([digest(row) for row in rows])
        model.noise = lambda name, like: streams.normal(name, like)
        return sample(model, rows, CtrlZ(near(0.3), 2.0, 0.01))

    together = run(x)
    for i in range(3):
        close(together[i:i + 1], run(x[i:i + 1]), **EXACT)
    assert run(x.float()).dtype == torch.float32


@pytest.mark.slow
def test_an_embedded_model_beside_a_weak_branch():
    """Brighter images for a reward of brightness, whatever other rules act in the steps."""
    pipe, ends = emag.load("tiny"), []
    noise = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for parts in ((), (CtrlZ(lambda x0: x0.mean((1, 2, 3)), 2.5, 0.02, depth=4),)):
        rules = emag.EMAG(2.0, layers=(2, 3, 4)), emag.CFG(2.5)
        model = loop_model(pipe, Loop(rules, steps=6), ["a photo of a frog"] * 4, [None] * 4)
        ends.append(sample(model, noise, *parts))
    assert ends[1].mean() > ends[0].mean() + 0.02 and ends[1].std() > 0.3 * ends[0].std()


def test_what_it_refuses():
    model = Toy(path("flow"), "flow")
    for wrong in ({"scale": -1.0}, {"delta": math.inf}, {"window": 0}, {"depth": -1}, {"depth": 1.5}, {"tries": 0}):
        with pytest.raises(BadValue, match="ctrl-z"):
            CtrlZ(near(0.0), **wrong)
    with pytest.raises(BadValue, match="must be a function"):
        CtrlZ("brightness")
    with pytest.raises(BadValue, match="needs a reward"):
        sample(model, points(), CtrlZ())
    assert model.calls == model.beside == 0
    with pytest.raises(BadValue, match="a number for each of 16 images"):
        sample(model, points(), CtrlZ(lambda x0: x0.mean()))
    with pytest.raises(Unsupported, match="needs the unconditional prediction"):
        sample(Toy(Path.flow((1.0, 0.5, 0.0)), "flow", cond=PLAIN), points(), CtrlZ(near(0.0)))
