"""Kinds of energy guidance that are settings of one rule: several steps ahead, noisy scores, EluCD, on-manifold moves."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler

import emag
from emag.core import RunStart
from emag.engine.trajectory import Trajectory
from emag.errors import Unsupported
from emag.samplers import sample
from emag.scores import Colour
from test_energy_functions import DIM, NETS, PATH, X, after, guided, linear, plain, quadratic, rising
from tiny import CASES

close = torch.testing.assert_close
RED = Colour(0.9, 0.1, 0.1)


def rms(x):
    return x.square().mean(1, keepdim=True).sqrt()


def matrices():
    """The steps of the run, x' = x S^T: S = alpha' A + sigma' (1 - alpha A) / sigma."""
    found = []
    for i in range(len(PATH)):
        (a, s), (b, r) = PATH.at(i), PATH.at(i + 1)
        found.append(b * NETS["cond"] + r * (torch.eye(DIM, dtype=torch.float64) - a * NETS["cond"]) / s)
    return found


@pytest.mark.parametrize(("at", "steps", "through"), [
    (1, 1, lambda S: NETS["cond"]), (0, 4, lambda S: S[3] @ S[2] @ S[1] @ S[0]), (1, 9, lambda S: S[3] @ S[2] @ S[1]),
    (2, 2, lambda S: S[3] @ S[2]), (3, 3, lambda S: NETS["cond"])])
def test_k_steps_ahead_the_gradient_is_the_transpose_of_their_product(at, steps, through):
    """1 is posterior guidance; all that are left are end-to-end guidance: the gradient through the whole solve."""
    whole = through(matrices())
    model = guided(emag.Energy(quadratic, 0.3, "next", True, steps=steps))
    close(after(model, X, at) - after(guided(), X, at), 0.3 * rising(X @ whole.T) @ whole)


def test_fewer_steps_than_are_left_are_spread_evenly():
    """Two from the first of four levels: to the third, and from there to the end."""
    (a, s), (b, r) = PATH.at(0), PATH.at(2)
    whole = NETS["cond"] @ (b * NETS["cond"] + r * (torch.eye(DIM, dtype=torch.float64) - a * NETS["cond"]) / s)
    model = guided(emag.Energy(quadratic, 0.3, "next", True, steps=2))
    close(after(model, X, 0) - after(guided(), X, 0), 0.3 * rising(X @ whole.T) @ whole)
    assert model.evaluations == 1 + 2


def test_on_a_straight_path_all_numbers_of_steps_are_one():
    """Where the velocity stays the same along the path, x0 is the end however many steps are made."""
    found = [sample(emag.guided(lambda x, t, c: c + 0 * x, emag.Energy(quadratic, 0.3, "next", True, steps=k),
                                path=(1.0, 0.75, 0.5, 0.25, 0.0), conditions={"cond": 0.7}), X) for k in (1, 2, 4)]
    close(found[0], found[1])
    close(found[0], found[2])


def test_a_score_of_the_noisy_sample_itself_is_classifier_guidance():
    """epsilon - s sigma grad_x log p(y | x_t); with the exact classifier of two Gaussians it is CFG with w = 1 + s."""
    (a, s), small = PATH.at(1), 0.3 * X  # its root mean square is below 1: it is scored as it is
    model = guided(emag.Energy(quadratic, 0.3, of="noisy"))
    close(model(small, 1) - guided()(small, 1), s**2 / a * 0.3 * rising(small))
    assert model.evaluations == 1

    # x0 ~ N(m, 1) given y, N(0, 2) without: E[x0 | x] and log p(x | y) - log p(x) of x = a x0 + s e
    def exact(x, sigma, condition):
        mean, spread = condition
        alpha = (1 - sigma**2) ** 0.5
        return mean + alpha * spread / (alpha**2 * spread + sigma**2) * (x - alpha * mean)

    def log_ratio(x):
        return (x**2 / (a**2 * 2 + s**2) - (x - a * 0.4) ** 2 / (a**2 + s**2)).sum(1) / 2

    two = {"cond": (0.4, 1.0), "uncond": (0.0, 2.0)}
    ours = emag.guided(exact, emag.Energy(log_ratio, 1.5, of="noisy"), path=PATH, prediction="x0", conditions=two)
    theirs = emag.guided(exact, emag.CFG(2.5), path=PATH, prediction="x0", conditions=two)
    close(ours(small, 1), theirs(small, 1))


def test_elucd_on_edm_adds_a_share_of_x_t_to_it():
    """By its root mean square, what is added is G times the schedule times that of x_t."""
    model, share = guided(emag.Energy.preset("elucd-edm", quadratic)), (5 - 2) / 5 + 0.3 * math.sin(2 * math.pi / 4)

    def added(x):
        """To x at step 2 of N - 1 = 4, from which the step is made by a matrix."""
        return torch.linalg.solve(matrices()[2], after(model, x, 2).T).T - x

    for x in (3 * X, 0.3 * X):  # larger than 1, and scored as it is
        close(rms(added(x)), 0.004 * share * rms(x))
    close(added(0.3 * X), 0.004 * share * rms(0.3 * X) * rising(0.3 * X) / rms(rising(0.3 * X)))


def test_on_manifold_moves_are_those_of_x0_and_of_the_velocity():
    """On a flow, t = 1 - sigma: z' + (t' / t) delta_t + t' delta_0; and v + (sigma / t) delta_t + delta_0."""
    levels = (0.8, 0.5, 0.2, 0.0)

    def made(*rules):
        return emag.guided(linear, *rules, path=emag.Path.flow(levels), prediction="x0", conditions=NETS)

    t, later, sigma = 1 - 0.5, 1 - 0.2, 0.5
    sharp = {"smooth": 0.0, "draws": 1, "clip": 0.0}
    through, at = 0.3 * rising(plain()) @ NETS["cond"], 0.2 * rising(plain())
    form = emag.Energy.preset("on-manifold", quadratic, strength=0.3, mean=0.2, **sharp)
    close(after(made(form)) - after(made()), later / t * through + later * at)
    form = emag.Energy.preset("on-manifold-velocity", quadratic, strength=0.3, mean=0.2, **sharp)
    velocity = (made(form)(X, 1) - X) / sigma  # x0 = x + sigma v
    close(velocity - (plain() - X) / sigma, sigma / t * through + at)


SETTINGS = {"ahead": {"where": "next", "through_network": True, "steps": 2, "recur": 2},
            "noisy": {"where": "x_t", "of": "noisy", "again": True, "inner": 2, "normalise": "relative"}}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
def test_pipelines_make_the_passes_that_were_planned(case, name):
    pipe = CASES[case].pipe()
    plain = CASES[case].run(pipe, num_inference_steps=3)
    with emag.guide(pipe, emag.CFG(3.0), emag.Energy(RED, 0.1, **SETTINGS[name])) as run:
        found = CASES[case].run(pipe, num_inference_steps=3)
    # of 3 steps the first two look two ahead and the last one, each made twice; x_t itself is scored without the network
    backward = 2 * (2 + 2 + 1) * run.stats.clean // 3 if name == "ahead" else 0
    assert run.stats.evaluations == run.stats.planned and run.stats.backward == backward
    assert not torch.equal(found, plain)


def test_where_another_network_takes_over_nothing_is_asked_ahead_of_it():
    """Wan 2.2: the network of the later step is another one."""
    places = tuple(replace(Trajectory.even(8), takeover=4).places())
    ahead, start = emag.Energy(RED, 0.1, "next", True, steps=2), RunStart(places[0], places)
    for rule in (ahead, replace(ahead, interval=(0.0, 0.2)), emag.SCG(RED, 2)):
        with pytest.raises(Unsupported, match=r"where another network takes over, at step 5"):
            rule.fits_run(start)
    late = {"interval": (0.5, 1.0)}  # from the step at which it does
    for rule in (replace(ahead, **late), emag.SCG(RED, 2, **late), emag.SCG(RED, 1), replace(ahead, steps=1)):
        rule.fits_run(start)


@pytest.mark.parametrize("rule", [emag.Energy(RED, 0.1, "next", True, steps=2), emag.SCG(RED, 2)])
def test_a_later_time_that_cannot_be_told_is_refused_before_a_run(rule):
    pipe = CASES["pixart"].pipe()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_type="continuous")
    with pytest.raises(Unsupported, match="function of the noise level"), emag.guide(pipe, emag.CFG(3.0), rule):
        CASES["pixart"].run(pipe, num_inference_steps=3)
