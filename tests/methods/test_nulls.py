"""The unconditional branch: who gives it, who rewrites it, who reads it, on one call, two calls and none."""

import pytest
import torch

import emag
from emag.errors import BadValue, NoEffect, Unsupported
from emag.methods import METHODS
from emag.records import recipe
from emag.schedules import Interval
from spy import network_outputs
from tiny import CASES, noise, sd3

BOTH = pytest.mark.parametrize("name", ["sd3", "dit", "true-cfg"])


def run(name, *rules, **more):
    case = CASES[name]
    pipe = case.pipe()
    with emag.guide(pipe, *map(parsed, rules), **more) as handle:
        return case.run(pipe), handle.stats


def parsed(rule):
    return recipe.parse(rule) if isinstance(rule, str) else rule


@BOTH
@pytest.mark.parametrize("rewriter", ["tcfg", "zero-star"])
def test_a_rewriter_rests_where_nothing_reads_what_it_rewrites(name, rewriter):
    made, stats = run(name, rewriter, emag.CFG(Interval(4.0, 0.2, 0.7, "progress")))
    assert stats.evaluations == stats.planned < stats.clean and made.isfinite().all()
    off, _ = run(name, rewriter, "cfg=1")
    assert torch.equal(off, run(name, "cfg=1")[0])


@pytest.mark.parametrize(("rules", "words"), [
    (("tcfg", "ag=-2", "cfg=4"), "name ag before"), (("zero-star", "linear-ag", "cfg=4"), "name linear-ag before"),
    (("tcfg", "icg", "cfg=4"), "name icg before"), (("linear-ag", "cfg-cache", "cfg=4"), "keep one")])
def test_who_gives_comes_first_and_alone(rules, words):
    with pytest.raises(BadValue, match=words), emag.guide(sd3(), *map(recipe.parse, rules)):
        pass


@BOTH
@pytest.mark.parametrize("giver", ["ag=-2", "cfg-cache", "linear-ag", "icg=label"])
def test_a_rewriter_after_a_giver(name, giver):
    if (giver == "icg=label") == (name != "dit"):
        giver = "icg"
    if name == "dit" and giver == "icg":
        giver = "icg=label"
    made, stats = run(name, giver, "tcfg", "cfg=4")
    assert made.isfinite().all() and stats.evaluations <= stats.planned


@pytest.mark.parametrize("rules", [("cfg=1",), (emag.CFG(Interval(4.0, 0.2, 0.7, "progress")),)], ids=["off", "interval"])
def test_two_models_act_where_nothing_reads_the_unconditional_one(rules):
    """As `Autoguidance` with the same network does: the formula is the same for the conditional prediction."""
    base = CASES["sd3"].pipe(seed=1).transformer
    rlg, _ = run("sd3", METHODS["rlg"](2.0, "base"), "cfg=1", models={"base": base})
    auto, _ = run("sd3", METHODS["autoguidance"](2.0, model="base"), "cfg=1", models={"base": base})
    torch.testing.assert_close(rlg, auto, atol=1e-4 * float(auto.abs().max()), rtol=1e-4)
    acts, stats = run("sd3", METHODS["rlg"](2.0, "base"), *rules, models={"base": base})
    assert stats.evaluations == stats.planned and not torch.allclose(acts, run("sd3", *rules)[0], atol=1e-3)


def test_a_distilled_network_refuses_what_only_its_own_noise_levels_ask_for():
    for low, high in ((0.9515, 0.9575), (0.5, 0.9)):
        with pytest.raises(BadValue, match=r"unconditional|has none"):
            run("flux", emag.CFG(Interval(4.0, low, high, "sigma")))


def test_a_partly_given_condition_is_noised_once():
    cads, seen = emag.CADS(0.3, 0.1, 0.95, 0.5), []
    case = CASES["sd3"]
    pipe = case.pipe()
    original = pipe.transformer.forward

    def forward(*args, **kwargs):
        seen.append(kwargs["pooled_projections"].clone())
        return original(*args, **kwargs)

    pipe.transformer.__dict__["forward"] = forward
    other = {"encoder_hidden_states": noise(70, 1, 5, 12)}
    with emag.guide(pipe, cads, METHODS["negative"](1.5, "other"), conditions={"other": other}):
        case.run(pipe)
    for clean, weak in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(clean[2:], weak)


def test_what_works_inside_one_network_is_refused_beside_another():
    models = {"guide": CASES["sd3"].pipe(seed=1).transformer}
    with pytest.raises(Unsupported, match="pladis works inside"):
        run("sd3", "pladis", "autoguidance=2", models=models)
    with pytest.raises(Unsupported, match="cads works inside"):
        run("dit", "cads=0.1,tau1=0.2,tau2=0.8,psi=1", "autoguidance=2",
            models={"guide": CASES["dit"].pipe(seed=1).transformer})


@pytest.mark.parametrize("rule", ["emag=mambo-g:4,layers=1-2,window=progress:0:0.2:0.9", "pag=mambo-g:4,layers=1"])
@pytest.mark.parametrize("name", ["sd3", "true-cfg"])
def test_a_measuring_schedule_under_the_hosts_own_guidance(name, rule):
    """Two calls as one: the first answer waits for the second."""
    host, _ = run(name, rule)
    ours, _ = run(name, rule, "cfg=4")
    torch.testing.assert_close(host, ours, atol=1e-3 * float(ours.abs().max()), rtol=1e-3)


def test_no_effect_is_judged_by_all_steps():
    """A change too small to tell at the first step, but not later."""
    made, stats = run("sd3", METHODS["tsg"](1.5, strength=5e-4))
    assert stats.effects[0][0] < 5e-4 < max(max(row) for row in stats.effects)
    with pytest.raises(NoEffect):
        run("sd3", METHODS["tsg"](1.5, strength=1e-7))
    assert made.isfinite().all()


def test_conditions_that_take_turns_need_not_all_get_one():
    own = {"encoder_hidden_states": noise(70, 1, 5, 12), "pooled_projections": noise(71, 1, 10)}
    rule = METHODS["icg"]("given", ("a", "b", "c"))
    made, _ = run("sd3", rule, "cfg=4", conditions=dict.fromkeys("abc", own))
    pipe, case = sd3(), CASES["sd3"]
    with emag.guide(pipe, rule, emag.CFG(4.0), conditions=dict.fromkeys("abc", own)):
        case.run(pipe, num_inference_steps=2)
    assert made.isfinite().all()


def test_attention_of_every_pass_reaches_the_hosts_third_call():
    """SD3's own skip-layer guidance evaluates the network once more: the same network, PLADIS included."""
    case, pipe = CASES["sd3"], sd3()
    with network_outputs(pipe) as answers, emag.guide(pipe, recipe.parse("pladis=2")):
        case.run(pipe, skip_guidance_layers=[], skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0)
    third = [answer for answer in answers if len(answer) == 2]
    clean = [answer[2:] for answer in answers if len(answer) == 4]
    assert third
    torch.testing.assert_close(third[0], clean[1], atol=2e-4 * float(clean[1].abs().max()), rtol=1e-4)


def test_records_name_what_they_cannot_hold():
    case, pipe = CASES["sd3"], sd3()
    with emag.guide(pipe, METHODS["autoguidance"](2.0), models={"guide": sd3(seed=1).transformer}) as handle:
        case.run(pipe)
    assert "guide" in handle.record["unrecorded"]


@pytest.mark.parametrize("rule", ["pag=2,layers=1", "pag=2,layers=1,form=joint", "seg=2,layers=1"])
def test_weak_attention_under_autocast(rule):
    """Query and key norms leave fp32 beside 16-bit values."""
    case, pipe = CASES["sd3"], sd3()
    with torch.autocast("cpu", dtype=torch.bfloat16), emag.guide(pipe, recipe.parse(rule)) as handle:
        assert case.run(pipe).isfinite().all() and handle.stats.effect > 0


def test_semantic_regions_do_not_depend_on_batch_mates():
    """Ties of the maps by a rounding error are ties; and nothing spares the maps of the unconditional rows."""
    case, scfg = CASES["sd3"], "s-cfg=4,layers=1-2"
    for rules in ((scfg,), ("ag=0.3", "emag=1.5,layers=1-2,window=progress:0:0.2:0.9", scfg)):
        made = []
        for seeds in ((8, 9), (9,)):
            pipe = case.pipe()
            with emag.guide(pipe, *map(recipe.parse, rules)):
                made.append(case.run(pipe, seeds=seeds)[-1])
        torch.testing.assert_close(*made, atol=2e-4 * float(made[1].abs().max()), rtol=1e-4)
