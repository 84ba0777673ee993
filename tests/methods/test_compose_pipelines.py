"""Several conditions at work in pipelines."""

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.maths.layout import unpack
from emag.methods.combining.compose import Compose, Term
from emag.methods.combining.compositional import (
    compositional,
    instruct_pix2pix,
    late_negative,
)
from emag.methods.combining.cs_apg import CSAPG
from emag.schedules import Interval
from reference import at_step, scheduler_steps
from several import NAMES, plain_sum, same
from spy import Counter, attention_of
from tiny import CASES, noise

# at work in pipelines


PIPES = ("sd3", "dit", "pixart", "true-cfg")


def tensors_of(case, seed):
    """A further condition of a pipeline of this kind, for one image."""
    if case == "dit":
        return {"class_labels": torch.tensor([seed % 1000])}
    if case == "pixart":
        return {"encoder_hidden_states": noise(seed, 1, 5, 12), "encoder_attention_mask": torch.ones(1, 5)}
    pooled = {"pooled_projections": noise(seed + 1, 1, 10)} if case in ("sd3", "true-cfg") else {}
    return {"encoder_hidden_states": noise(seed, 1, 5, 12), **pooled}


def alone(case, condition, scale=1.0):
    """What the scheduler gets at the first step of a pipeline whose own condition this is, for both images."""
    named = {"encoder_hidden_states": "prompt_embeds", "pooled_projections": "pooled_prompt_embeds",
             "encoder_attention_mask": "prompt_attention_mask"}
    if case == "dit":
        own = {"class_labels": condition["class_labels"].tolist() * 2}
    else:
        own = {named[key]: torch.cat([value, value]) for key, value in condition.items()}
    return run(case, (emag.CFG(scale),), {}, **own)[1][0].prediction


def given(case):
    return {name: tensors_of(case, 300 + 7 * i) for i, name in enumerate(NAMES)}


def run(case, rules, conditions=None, masks=None, **more):
    """Latents under `rules`, what the scheduler got, the finished run, and blocks evaluated as counted from outside."""
    pipe = CASES[case].pipe()
    counter = Counter(pipe.transformer, attention_of(case))
    with emag.guide(pipe, *rules, conditions=given(case) if conditions is None else conditions, masks=masks) as handle:
        with scheduler_steps(pipe) as seen:
            image = CASES[case].run(pipe, **more)
    return image, seen, handle.stats, sum(counter.blocks.values())


@pytest.mark.parametrize("case", PIPES)
@pytest.mark.parametrize(("rule", "rows"), [
    (compositional({COND: 3.0, "a": 2.0, "b": -1.0}), [4] * 8), (Compose(COND, (Term(2.0, "a", "b"),)), [3] * 8),
    (instruct_pix2pix("a", 3.0, 3.0), [2] * 8), (instruct_pix2pix("a", 1.0, 1.0), [1] * 8),
    (late_negative("a", 4.0, 0.25, 0.75), [2] * 8),
    (Compose("a", (Term(Interval(3.0, 0.25, 0.5, "progress"), COND, "a"),)), [1, 1, 2, 2, 1, 1, 1, 1]),
    (CSAPG(3.0, 2.0, "a"), [3] * 8)], ids=["three", "two", "merged", "off", "phase", "interval", "projected"])
def test_one_evaluation_for_each_condition_that_weighs(case, rule, rows):
    images, _, stats, counted = run(case, (rule,))
    assert counted == 2 * CASES[case].depth(CASES[case].pipe()) * sum(rows)
    assert images.isfinite().all() and stats.evaluations == stats.planned == counted // 2


@pytest.mark.parametrize("case", PIPES)
def test_a_pipeline_makes_what_the_formula_says(case):
    """The first step's prediction, out of those that the pipeline makes with each condition as its own."""
    one = {name: alone(case, condition) for name, condition in given(case).items()}
    one[COND], one[UNCOND] = (run(case, (emag.CFG(scale),))[1][0].prediction for scale in (1.0, 0.0))
    for rule in (compositional({COND: 3.0, "a": 2.0, "b": -1.5}), Compose("a", (Term(2.0, "b", "c"), Term(1.5, "c")))):
        found = run(case, (rule,))[1][0].prediction
        expected = plain_sum(rule, one, at_step(x=one[COND]))
        torch.testing.assert_close(found, expected.to(found.dtype), atol=2e-4, rtol=2e-4)
        assert not torch.allclose(found, one[COND], atol=0.05)


@pytest.mark.parametrize("case", PIPES)
def test_a_weak_branch_beside_a_condition_is_what_it_is_alone(case):
    """A further condition leaves no trace in what EMAG resumes from or averages."""
    weak, few = emag.EMAG(2.0, layers=(1, 2), window=emag.Window.progress(0, 0.2, 0.9)), {"num_inference_steps": 5}
    cfg, more = Term(2.0, COND), Term(1e-9, "a", "b")
    for order in (1, -1):
        plain, beside = ((weak, Compose(UNCOND, terms))[::order] for terms in ((cfg,), (cfg, more)))
        same(run(case, beside, **few)[0], run(case, plain, **few)[0])


@pytest.mark.parametrize("case", PIPES)
def test_a_row_is_the_image_made_alone(case):
    rules, few = (compositional({COND: 2.0, "a": 1.0, "b": -0.5}),), {"num_inference_steps": 4}
    both = run(case, rules, seeds=(8, 9), **few)[0]
    for i, seed in enumerate((8, 9)):
        alone = run(case, rules, seeds=(seed,), **few)[0]
        same(both[i:i + 1], alone)


@pytest.mark.parametrize("case", PIPES)
def test_each_image_has_its_own_condition(case):
    rules, few = (compositional({COND: 2.0, "a": 1.0}),), {"num_inference_steps": 4}
    one, two = tensors_of(case, 300), tensors_of(case, 400)
    own = {"a": {name: torch.cat([one[name], two[name]]) for name in one}}
    both = run(case, rules, own, seeds=(8, 9), **few)[0]
    for i, (seed, condition) in enumerate(((8, one), (9, two))):
        alone = run(case, rules, {"a": condition}, seeds=(seed,), **few)[0]
        same(both[i:i + 1], alone)


@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
def test_masks_hold_in_a_pipeline(case):
    """On the first step the guided prediction differs from the one without the masked term in the masked half only."""
    base, more = (Term(3.0, COND),), Term(2.0, "a", UNCOND, "left*box:0:0:1:1")
    masks = {"left": torch.tensor([[1.0, 0.0]])}
    plain = run(case, (Compose(UNCOND, base),))[1][0].prediction
    masked = run(case, (Compose(UNCOND, (*base, more)),), masks=masks)[1][0].prediction
    step = at_step(grid=(4, 4, 2) if case == "true-cfg" else None)
    apart = unpack(masked - plain, step)
    half = apart.shape[-1] // 2
    assert (apart[..., half:] == 0).all() and apart[..., :half].abs().flatten(1).amax(1).min() > 1e-3


@pytest.mark.parametrize("case", PIPES)
def test_the_images_own_condition_is_no_further_condition(case):
    call = CASES[case].call((8, 9))
    own = {"class_labels": torch.tensor(call["class_labels"])} if case == "dit" else {
        "encoder_hidden_states": call["prompt_embeds"]}
    if case in ("sd3", "true-cfg"):
        own["pooled_projections"] = call["pooled_prompt_embeds"]
    if case == "pixart":
        own["encoder_attention_mask"] = call["prompt_attention_mask"]
    with pytest.raises(emag.NoEffect, match="'a' is the one the images are made with"):
        run(case, (compositional({COND: 2.0, "a": 2.0}),), {"a": own})


def test_it_takes_the_running_prediction():
    """A weak rule before it moves "cond", and nothing else."""
    weak = emag.EMAG(3.0, layers=(1, 2), window=emag.Window.progress(0, 0.2, 0.9))
    composed, plain = run("sd3", (weak, compositional({COND: 3.0})))[0], run("sd3", (weak, emag.CFG(3.0)))[0]
    torch.testing.assert_close(composed, plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(composed, run("sd3", (compositional({COND: 3.0}),))[0], atol=1e-3)
