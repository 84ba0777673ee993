"""Weak branches that some steps go without: what is used in their place, that they are not made, and who decides."""

import pytest
import torch

import emag
from cases import EMAG
from emag.core import COND, Conditioned, Rule, combine
from emag.errors import BadValue
from emag.maths.predictions import difference_scale
from emag.maths.streams import Streams
from emag.methods import METHODS
from emag.methods.common.carried import Directions
from emag.methods.common.push import Push
from emag.methods.weak.negative import Negative
from plain_function import first, flow, loop
from reference import SPACES, at_step, tensors
from spy import Counter, attention_of
from tiny import CASES
from two_experts import SWITCH, made

close = torch.testing.assert_close
COUNT = 11
PUSHES = {name: rule for name, rule in METHODS.items() if issubclass(rule, Push)}


def steps(path="flow", space="flow", fresh=None):
    sigmas = tuple(0.95 - 0.08 * i for i in range(COUNT))
    alphas = tuple((1 - s**2) ** 0.5 if path == "vp" else 1 - s for s in sigmas)
    return [at_step(path, space, torch.zeros(3, 4).double(), index=i, sigmas=sigmas, alphas=alphas, time=sigmas[i],
                    streams=Streams([]), fresh=i == fresh) for i in range(COUNT)]


def walk(rule, at, weak):
    """Predictions of a run over made-up weak ones of velocities, and the steps that evaluated theirs."""
    state, found, evaluated = {}, [], []
    cond = torch.zeros(3, 4).double()
    for i, step in enumerate(at):
        unit = difference_scale(step.alpha, step.sigma, "v", step.space)
        branches = {COND: cond}
        if not rule.spares_weak(step, state):
            evaluated.append(i)
            branches[rule.perturbation] = -unit * weak[i]
        found.append(combine((rule,), cond, branches, step, [state]) / unit)
    return torch.stack(found), evaluated


def random_walk(seed=3):
    return torch.stack([t.double() for t in tensors(seed, COUNT, 3, 4)])


@pytest.mark.parametrize(("every", "expected"), [
    (1, list(range(COUNT))), (2, [0, 1, 3, 5, 7, 9]), (3, [0, 1, 4, 7, 10]), (20, [0, 1])])
def test_after_two_evaluations_one_in_every_so_many(every, expected):
    assert walk(Negative(2.0, every=every), steps(), random_walk())[1] == expected


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_direction_that_moves_along_a_line_is_met_exactly(every):
    start, along = (t.double() for t in tensors(1, 2, 3, 4))
    line = torch.stack([start + i * along for i in range(COUNT)])
    close(walk(Negative(2.0, every=every), steps(), line)[0], line, atol=1e-12, rtol=1e-12)


def test_between_evaluations_the_last_two_are_drawn_on():
    seen = random_walk()
    found, _ = walk(Negative(3.0, every=3), steps(), seen)
    close(found[:2], 2 * seen[:2])
    close(found[2], 2 * (seen[1] + (seen[1] - seen[0])))
    close(found[5], 2 * (seen[4] + (seen[4] - seen[1]) / 3))
    close(found[6], 2 * (seen[4] + 2 * (seen[4] - seen[1]) / 3))


@pytest.mark.parametrize("path", SPACES)
def test_it_is_the_same_in_every_space(path):
    runs = [walk(Negative(2.0, every=3), steps(path, space), random_walk())[0] for space in SPACES[path]]
    for other in runs[1:]:
        close(other, runs[0], atol=1e-10, rtol=1e-10)


def test_where_directions_disagree_they_are_evaluated():
    calm, wild = (torch.ones(COUNT, 3, 4).double(), random_walk())
    assert walk(Negative(2.0, every=4, agree=0.9), steps(), calm)[1] == [0, 1, 5, 9]
    assert walk(Negative(2.0, every=4, agree=0.9), steps(), wild)[1] == list(range(COUNT))


def test_each_sample_decides_for_itself():
    seen = random_walk()
    seen[:, 0] = 1 + 0.01 * seen[:, 0]
    rule = Negative(2.0, every=4, agree=0.9)
    together, evaluated = walk(rule, steps(), seen)
    alone, spared = walk(rule, steps(), seen.clone()[:, :1].expand_as(seen))
    assert evaluated == list(range(COUNT)) and spared == [0, 1, 5, 9]
    close(together[:, 0], alone[:, 0])
    close(together[:, 1:], seen[:, 1:])


def test_a_branch_made_for_another_rule_changes_nothing():
    seen, at = random_walk(), steps()
    one, both = Negative(2.0, every=3), (Negative(2.0, every=3), Negative(1.5))
    alone, _ = walk(one, at, seen)
    states, found = [{}, {}], []
    for i, step in enumerate(at):
        assert not all(rule.spares_weak(step, state) for rule, state in zip(both, states))
        cond = torch.zeros(3, 4).double()
        found.append(combine(both, cond, {COND: cond, one.perturbation: -seen[i]}, step, states))
    close(torch.stack(found), alone + 0.5 * seen)


def test_a_network_that_takes_over_is_looked_at_anew():
    _, evaluated = walk(Negative(2.0, every=4), steps(fresh=6), random_walk())
    assert evaluated == [0, 1, 5, 6, 7, 8]


def test_a_step_that_was_not_asked_about_uses_nothing_old():
    held = Directions(2, -1.0)
    for i, step in enumerate(steps()[:3]):
        held.spares(step)
        held.take(None if i == 2 else torch.ones(3, 4), step)
    assert held.take(None, steps()[3]) is None


# runs


@pytest.mark.parametrize("case", ["sd3", "true-cfg", "flux"])
@pytest.mark.parametrize("every", [2, 3])
def test_spared_evaluations_are_not_made(case, every):
    def run(every):
        pipe = CASES[case].pipe()
        counter = Counter(pipe.transformer, attention_of(case))
        with emag.guide(pipe, EMAG(every=every)) as handle:
            CASES[case].run(pipe)
        stats = handle.stats
        weak = sum(effect is not None for effect in stats.effects)
        assert stats.evaluations == stats.planned
        return weak, sum(counter.blocks.values())

    full, blocks = run(1)
    spared, fewer = run(every)
    assert spared == 2 + sum(i % every == 0 for i in range(1, full - 1))
    assert fewer < blocks


@pytest.mark.slow
def test_it_comes_close_to_evaluating_all():
    """Far closer than doing without, on the embedded model."""
    pipe = emag.load("tiny")
    pipe.set_progress_bar_config(disable=True)

    def image(*rules):
        with emag.guide(pipe, *rules):
            return pipe(prompt=["dog", "ship"], num_inference_steps=14, guidance_scale=3.0, output_type="latent",
                        generator=[torch.Generator().manual_seed(i) for i in (8, 9)]).images

    full, without = image(emag.EMAG(1.5)), image()
    assert (image(emag.EMAG(1.5, every=2)) - full).norm() < 0.25 * (without - full).norm()


@pytest.mark.parametrize("rule", [EMAG(every=3), EMAG(variant="map", every=4, agree=0.5), METHODS["pag"](1.5, every=2)],
                         ids=["query", "map", "pag"])
def test_an_image_does_not_depend_on_its_batch_mates(rule):
    case = CASES["sd3"]

    def image(seeds):
        pipe = case.pipe()
        with emag.guide(pipe, rule):
            return case.run(pipe, seeds)

    together = image((8, 9, 10))
    for i, seed in enumerate((8, 9, 10)):
        close(together[i:i + 1], image((seed,)), atol=1e-4, rtol=1e-4)


def test_wan_s_second_expert_is_evaluated_before_it_is_drawn_on():
    _, run = made(EMAG(layers=(1, 2), every=3, window=emag.Window.index(7, 1, 0)))
    evaluated = [i for i, effect in enumerate(run.stats.effects) if effect is not None]
    assert run.stats.evaluations == run.stats.planned
    assert SWITCH not in evaluated and {SWITCH + 1, SWITCH + 2} <= set(evaluated)


def test_a_plain_function_is_called_less():
    def evaluations(every):
        model = emag.guided(flow, Negative(1.5, "other", every=every), path=(1.0, 0.8, 0.55, 0.3, 0.1, 0.0),
                            conditions={"cond": 1.0, "other": 3.0})
        loop(model, first())
        return model.evaluations

    assert (evaluations(1), evaluations(2), evaluations(9)) == (10, 8, 7)


@pytest.mark.parametrize("name", [name for name in PUSHES if name != "dng"])  # it follows every step
def test_every_rule_that_pushes_can_spare(name):
    given = {"spg": {"style": "style.safetensors"}}.get(name, {})
    rule = PUSHES[name](2.0 if name != "sine" else 0.5, every=3, **given)
    assert "emag" in PUSHES and rule.every == 3 and type(rule).spares_weak is not Rule.spares_weak


@pytest.mark.parametrize(("more", "says"), [
    ({"every": 0}, "every"), ({"every": 2.5}, "whole number"), ({"agree": 0.5}, "every=1"),
    ({"every": 2, "agree": 1.5}, "cosine"), ({"every": 2, "compat": "sd3-official"}, "every step")])
def test_bad_values(more, says):
    with pytest.raises(BadValue, match=says):
        emag.EMAG(1.5, **more)


def test_it_survives_a_recipe():
    rules = (emag.EMAG(1.5, every=3, agree=0.9), METHODS["pag"](1.2, every=2))
    assert emag.records.recipe.from_data(emag.records.recipe.to_data(rules)) == rules
    assert emag.records.recipe.parse("emag=1.5,every=3") == emag.EMAG(1.5, every=3)
    assert Conditioned("other") == Negative(2.0, "other", every=3).perturbation
