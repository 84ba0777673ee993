"""A denoiser function whose network is known: weak branches inside it, in somebody's own loop."""

from functools import partial

import pytest
import torch

import emag
from emag.errors import BadValue, Busy, NoEffect, Unsupported
from emag.hosts.decoding import decode
from emag.lab.doctor.diagnose import _other, _sure, tried
from emag.methods import METHODS
from own_function import EMAG, STEPS, conditions, denoiser_of, euler, first, guided, sigmas_of
from spy import changes, snapshot
from tiny import CASES, noise, sd3, sd3_call

COLUMNS = {column.label: _sure(column) for column in tried()}
ALONE = {"nag", "vsf", "autoguidance", "sine", "domain", "priors", "personalization", "rlg", "unguide", "hm-cfg", "core2",
         "o-nag", "nasa", "sg", "swg", "internal-guidance"}


def rules_of(label):
    """The rules of a column, with a combining one where it has none: in a pipeline the host's own would combine."""
    rules = COLUMNS[label].rules
    if any(rule.kind == "combining" for rule in rules):
        return rules
    return (emag.CFG(4.0), *rules) if rules[0].kind == "after" else (*rules, emag.CFG(4.0))


# The pipeline's images, from a loop of one's own


@pytest.mark.parametrize("label", [label for label in COLUMNS if label not in (*ALONE, "tpg")])
def test_a_loop_makes_what_the_pipeline_makes(label):
    rules, pipe = rules_of(label), sd3()
    with emag.guide(pipe, *rules, conditions=_other(CASES["sd3"])) as run:
        expected = pipe(**sd3_call()).images
    model = guided(pipe, *rules, decode=partial(decode, pipe))
    made = euler(model, first(), sigmas_of(pipe))
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert model.block_evaluations == run.stats.evaluations
    assert model.plan.total == run.stats.planned


@pytest.mark.parametrize("rules", [(), (EMAG(1.0),), (emag.CFG(3.0),), (emag.CADS(0.5, 0.1, 0.9, 0.5),
                                                                       emag.APG(3.0, 0.0, 5.0, 0.7))])
def test_without_a_weak_branch_it_is_the_plain_function_bit_for_bit(rules):
    pipe = sd3()
    inside = guided(pipe, *rules)
    plain = emag.guided(denoiser_of(pipe.transformer), *[rule for rule in rules if not rule.neutral], path=sigmas_of(pipe),
                        conditions=conditions())
    assert torch.equal(euler(inside, first(), sigmas_of(pipe)), euler(plain, first(), sigmas_of(pipe)))
    assert inside.evaluations == plain.evaluations


def test_rows_are_independent():
    pipe = sd3()
    rules, sigmas = (EMAG(jitter=0.1), emag.CFG(3.0)), sigmas_of(pipe)
    together = euler(guided(pipe, *rules), first(), sigmas)
    for at, seed in enumerate((8, 9)):
        alone = euler(guided(pipe, *rules, conditions=conditions((seed,))), first((seed,)), sigmas)
        assert (alone - together[at:at + 1]).abs().max() <= 1e-4


def test_a_run_begins_anew_at_level_0_and_also_after_one_that_was_left():
    pipe = sd3()
    model, sigmas = guided(pipe, EMAG(), emag.CFG(3.0)), sigmas_of(pipe)
    expected = euler(model, first(), sigmas)
    for i in range(4):
        model(noise(5, 2, 4, 8, 8), i)
    assert torch.equal(euler(model, first(), sigmas), expected)
    assert model.block_evaluations == model.plan.total


def test_nothing_stays_in_the_network_between_calls():
    pipe = sd3()
    plain = denoiser_of(pipe.transformer)(first(), 0.5, conditions()["cond"])
    x = first()
    model = guided(pipe, EMAG(), METHODS["tsg"](1.5), METHODS["pladis"](2.0), emag.CFG(3.0))
    before = snapshot(pipe)
    for i in range(STEPS):
        x = model(x, i)
        assert changes(before, snapshot(pipe), own=False) == []
        assert torch.equal(denoiser_of(pipe.transformer)(first(), 0.5, conditions()["cond"]), plain)


def test_an_error_inside_a_step_leaves_nothing_behind():
    pipe, calls = sd3(), []

    def denoiser(x, t, condition):
        calls.append(1)
        out = denoiser_of(pipe.transformer)(x, t, condition)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return out

    model = emag.guided(denoiser, EMAG(), emag.CFG(3.0), path=sigmas_of(pipe), conditions=conditions(),
                        backbone=pipe.transformer)
    before = snapshot(pipe)
    with pytest.raises(KeyboardInterrupt):
        euler(model, first(), sigmas_of(pipe))
    assert changes(before, snapshot(pipe), own=False) == []
    calls.extend([0] * 10)
    assert torch.equal(euler(model, first(), sigmas_of(pipe)), euler(guided(pipe, EMAG(), emag.CFG(3.0)), first(),
                                                                    sigmas_of(pipe)))


@pytest.mark.parametrize("how", [
    pytest.param("whole", marks=pytest.mark.slow), pytest.param("in place", marks=pytest.mark.long)])
def test_a_compiled_network(how):
    torch._dynamo.reset()
    pipe = sd3(layers=3)
    expected = euler(guided(pipe, EMAG()), first(), sigmas_of(pipe))
    net = pipe.transformer
    if how == "whole":
        net = torch.compile(net, backend="eager")
    else:
        net.compile(backend="eager")
    model = emag.guided(denoiser_of(net), EMAG(), path=sigmas_of(pipe), conditions=conditions(), backbone=net)
    made = euler(model, first(), sigmas_of(pipe))
    torch._dynamo.reset()
    assert (made - expected).abs().max() <= 1e-4 and model.block_evaluations == model.plan.total


# What is refused


def by_hand(net):
    """A denoiser that combines by itself, in one call."""
    def denoiser(x, t, condition):
        both = {key: torch.cat([conditions()["uncond"][key], value]) for key, value in condition.items()}
        u, c = denoiser_of(net)(torch.cat([x, x]), t, both).chunk(2)
        return u + 3 * (c - u)

    return denoiser


@pytest.mark.parametrize(("denoiser", "words"), [
    (lambda net: lambda *args: denoiser_of(net)(*args) + denoiser_of(net)(*args), "more than once"),
    (lambda net: lambda x, t, condition: x, "did not call"),
    (by_hand, "4 rows for a batch of 2"),
])
def test_a_denoiser_calls_its_network_once_for_one_condition(denoiser, words):
    pipe = sd3()
    model = emag.guided(denoiser(pipe.transformer), EMAG(), path=sigmas_of(pipe), conditions=conditions(),
                        backbone=pipe.transformer)
    before = snapshot(pipe)
    with pytest.raises(Unsupported, match=words):
        model(first(), 0)
    assert changes(before, snapshot(pipe), own=False) == []


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda pipe: guided(pipe, EMAG(layers=(9,))), BadValue, "blocks 0 to 3"),
    (lambda pipe: guided(pipe, EMAG(window=emag.Window.progress(0, 0.99, 1))), BadValue, "window"),
    (lambda pipe: guided(pipe, METHODS["nag"](2.0)), Unsupported, "one condition at a time"),
    (lambda pipe: guided(pipe, *COLUMNS["autoguidance"].rules), Unsupported, "another network"),
    (lambda pipe: guided(pipe, backbone=torch.nn.Linear(2, 2)), Unsupported, r"Backbone\('Linear'"),
    (lambda pipe: guided(pipe, backbone="SD3Transformer2DModel"), BadValue, "names 0 parts"),
])
def test_what_cannot_work_is_refused_before_any_evaluation(make, kind, words):
    with pytest.raises(kind, match=words):
        make(sd3())


def test_a_branch_that_changes_nothing_is_an_error_at_the_last_level():
    """Skipped where the blocks add nothing: the weak branch is the clean one."""
    pipe = sd3()
    for part in (pipe.transformer.transformer_blocks[2].norm1, pipe.transformer.transformer_blocks[2].norm1_context):
        torch.nn.init.zeros_(part.linear.weight)
        torch.nn.init.zeros_(part.linear.bias)
    model, x = guided(pipe, METHODS["slg"](2.0, layers=(2,))), first()
    for i in range(STEPS - 1):
        x = model(x, i)
    with pytest.raises(NoEffect, match=r"blocks \[2\]"):
        model.check()
    with pytest.raises(NoEffect, match=r"blocks \[2\]"):
        model(x, STEPS - 1)


def test_a_change_of_batch_in_the_middle_of_a_run_is_refused():
    pipe = sd3()
    model = guided(pipe, EMAG(), conditions=conditions((8,)))
    model(first((8,)), 0)
    model.conditions = conditions()
    with pytest.raises(BadValue, match="1 rows at the start"):
        model(first(), 1)


def test_a_network_serves_one_at_a_time():
    pipe, errors = sd3(), []

    def denoiser(x, t, condition):
        with pytest.raises(Busy), emag.guide(pipe, EMAG()):
            pipe(**sd3_call())
        errors.append(1)
        return denoiser_of(pipe.transformer)(x, t, condition)

    emag.guided(denoiser, EMAG(), path=sigmas_of(pipe), conditions=conditions(), backbone=pipe.transformer)(first(), 0)
    assert errors


def test_an_energy_through_the_network_is_the_pipelines():
    """Its passes are the function's own, with what works inside the attention, and are counted."""
    rules = METHODS["pladis"](2.0, layers=(1,)), emag.CFG(4.0), emag.Energy("colour:0.9:0.1:0.1", 1.0, "next", True)
    pipe = sd3()
    with emag.guide(pipe, *rules) as run:
        expected = pipe(**sd3_call()).images
    model = guided(pipe, *rules, decode=partial(decode, pipe))
    made = euler(model, first(), sigmas_of(pipe))
    assert (made - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert model.block_evaluations == run.stats.evaluations == model.plan.total
