"""Two networks in one guidance, or one with and without its LoRA: limits, identities, cost, and that nothing is left."""

import pytest
import torch

from emag.core import COND, UNCOND
from emag.errors import BadValue, NoEffect, Unsupported
from emag.maths.predictions import convert
from emag.methods.combining.hm_cfg import HMCFG
from emag.methods.common.other_model import OtherModel
from emag.methods.null.domain import Domain
from emag.methods.null.personalization import Personalization
from emag.methods.null.priors import Priors
from emag.methods.null.rlg import RLG
from emag.methods.null.unguide import UnGuide
from emag.methods.weak.autoguidance import Autoguidance
from emag.methods.weak.sine import SINE
from emag.schedules import MAMBOG, Interval
from reference import SPACES, at_step, tensors
from second_network import CFG, close, draw, evaluate, made_up, never, plain, same, tuned, with_lora, without_lora
from spy import network_outputs, scheduler_steps
from tiny import CASES, noise, sd3

EMPTY = {"encoder_hidden_states": noise(900, 1, 5, 12), "pooled_projections": noise(950, 1, 10)}  # the cases' negative
OTHERS = {"encoder_hidden_states": noise(77, 1, 5, 12), "pooled_projections": noise(78, 1, 10)}


EVERY = (Autoguidance(2.5), SINE(0.7), Domain(), Priors(), Personalization(), RLG(1.6), UnGuide(-1.0))


@pytest.mark.parametrize("rule", [*EVERY, HMCFG(3.0, 2.0), HMCFG(3.0, 2.0, minus="base", text="word"),
                                  HMCFG(3.0, 2.0, minus="own null")], ids=str)
def test_all_spaces_give_one_result(rule):
    """What mixes two networks is affine: the same in every space."""
    rules = (rule,) if rule.kind == "combining" else (rule, CFG(4.0))
    for path, spaces in SPACES.items():
        known = at_step(path, "x0")
        given = made_up(*rules)
        expected = evaluate(rules, given, known)
        for space in spaces:
            step = at_step(path, space)
            there = {name: convert(p, step.x, step.alpha, step.sigma, "x0", space) for name, p in given.items()}
            back = convert(evaluate(rules, there, step), step.x, step.alpha, step.sigma, space, "x0")
            close(back, expected, atol=1e-9, rtol=1e-9)


# autoguidance


def test_at_scale_one_the_guide_is_not_evaluated():
    """Nor is it outside its interval."""
    assert torch.equal(draw(sd3(), Autoguidance(1.0), models={"guide": never})[0], plain(sd3()))
    rule = Autoguidance(Interval(2.0, 0.0, 0.5, "progress"))
    _, stats = draw(sd3(), rule, models={"guide": tuned().transformer}, num_inference_steps=4)
    assert stats.evaluations == 4 * (4 * 2 + 2)
    with pytest.raises(AssertionError, match="evaluated"):
        draw(sd3(), Autoguidance(2.0), models={"guide": never})


def test_a_guide_equal_to_the_network_is_no_guidance():
    rule, p = Autoguidance(7.0), tensors(2, 1)[0].double()
    assert torch.equal(evaluate((rule,), {COND: p, rule.weak[0]: p.clone()}, at_step()), p)
    with pytest.raises(NoEffect, match="'guide' predicts what the pipeline's own does"):
        draw(sd3(), rule, models={"guide": sd3().transformer})


@pytest.mark.slow
def test_main_and_guide_swap_with_one_minus_the_scale():
    alone = {"guidance_scale": 1.0}
    one, _ = draw(sd3(), Autoguidance(0.25), models={"guide": tuned().transformer}, **alone)
    two, _ = draw(tuned(), Autoguidance(0.75), models={"guide": sd3().transformer}, **alone)
    same(one, two)
    zero, _ = draw(sd3(), Autoguidance(0.0), models={"guide": tuned().transformer}, **alone)
    same(zero, plain(tuned(), **alone))


def test_autoguidance_is_the_formula_under_the_hosts_cfg():
    """u + g (D_g + w (D_m - D_g) - u), the guide on the conditional rows with the same condition."""
    pipe, guide, seen = sd3(), tuned().transformer, []

    def recording(**call):
        seen.append((call, guide(**call)))
        return seen[-1][1]

    with network_outputs(pipe) as own, scheduler_steps(pipe) as steps:
        draw(pipe, Autoguidance(2.5), models={"guide": recording})
    text = CASES["sd3"].call()["prompt_embeds"]
    for output, (call, answer), step in zip(own, seen, steps, strict=True):
        (uncond, cond), weak = output.chunk(2), answer[0]
        assert torch.equal(call["encoder_hidden_states"], text)
        close(step, uncond + 4 * (weak + 2.5 * (cond - weak) - uncond), atol=5e-4, rtol=1e-4)


def test_a_guide_with_less_lora_is_that_network():
    pipe = with_lora(sd3())
    base = without_lora(pipe)
    same(draw(pipe, Autoguidance(2.0, "lora:0"))[0], draw(pipe, Autoguidance(2.0, "base"), models={"base": base})[0])


# SINE


def test_sine_mixes_the_conditional_predictions():
    """u + w (v p + (1 - v) e(c*) - u)."""
    rule = SINE(0.7)
    found = made_up(rule)
    p, u, e = found[COND], found[UNCOND], found[OtherModel("tuned", condition="source")]
    close(evaluate((rule, CFG(5.0)), found, at_step()), u + 5 * (0.7 * p + 0.3 * e - u), atol=1e-12, rtol=1e-12)


def test_sine_ends_at_the_tuned_network_under_its_own_text():
    given = {"models": {"tuned": tuned().transformer}, "conditions": {"source": OTHERS}}
    made, _ = draw(sd3(), SINE(0.0), **given, guidance_scale=1.0)
    rows = {"prompt_embeds": OTHERS["encoder_hidden_states"].expand(2, -1, -1),
            "pooled_prompt_embeds": OTHERS["pooled_projections"].expand(2, -1)}
    same(made, plain(tuned(), guidance_scale=1.0, **rows))


# reinforcement-learning guidance


def test_rlg_ends_at_the_two_networks_under_cfg():
    """0 is the reference, 1 the pipeline's own, both with the host's CFG or with ours."""
    base = sd3().transformer
    same(draw(tuned(), RLG(0.0, "base"), models={"base": base})[0], plain(sd3()))
    same(draw(tuned(), RLG(0.0, "base"), CFG(4.0), models={"base": base})[0], plain(sd3()))
    assert torch.equal(draw(tuned(), RLG(1.0, "base"), models={"base": never})[0], plain(tuned()))


@pytest.mark.parametrize("kind", [RLG, UnGuide])
@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.4, 2.0])
def test_mixing_and_cfg_commute(kind, scale):
    rule = kind(scale)
    found = made_up(rule)
    p, u, (q, r) = found[COND], found[UNCOND], (found[branch] for branch in rule.weak)
    own, reference = u + 4.5 * (p - u), r + 4.5 * (q - r)
    close(evaluate((rule, CFG(4.5)), found, at_step()), reference + scale * (own - reference), atol=1e-12, rtol=1e-12)


def test_rlg_by_lora_is_rlg_by_a_second_network():
    pipe = with_lora(sd3())
    one, stats = draw(pipe, RLG(1.6, "lora:0"), CFG(4.5))
    two, _ = draw(pipe, RLG(1.6, "base"), CFG(4.5), models={"base": without_lora(pipe)})
    same(one, two)
    assert stats.evaluations == 3 * 4 * 4  # four evaluations a step, as published
    assert not torch.allclose(one, plain(with_lora(sd3()), guidance_scale=4.5), atol=1e-2)


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_a_lora_of_zeros_changes_nothing_and_is_told(scale):
    pipe, reference = with_lora(sd3(), zero=True), sd3()
    with scheduler_steps(reference) as expected:
        plain(reference)
    with scheduler_steps(pipe) as steps, pytest.raises(NoEffect):
        draw(pipe, RLG(scale))
    for one, two in zip(steps, expected, strict=True):
        same(one, two)


def test_a_schedule_of_time_switches_it_and_one_that_measures_is_refused():
    """Where it is off the tuned network is alone, and nothing more is evaluated."""
    rule = RLG(Interval(1.6, 0.5, 1.0, "progress"), "base")
    _, stats = draw(tuned(), rule, models={"base": sd3().transformer}, num_inference_steps=4)
    assert stats.evaluations == 4 * (4 * 2 + 2 * 2)
    with pytest.raises(BadValue, match="measures the predictions"):
        RLG(MAMBOG(2.0), "base")


def test_hosts_with_two_calls_need_the_empty_condition_by_name():
    case, base = CASES["true-cfg"], CASES["true-cfg"].pipe(seed=1).transformer
    for rule in (RLG(2.0, "base"), Priors("base"), HMCFG(2.0)):
        with pytest.raises(Unsupported, match=f"{rule.name} .* in one network call"):
            draw(case.pipe(), rule, models={"base": never}, case="true-cfg")
    found = {"models": {"base": base}, "case": "true-cfg", "conditions": {"empty": EMPTY}}
    same(draw(case.pipe(), RLG(0.0, "base", "empty"), **found)[0], plain(case.pipe(seed=1), "true-cfg"))
    same(draw(case.pipe(), RLG(0.0, "base", "empty"), CFG(4.0), **found)[0], plain(case.pipe(seed=1), "true-cfg"))
