"""Energies through the guided estimate of weak branches: it is made anew, with gradients, of what the step has averaged."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.methods.energy.slopes import Slopes
from emag.scores import Colour
from own_function import denoiser_of
from test_energy_functions import NETS, after, quadratic
from test_gfcg import BATCH, RIVALS, gfcg, guided
from test_gfcg import given as rivals_of
from tiny import CASES, noise, sd3

close = torch.testing.assert_close
RED = Colour(0.9, 0.1, 0.1)
WINDOW = emag.Window.progress(0, 0.2, 1)
STEER = {"where": "next", "through_network": True, "interval": (0.3, 0.4)}
"""Of four steps the second: much noise is left, and the network has much to say."""


def averaged(scale=2.5, **more):
    return emag.EMAG(scale, layers=(1, 2), window=WINDOW, **more)


WEAK = {"query": averaged(), "map": averaged(variant="map", strength=0.7),
        "text": averaged(variant="text", compat={"renorm": "text"}),
        "all-rows": averaged(compat="sd3-official"), "skips": emag.SLG(2.5, layers=(1,)),
        "blurs": emag.SAG(1.75, layers=(1,)), "time": emag.TSG(2.5)}


def steered(*rules, seeds=(8, 9), steps=4, **given):
    pipe = CASES["sd3"].pipe()
    with emag.guide(pipe, *rules, **given) as run:
        return CASES["sd3"].run(pipe, seeds, num_inference_steps=steps), run.stats


@pytest.fixture
def told(monkeypatch):
    """What differences say of each gradient through the network along one direction, and what it says itself."""
    found = []

    def through(self, x, of, original=Slopes.through):
        made, direction = original(self, x, of), noise(3, *x.shape)
        with torch.no_grad():
            ahead, behind = (self.value(self.access.estimate(x + h * direction, of)) for h in (1e-2, -1e-2))
        found.append(((ahead - behind) / 2e-2, (made[0] * direction).flatten(1).sum(1)))
        return made

    monkeypatch.setattr(Slopes, "through", through)
    return found


@pytest.mark.parametrize("name", WEAK)
def test_the_gradient_is_what_differences_tell(told, name):
    steered(WEAK[name], emag.CFG(3.0), emag.Energy(RED, 0.1, **STEER))
    (differences, slopes), = told
    assert slopes.abs().min() > 1e-6
    close(slopes, differences, rtol=0.05, atol=2e-3 * float(slopes.abs().max()))


@pytest.mark.parametrize("name", ["map", "all-rows", "skips"])
def test_it_costs_what_was_planned_and_what_is_evaluated_again_gives_the_same(name):
    (plain, once), (kept, again) = (steered(WEAK[name], emag.CFG(3.0), emag.Energy(RED, 5.0, **STEER, checkpoint=on))
                                    for on in (False, True))
    assert torch.equal(plain, kept)
    assert once.evaluations == once.planned == again.evaluations and once.again == 0
    assert again.again == again.backward == once.backward > 2 * 4  # more than the clean rows of its step


def test_what_was_planned_beforehand_counts_the_weak_passes():
    """A weak pass is evaluated whole: nothing was recorded at that x."""
    from emag.engine.plan import plan
    from emag.engine.trajectory import Trajectory

    def planned(*rules):
        return plan([*rules, emag.CFG(3.0), emag.Energy(RED, 5.0, **STEER, checkpoint=True)], 4, Trajectory.even(4), True)

    bare, pushed, skips = planned(), planned(WEAK["query"]), planned(WEAK["skips"])
    assert (bare.backward, bare.again) == (8, 8) and (pushed.backward, pushed.again) == (12, 12)
    assert (skips.backward, skips.again) == (11, 11)


def test_an_image_is_the_same_alone_and_strength_0_is_none():
    found, _ = steered(WEAK["query"], emag.CFG(3.0), emag.Energy(RED, 5.0, **STEER, normalise="norm"))
    alone, _ = steered(WEAK["query"], emag.CFG(3.0), emag.Energy(RED, 5.0, **STEER, normalise="norm"), seeds=(9,))
    close(alone, found[1:], rtol=0, atol=2e-3 * float(found.abs().max()))
    plain, off = (steered(WEAK["query"], emag.CFG(3.0), *more)[0] for more in ([], [emag.Energy(RED, 0.0, **STEER)]))
    assert torch.equal(plain, off) and not torch.equal(plain, found)


def test_as_the_scale_goes_to_1_it_is_the_conditional_gradient():
    near, cond = (steered(averaged(1 + 1e-6), emag.CFG(1.0), emag.Energy(RED, 5.0, **STEER, normalise="norm", of=of))[0]
                  for of in ("guided", "cond"))
    close(near, cond, rtol=0, atol=1e-4 * float(cond.abs().max()))


def test_where_the_step_is_made_again_the_weak_pass_is_too_and_keeps_nothing():
    """The average of the run goes on as without."""
    again = emag.Energy(RED, 1e-9, "x_t", True, again=True, inner=2, interval=(0.3, 0.4))
    (_, with_), (_, without) = (steered(WEAK["query"], emag.CFG(3.0), *more) for more in ([again], []))
    assert with_.evaluations == with_.planned > without.evaluations and with_.picks == without.picks


def test_where_a_weak_pass_is_spared_its_direction_is_a_constant():
    rules = emag.PAG(2.5, layers=(1,), every=2), emag.CFG(3.0), emag.Energy(RED, 1.0, **STEER)
    *rules, energy = rules
    for at, blocks in ((1, 12), (2, 8)):  # the third step has no weak pass
        _, stats = steered(*rules, replace(energy, interval=((at - 0.1) / 3, (at + 0.1) / 3)))
        assert stats.evaluations == stats.planned and stats.backward == blocks


# EMAG by hand


class Averaging:
    """The attention of one block by hand: its queries are averaged, or the average is in their place."""

    def __init__(self, net, block, image):
        self.net, self.block, self.image, self.average = net, block, image, None

    def __call__(self, x, time, condition, weak=False):
        calls, original = [], F.scaled_dot_product_attention

        def attention(query, key, value, *args, **kwargs):
            calls.append(query)
            if weak and len(calls) == self.block + 1:
                query = torch.cat([self.average, query[:, :, self.image:]], 2)
            return original(query, key, value, *args, **kwargs)

        F.scaled_dot_product_attention = attention
        try:
            made = denoiser_of(self.net)(x, time, condition)
        finally:
            F.scaled_dot_product_attention = original
        self.seen = calls[self.block][:, :, :self.image].detach()
        return made

    def take(self, beta):
        self.average = self.seen if self.average is None else beta * self.average + (1 - beta) * self.seen


def test_a_step_of_emag_by_hand():
    """x' = Euler(x, v) + rho dS/dx, v = c + (w - 1) (c - weak(x)): through both passes, the average a constant."""
    pipe, sigmas, scale, beta, rho = sd3(), (0.9, 0.6, 0.2), 2.5, 0.7, 0.3
    net, x = pipe.transformer, torch.cat([noise(seed, 1, 4, 8, 8) for seed in (8, 9)])
    condition = {"encoder_hidden_states": noise(1, 2, 5, 12), "pooled_projections": noise(2, 2, 10)}
    net.requires_grad_(False)

    def score(x0):
        return -(x0 - 0.5).square().flatten(1).mean(1)

    rules = (emag.EMAG(scale, layers=(1,), beta=beta, window=emag.Window.progress(0, 0.5, 1)),
             emag.Energy(score, rho, "next", True, interval=(0.5, 1.0)))
    model = emag.guided(denoiser_of(net), *rules, path=sigmas, conditions={"cond": condition}, backbone=net)
    hand, at = Averaging(net, 1, 16), x
    for i, (here, there) in enumerate(pairwise(sigmas)):
        ours = model(at, i)
        leaf = at.clone().requires_grad_()
        cond = hand(leaf, here, condition)
        hand.take(beta)
        guided_ = cond if i == 0 else cond + (scale - 1) * (cond - hand(leaf, here, condition, weak=True))
        (slope,) = torch.autograd.grad(score(leaf - here * guided_).sum(), leaf)
        moved = at + (there - here) * guided_.detach() + (rho * slope if i else 0)
        close(at + (there - here) * ours, moved, atol=1e-5, rtol=1e-4)
        at = moved.detach()
    assert slope.abs().max() > 1e-3


# branches that are conditions, and rivals


def test_a_branch_under_another_condition_is_differentiated_too():
    """c + (c - e), e under other words; linear, so that it is known."""
    compose = emag.Compose("cond", (emag.Term(1.0, "cond", "cat"),))
    found, bare = (after(guided(compose, *more), BATCH) for more in ([emag.Energy(quadratic, 0.3, "next", True)], []))
    network = 2 * NETS["cond"] - RIVALS["cat"]
    leaf = BATCH.clone().requires_grad_()
    (slope,) = torch.autograd.grad(quadratic(leaf @ network.T).sum(), leaf)
    close(found - bare, 0.3 * slope)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_rival_of_gfcg_is_differentiated_and_what_was_chosen_is_a_constant(power):
    """x0 = c + m (w - 1) (c - e(r)): linear in x where r and m are constants."""
    rule = emag.Energy(quadratic, 0.3, "next", True)
    found, bare = (after(guided(gfcg(power=power), emag.CFG(3.0), *more), BATCH) for more in ([rule], []))
    for row, one in enumerate(BATCH):
        cond = one @ NETS["cond"].T
        name = "cat" if cond[1] > cond[2] else "dog"
        m = (2 * torch.sigmoid(max(cond[1], cond[2]) - cond[0])) ** power
        network = NETS["cond"] + m * 2.0 * (NETS["cond"] - RIVALS[name])
        leaf = one.clone().requires_grad_()
        (slope,) = torch.autograd.grad(quadratic((leaf @ network.T)[None]).sum(), leaf)
        close((found - bare)[row], 0.3 * slope)


@pytest.mark.parametrize("rule", [emag.Energy(RED, 3.0, **STEER), emag.SCG(RED, n=2)], ids=["energy", "scg"])
def test_rivals_in_pipelines_cost_what_was_planned(rule):
    gone = emag.GFCG(("frog",), ("cat", "dog"), "{}", "is:{}")
    _, stats = steered(gone, emag.CFG(3.0), rule, **rivals_of("sd3"))
    assert stats.evaluations == stats.planned
