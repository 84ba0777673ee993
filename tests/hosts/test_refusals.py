"""What cannot work is said before a run: where it is named, or at the call before the network is, never in the middle."""

import json

import pytest
import torch
from safetensors.torch import save_file

import emag
from emag.errors import BadValue, EmagError, NoEffect
from emag.lab.draw.columns import Column, rehearse
from emag.lab.draw.sampling import DrawSettings, Job
from emag.lab.evaluate.spec import parse, read_spec
from emag.methods import METHODS as C
from emag.methods.combining.compose import Compose, Term
from emag.records.recipe import read_rules
from emag.schedules import MAMBOG, Annealing, BetaCFG, Constant, Curve, Interval, NoisePower
from emag.testing.cases import every
from spy import attribute, denoiser_of, network_outputs, scheduler_steps
from tiny import CASES

ALL = every()
LATE = Interval(2.0, 0.6, 1.0, "progress")  # nothing of it is evaluated before the middle of a run


def refused(name, *rules, error=EmagError, match="", evaluated=0, **call):
    """Refused by the call of a pipeline, after so many evaluations of its network were begun."""
    case, begun = ALL[name], []
    pipe = case.pipe()
    network = denoiser_of(pipe)
    own = network.forward

    def counting(*args, **kwargs):
        begun.append(1)
        return own(*args, **kwargs)

    with attribute(network, "forward", counting):
        with pytest.raises(error, match=match), emag.guide(pipe, *rules, masks={"mine": torch.ones(3, 3, 3)}):
            case.run(pipe, **{"num_inference_steps": 6, **call})
    assert len(begun) == evaluated


def named(name, *rules, error=EmagError, match=""):
    """Refused where the rules are named."""
    with pytest.raises(error, match=match):
        emag.guide(ALL[name].pipe(), *rules)


@pytest.mark.parametrize(("name", "rule", "match"), [
    ("dit", C["s-cfg"](LATE, layers=(1,)), "needs text tokens"), ("wan", C["s-cfg"](3.0), "needs text tokens"),
    ("dit", C["pladis"](layers=(1,), cross=False), "needs text"), ("sd3", C["icg"]("label"), "no class labels"),
    ("pixart", C["nag"](layers=(1,), cross=False), "needs text"), ("dit", C["icg"]("gaussian"), "class labels"),
    ("sd3", C["vsf"](layers=(1,), cross=True), "no cross-attention"), ("sd3", C["spg"](style="nowhere"), "cannot read"),
    ("sd3", C["pag"](LATE, layers=(1,), heads=(2,)), "0 to 1"), ("sd3", emag.CFG(Annealing(0.4, "nowhere")), "cannot read"),
    ("sd3", C["pag"](1.3, layers=(40,)), "blocks 0 to 3"),
])
def test_what_the_network_tells_is_said_where_rules_are_named(name, rule, match):
    named(name, rule, match=match)


@pytest.mark.parametrize(("name", "rules", "match"), [
    ("sd3", (C["autoguidance"](LATE, model="lora:0.5"),), "no LoRA adapter"),
    ("sd3", (C["personalization"](),), "no LoRA adapter"), ("sd3", (C["rlg"](LATE, model="lora:0"),), "no LoRA adapter"),
    ("flux", (C["slg"](MAMBOG(2.0), layers=(1,)),), "reads the unconditional"),
    ("flux", (C["pag"](BetaCFG(2.0), layers=(1,)),), "reads the unconditional"),
    ("sd3", (Compose("uncond", (Term(LATE, "cond", "uncond", "frames:0:0.5"),)),), "single images"),
    ("sd3", (Compose("uncond", (Term(LATE, "cond", "uncond", "mine"),)),), "the mask 'mine' has shape"),
    ("sd3", (Compose("uncond", (Term(LATE, "cond", "uncond", "his"),)),), "'his' was not given|names the mask 'his'"),
    ("cogvideox", (C["s-cfg"](LATE),), "is for images"), ("wan", (C["sag"](LATE),), "cannot place"),
    ("sd3", (C["linear-ag"](count=28), emag.CFG(LATE)), "for 28 steps and the run has 6"),
    ("sd3", (C["nag"](Interval(3.0, 0.9, 1.0, "progress"), alpha=0.5, sigma_end=0.9), emag.CFG(2.0)), "at every step"),
    ("sd", (C["icg"]("label"), emag.CFG(3.0)), "no class labels"),
])
def test_what_the_call_tells_is_said_before_the_network_is_called(name, rules, match):
    refused(name, *rules, match=match)


def test_so_is_a_branch_that_no_step_evaluates():
    refused("sd3", C["pag"](Interval(2.0, 5.0, 6.0), layers=(1,)), error=NoEffect, match="never evaluated")


def test_and_latents_of_a_style_of_another_shape(tmp_path):
    save_file({"latents": torch.zeros(1, 4, 2, 2)}, tmp_path / "style.safetensors")
    refused("sd3", C["spg"](LATE, str(tmp_path / "style.safetensors"), layers=(1,)), match="the style latents have shape")


@pytest.mark.parametrize(("name", "rule", "match"), [
    ("qwen", C["asag"](LATE, layers=(1,)), "has a mask"), ("qwen-edit-2511", C["tsg"](LATE), "embeds one per token"),
    ("ltx-image", C["tsg"](LATE), "embeds one per token"), ("sd3", C["s-cfg"](LATE, layers=(1,), bos=50), "text tokens"),
])
def test_what_only_the_network_shows_is_said_in_its_first_evaluation(name, rule, match):
    refused(name, rule, match=match, evaluated=1)


def test_a_schedule_that_measures_gets_the_prediction_it_measures():
    """Also at steps where the combining rule goes without it."""
    case = CASES["sd3"]
    with emag.guide(case.pipe(), C["pag"](MAMBOG(2.0), layers=(1,)), emag.CFG(LATE)) as run:
        assert case.run(run._pipe, num_inference_steps=6).isfinite().all()
    assert run.stats.evaluations == 6 * (4 * 2 + 3) == run.stats.planned


# schedules in rules that work before any prediction


def got(case, *rules):
    pipe = CASES[case].pipe()
    with scheduler_steps(pipe) as seen, emag.guide(pipe, *rules):
        CASES[case].run(pipe, num_inference_steps=4)
    return torch.stack(seen)


def nag(scale):
    return C["nag"](scale, 1.5, 0.7, 0.0, layers=(1, 2))


def cads(scale):
    return emag.CADS(scale, 0.1, 0.9, 0.5)


@pytest.mark.parametrize("rule", [nag, cads])
def test_a_constant_schedule_is_the_number(rule):
    assert torch.equal(got("sd3", rule(Constant(2.5))), got("sd3", rule(2.5)))


@pytest.mark.parametrize(("rule", "off"), [(nag, 1.0), (cads, 1.0)])
def test_an_interval_is_the_number_in_it_and_1_outside(rule, off):
    half = got("sd3", rule(Interval(2.5, 0.0, 0.5, "progress")))
    assert torch.equal(half[:2], got("sd3", rule(2.5))[:2])
    assert not torch.equal(half[2:], got("sd3", rule(2.5))[2:])
    assert torch.equal(got("sd3", rule(Interval(2.5, 0.5, 1.0, "progress")))[:2],
                       got("sd3", *([] if rule is nag else [rule(off)]))[:2])


def test_a_curve_takes_its_value_of_each_step():
    values = [NoisePower(2.0).known(step) for step in emag.engine.trajectory.Trajectory.even(4).places()]
    assert len(set(values)) == 4
    assert torch.equal(got("sd3", cads(Curve(0.4, "linear", convention="w")))[0], got("sd3", cads(0.0))[0])


@pytest.mark.parametrize("rule", [nag, cads])
@pytest.mark.parametrize("schedule", [MAMBOG(2.0), BetaCFG(2.0)])
def test_a_schedule_that_measures_predictions_is_refused_where_there_are_none(rule, schedule):
    with pytest.raises(BadValue, match="measures the predictions"):
        rule(schedule)
    rule(BetaCFG(2.0, gamma=0.0))  # measures nothing


# several recipes or columns: all are tried before any is drawn


def test_a_column_is_tried_without_an_evaluation():
    case = CASES["dit"]
    pipe = case.pipe()
    job, settings = Job("3", None, 8), DrawSettings(steps=4)
    with network_outputs(pipe) as seen:
        rehearse(pipe, Column.parse("emag=1.5,layers=1 cfg=3"), job, settings)
        for text, match in (("spg=2,style=nowhere cfg=3", "cannot read"), ("linear-ag,count=9 cfg=3", "for 9 steps"),
                            ("autoguidance=2,model=lora:0.5", "no LoRA"), ("cfg=2 apg=3", "keep one")):
            with pytest.raises(EmagError, match=match):
                rehearse(pipe, Column.parse(text), job, settings)
    assert seen == [] and "forward" not in vars(pipe.transformer)


# a name twice


def test_a_recipe_named_twice_is_refused(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("model: tiny\nclasses: [frog]\nimages: 2\nrecipes:\n  a: emag=1.5\n  b: apg=2\n  a: emag=2\n")
    with pytest.raises(BadValue, match="'a' is there twice"):
        read_spec(spec)
    spec.write_text("model: tiny\nclasses: [frog]\nimages: 2\nimages: 3\nrecipes: {a: emag=1.5}\n")
    with pytest.raises(BadValue, match="'images' is there twice"):
        read_spec(spec)
    spec.write_text("base: &b {guidance_scale: 2}\nmodel: tiny\nclasses: [frog]\nimages: 2\n"
                    "recipes: {a: {<<: *b, guidance_scale: 3}}\n")
    with pytest.raises(BadValue, match="base"):  # a merge is no repetition: it goes on to what is wrong with the spec
        read_spec(spec)


def test_a_rule_or_parameter_named_twice_in_json_is_refused(tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text('{"rules": [{"emag": {"scale": 1.5, "scale": 2}}]}')
    with pytest.raises(BadValue, match="'scale' is there twice"):
        read_rules(file)
    file.write_text(json.dumps({"rules": [{"pag": {"scale": 1.5}}, {"pag": {"scale": 2.0}}]}))
    assert len(read_rules(file)) == 2  # two rules of a kind are fine


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_spec_with_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(BadValue, match=r"guidance_scale cannot be (nan|inf); it is a number"):
        parse({"classes": ["frog"], "images": 2, "recipes": {"a": {"guidance_scale": scale}}})
