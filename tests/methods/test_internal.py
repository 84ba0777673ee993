"""Internal guidance: both predictions pushed away from those of a head half way through the same network."""

import pytest
import torch

import emag
from emag.core import COND, UNCOND, combine, with_null
from emag.errors import BadValue, Unsupported
from emag.methods.weak.internal import EarlyPrediction
from emag.schedules import Interval
from emag.testing.small_head import HEADED
from reference import at_step, scheduler_steps, tensors
from spy import attribute, network_outputs
from tiny import CASES

close = torch.testing.assert_close
W, G = 1.4, 1.35


def seen(space="x0"):
    final = dict(zip((COND, UNCOND), (t.double() for t in tensors(1, 2, 2, 4, 6, 6))))
    early = dict(zip((COND, UNCOND), (t.double() for t in tensors(2, 2, 2, 4, 6, 6))))
    return final, early, at_step(space=space, x=final[COND], seen={EarlyPrediction(): early})


def guided(rule, final, step):
    """What CFG makes of a step under the rule."""
    rules, states = (rule, emag.CFG(G)), [{}, {}]
    after = with_null(rules, final, step, states)
    return combine(rules, after[COND], after, step, states)


def test_both_predictions_are_pushed_and_then_combined():
    final, early, step = seen()
    c, u = (early[side] + W * (final[side] - early[side]) for side in (COND, UNCOND))
    close(guided(emag.InternalGuidance(W), final, step), u + G * (c - u))


def test_alone_it_is_the_extrapolation():
    final, early, step = seen()
    rule = emag.InternalGuidance(W)
    close(rule.apply(final[COND], {COND: final[COND]}, step, {}), early[COND] + W * (final[COND] - early[COND]))
    assert rule.new_null({COND: final[COND]}, step, {}) is None


def test_at_scale_1_and_with_equal_heads_nothing_changes():
    final, early, step = seen()
    plain = guided(emag.InternalGuidance(1.0), final, step)
    assert torch.equal(plain, combine((emag.CFG(G),), final[COND], final, step, [{}]))
    early.update({side: final[side].clone() for side in final})
    assert torch.equal(guided(emag.InternalGuidance(5.0), final, step), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays(dtype):
    step = seen()[2]
    made = emag.InternalGuidance(W).apply(torch.zeros(2, 4, 6, 6, dtype=dtype), {COND: torch.zeros(2, 4, 6, 6, dtype=dtype)},
                                          step, {})
    assert made.dtype == dtype and made.isfinite().all()


# whole runs


def test_the_scheduler_gets_its_formula_at_no_evaluation():
    """From what the head and the network really give, at every step."""
    pipe, heads = HEADED.pipe(), []
    head = pipe.transformer.early_head

    def forward(*args, original=head.forward):
        heads.append(original(*args))
        return heads[-1]

    with attribute(head, "forward", forward), network_outputs(pipe) as outputs, scheduler_steps(pipe) as steps, \
            emag.guide(pipe, emag.InternalGuidance(W), emag.CFG(G)) as run:
        HEADED.run(pipe)
    assert len(heads) == len(outputs) == len(steps) == 8
    assert run.stats.evaluations == run.stats.planned == run.stats.clean
    for early, final, step in zip(heads, outputs, steps):
        u, c = (early + W * (final - early)).chunk(2)
        close(step.prediction, u + G * (c - u), atol=1e-4, rtol=1e-4)


def test_beside_the_pipeline_s_own_guidance_and_a_schedule():
    pipe = HEADED.pipe()
    plain = HEADED.run(HEADED.pipe())
    early = Interval(W, 0.0, 0.4, "progress")
    with emag.guide(pipe, emag.InternalGuidance(early)):
        host = HEADED.run(pipe)
    with emag.guide(pipe, emag.InternalGuidance(early), emag.CFG(4.0)):
        ours = HEADED.run(pipe)
    close(host, ours, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(host, plain, atol=1e-2)
    with emag.guide(pipe, emag.InternalGuidance(1.0)):
        assert torch.equal(HEADED.run(pipe), plain)


def test_beside_a_weak_branch_the_head_is_the_clean_pass_s():
    pipe = HEADED.pipe()
    rules = emag.InternalGuidance(W), emag.SLG(1.3, (1,)), emag.CFG(G)
    with emag.guide(pipe, *rules) as run:
        together = HEADED.run(pipe)
    with emag.guide(pipe, rules[1], rules[0], rules[2]):
        close(HEADED.run(pipe), together, atol=1e-4, rtol=1e-4)
    assert run.stats.evaluations == run.stats.planned > run.stats.clean


# refused


@pytest.mark.parametrize("name", ["sd3", "dit", "pixart", "flux"])
def test_networks_without_a_head_are_refused(name):
    with pytest.raises(Unsupported, match="intermediate head"), \
            emag.guide(CASES[name].pipe(), emag.InternalGuidance(W)):
        pass


def test_the_embedded_models_have_no_head():
    with pytest.raises(Unsupported, match="intermediate head"), emag.guide(emag.load("tiny"), emag.InternalGuidance()):
        pass


def test_an_unconditional_prediction_of_another_origin_is_refused():
    pipe = HEADED.pipe()
    with pytest.raises(Unsupported, match="leave out what spares or replaces it"), \
            emag.guide(pipe, emag.ICG(), emag.InternalGuidance(W), emag.CFG(3.0)):
        HEADED.run(pipe)


@pytest.mark.parametrize("scale", [-1.0, float("inf"), emag.MAMBOG(2.0)])
def test_scales_are_checked(scale):
    with pytest.raises(BadValue):
        emag.InternalGuidance(scale)
