"""A resumed pass equals a full one, and evaluations are as planned."""

import pytest

import emag
from cases import ALL, EMAG, EVERY, KINDS, WITH_UNCOND
from emag.methods.emag.compat import Compat
from invariant import CADS, close, same
from spy import Counter, attention_of, network_outputs
from tiny import CASES, sd3, sd3_call

pytestmark = pytest.mark.sampled(2)

# 4: a resumed pass equals a full one


def depths():
    return [pytest.param(case, k, id=f"{case.name}-{k}") for case in KINDS.values()
            for k in range(5 if "flux" in case.name or case.name == "true-cfg" else 4)]


@pytest.mark.parametrize(("case", "block"), depths())
@pytest.mark.parametrize("variant", ["query", "map"])
def test_a_resumed_weak_pass_equals_the_full_one(case, block, variant):
    pipe, results, weak = case.pipe(), [], []
    for resume in (True, False):
        with network_outputs(pipe) as seen:
            with emag.guide(pipe, EMAG(layers=(block,), variant=variant, compat=Compat(resume=resume))) as run:
                results.append(case.run(pipe))
        weak.append((seen, run.stats.evaluations))
    for resumed, full in zip(weak[0][0], weak[1][0], strict=True):
        same(case, resumed, full)
    same(case, *results)
    passes = sum(effect is not None for effect in run.stats.effects)
    assert weak[1][1] - weak[0][1] == passes * block


@ALL
def test_several_candidates_resume_at_the_first(case):
    """In full, both branches share one batched pass: more rows, so other rounding."""
    pipe, results = case.pipe(), []
    for resume in (True, False):
        rules = (EMAG(layers=(1, 3), compat=Compat(resume=resume)),
                 EMAG(1.4, variant="map", layers=(2, 3), compat=Compat(resume=resume)))
        with emag.guide(pipe, CADS, *rules):
            results.append(case.run(pipe))
    close(*results)


# 6: the counts


@EVERY
@pytest.mark.parametrize("rules", [(EMAG(),), (EMAG(), EMAG(1.2, variant="map", layers=(2, 3))), (CADS, EMAG(layers=(3,))),
                                   (EMAG(statistic="fixed", layers=(0, 3)),)], ids=["one", "two", "cads", "fixed"])
def test_evaluations_are_as_planned_and_as_counted_outside(case, rules):
    pipe, images = case.pipe(), 3
    counter = Counter(pipe.transformer, attention_of(case.name))
    with emag.guide(pipe, *rules) as run:
        case.run(pipe, (1, 2, 3))
    counted = sum(counter.blocks.values())
    assert counter.blocks == counter.attention
    assert counted % images == 0
    assert run.stats.evaluations == run.stats.planned == counted // images
    assert run.stats.clean == 8 * case.depth(pipe) * (2 if case.uncond else 1)


@WITH_UNCOND
def test_a_combiner_costs_nothing_more(case):
    pipe = case.pipe()
    counter = Counter(pipe.transformer, attention_of(case.name))
    with emag.guide(pipe, emag.CFG(3.0)) as run:
        case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == run.stats.clean == sum(counter.blocks.values()) // 2


@pytest.mark.slow
def test_the_published_schedule_costs_24_percent():
    pipe = sd3(24)
    counter = Counter(pipe.transformer, "attn")
    pipe(**sd3_call((1,), num_inference_steps=28))
    assert sum(counter.blocks.values()) == 1344
    counter.blocks.clear()
    with emag.guide(pipe, emag.EMAG(layers=(6, 7, 8))) as run:
        assert [rule.scale for rule in run.resolved] == [1.5]
        pipe(**sd3_call((1,), num_inference_steps=28))
    assert sum(counter.blocks.values()) == run.stats.evaluations == run.stats.planned == 1668
    assert run.stats.clean == 1344
    assert [effect is not None for effect in run.stats.effects].count(True) == 18
    assert counter.blocks[5] == 56 and counter.blocks[6] == 74


def test_the_published_blocks_are_the_default():
    with emag.guide(sd3(24), emag.EMAG()) as run:
        assert run.resolved[0].layers == (6, 7, 8)
    with emag.guide(CASES["dit"].pipe(layers=28), emag.EMAG()) as run:
        assert run.resolved[0].layers == (12, 13, 14, 15)
