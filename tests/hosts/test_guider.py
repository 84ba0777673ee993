"""Our guiders in diffusers' modular loops: the same results as around standard pipelines and as diffusers' own guiders."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    LTX2Guidance,
    SkipLayerGuidance,
    TangentialClassifierFreeGuidance,
)
from diffusers.hooks import LayerSkipConfig

import emag
from cases import EMAG
from emag.engine.lock import hold
from emag.engine.undo import undone
from emag.hosts.guider import EmagGuider, WithWeak
from emag.methods.weak.pag import PAG
from emag.schedules import CFGpp, Interval
from modular import EXPERTS, MODULAR, rewound
from spy import attribute, changes, snapshot

pytestmark = pytest.mark.sampled(2)

ALL = pytest.mark.parametrize("modular", MODULAR.values(), ids=MODULAR.keys())
SD3 = MODULAR["sd3"]
CFG = emag.CFG(4.0)
PAGES = Path(__file__).parents[2] / "docs"


def near(got, want, share=1e-5):
    return torch.allclose(got, want, rtol=0, atol=share * float(want.abs().max()))


@pytest.fixture
def plain():
    """A small SD3 pipeline and what a modular loop needs to start where it does."""
    pipe = SD3.case.pipe()
    return pipe, SD3.standard(pipe)[1]


# The same as elsewhere


@ALL
@pytest.mark.parametrize("rules", [(EMAG(1.5), CFG), (emag.CADS(), EMAG(1.5), emag.APG(4.0))], ids=["cfg", "cads-apg"])
def test_a_modular_loop_gets_what_the_standard_pipeline_gets(modular, rules):
    pipe = modular.case.pipe()
    if modular.case.name == "z-image":  # a list of texts, which CADS does not take
        rules = [rule for rule in rules if rule.kind != "condition"]
    with emag.guide(pipe, *rules) as run:
        want, inputs = modular.standard(pipe)
    guider = EmagGuider(*rules)
    assert modular.near(modular.run(modular.pipe(pipe, guider), inputs), want)
    assert guider.stats.effect == pytest.approx(run.stats.effect, rel=0.2 if modular.steady else 1e-4)
    assert guider.stats.evaluations == guider.stats.planned == run.stats.evaluations


@ALL
def test_a_guider_of_diffusers_sees_our_conditional_prediction(modular):
    """As the standard pipeline's own CFG does; its rescale of each token included, where it has one."""
    pipe = modular.case.pipe()
    with emag.guide(pipe, EMAG(1.5)):
        want, inputs = modular.standard(pipe)
    guider = WithWeak(ClassifierFreeGuidance(4.0, use_original_formulation=modular.anchored), EMAG(1.5))
    assert modular.near(modular.run(modular.pipe(pipe, guider), inputs), want, 5)
    assert guider.stats.effect > 0


@pytest.mark.parametrize("name", [name for name, modular in MODULAR.items() if not modular.rescales])
def test_cfg_is_the_stock_guider(name):
    modular = MODULAR[name]
    pipe = modular.case.pipe()
    _, inputs = modular.standard(pipe)
    stock = modular.run(modular.pipe(pipe, ClassifierFreeGuidance(3.0)), inputs)
    got = modular.run(modular.pipe(pipe, EmagGuider(emag.CFG(3.0))), inputs)
    assert near(got[0], stock[0], 5e-7) and modular.near(got, stock, 2)


@pytest.mark.parametrize("name", ["sd3", "wan"])
def test_around_stock_cfg_it_is_our_cfg(name):
    modular = MODULAR[name]
    pipe = modular.case.pipe()
    _, inputs = modular.standard(pipe)
    ours = modular.run(modular.pipe(pipe, EmagGuider(EMAG(1.5), CFG)), inputs)
    assert near(modular.run(modular.pipe(pipe, WithWeak(ClassifierFreeGuidance(4.0), EMAG(1.5))), inputs), ours)


def test_a_standard_pipeline_may_take_a_guider():
    modular = MODULAR["hunyuan-video-1.5"]
    pipe = modular.case.pipe()
    with emag.guide(pipe, EMAG(1.5), CFG):
        want, _ = modular.standard(pipe)
    for guider in (EmagGuider(EMAG(1.5), CFG), WithWeak(ClassifierFreeGuidance(4.0), EMAG(1.5))):
        guider.attach(pipe)
        assert modular.near(modular.standard(pipe)[0], want) and guider.stats.effect > 0


def test_two_experts_are_one_run():
    pipe = EXPERTS.case.pipe()
    rules = EMAG(1.5, window=emag.Window.progress(0, 0.2)), CFG
    with emag.guide(pipe, *rules) as run:
        want, inputs = EXPERTS.standard(pipe)
    guider = EmagGuider(*rules)
    modular = EXPERTS.pipe(pipe, guider)
    assert modular.guider is modular.guider_2 is guider
    assert EXPERTS.near(EXPERTS.run(modular, inputs), want)
    assert guider.stats.steps == run.stats.steps and guider.stats.evaluations == run.stats.evaluations


STOCK = {"cfg": ClassifierFreeGuidance, "zero-star": ClassifierFreeZeroStarGuidance, "apg": AdaptiveProjectedGuidance,
         "tcfg": TangentialClassifierFreeGuidance}
STOCKS = pytest.mark.parametrize("name", STOCK)


@STOCKS
def test_every_stock_guider_combines_what_we_rewrote(name, plain):
    """One step: its own formula on our conditional and the network's unconditional prediction."""
    pipe, inputs = plain
    modular = SD3.pipe(pipe)

    def first(guider):
        guider.attach(modular) if hasattr(guider, "attach") else modular.update_components(guider=guider)
        return SD3.run(modular, inputs)[0]

    settings = {"zero_init_steps": 0} if name == "zero-star" else {}
    stock = STOCK[name](guidance_scale=4.0, **settings)
    cond, uncond = first(EmagGuider(PAG(2.0))), first(ClassifierFreeGuidance(0.0))
    reference = STOCK[name](guidance_scale=4.0, **settings)
    reference.set_state(0, 8, torch.tensor(1000.0))
    assert near(first(WithWeak(stock, PAG(2.0))), reference.forward(cond, uncond).pred)
    assert not near(cond, first(EmagGuider()), 1e-2)


def test_a_stock_guider_of_three_passes_keeps_them():
    """u + 4 (c' - u) + 2 (c' - skipped), at its first step with skipped layers: c' moves it 6/4 as far as CFG's."""
    wan = MODULAR["wan"]
    pipe = wan.case.pipe()
    _, inputs = wan.standard(pipe)
    rule = PAG(Interval(2.0, low=0.1, high=0.2, unit="progress"))

    def moved(make):
        alone, pushed = (wan.run(wan.pipe(pipe, guider), inputs) for guider in (make(), WithWeak(make(), rule)))
        assert torch.equal(pushed[0], alone[0])
        return pushed[1] - alone[1]

    skipping = moved(lambda: SkipLayerGuidance(4.0, 2.0, 0.0, 1.0, skip_layer_config=LayerSkipConfig([1], fqn="blocks")))
    assert near(skipping, 1.5 * moved(lambda: ClassifierFreeGuidance(4.0)), 1e-4) and float(skipping.abs().max()) > 0.1


@STOCKS
def test_neutral_weak_rules_leave_a_stock_guider_alone(name, plain):
    pipe, inputs = plain
    alone = SD3.run(SD3.pipe(pipe, STOCK[name](guidance_scale=4.0)), inputs)
    around = WithWeak(STOCK[name](guidance_scale=4.0), EMAG(1.0))
    assert torch.equal(SD3.run(SD3.pipe(pipe, around), inputs), alone)
    assert around._serving.latest is None


def test_neutral_rules_are_the_conditional_prediction(plain):
    pipe, inputs = plain
    before = snapshot(pipe)
    alone = SD3.run(SD3.pipe(pipe, ClassifierFreeGuidance(1.0)), inputs)
    for guider in (EmagGuider(), EmagGuider(EMAG(1.0)), EmagGuider(EMAG(1.5), CFG, enabled=False)):
        assert torch.equal(SD3.run(SD3.pipe(pipe, guider), inputs), alone)
        assert guider.num_conditions == 1 and guider._serving.latest is None
    assert changes(before, snapshot(pipe), own=False) == []


def test_a_guider_is_switched_off_and_on(plain):
    pipe, inputs = plain
    guider = EmagGuider(EMAG(1.5), CFG)
    modular = SD3.pipe(pipe, guider)
    on = SD3.run(modular, inputs)
    guider.disable()
    off = SD3.run(modular, inputs)
    assert torch.equal(off, SD3.run(SD3.pipe(pipe, EmagGuider()), inputs)) and guider.num_conditions == 1
    guider.enable()
    assert guider.num_conditions == 2 and torch.equal(SD3.run(modular, inputs), on)


def test_weak_rules_work_without_cfg(plain):
    """diffusers' PAG, SLG and SEG do nothing there."""
    pipe, inputs = plain
    with emag.guide(pipe, PAG(2.0)):
        want = SD3.standard(pipe, guidance_scale=1.0)[0]
    assert near(SD3.run(SD3.pipe(pipe, EmagGuider(PAG(2.0))), inputs), want)
    assert near(SD3.run(SD3.pipe(pipe, WithWeak(ClassifierFreeGuidance(1.0), PAG(2.0))), inputs), want)


def test_cfg_stays_on_to_the_end_of_a_second_order_run():
    """diffusers' own guider counts evaluations against steps, and ends half way."""
    wan = MODULAR["wan"]
    pipe = wan.case.pipe()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with emag.guide(pipe, EMAG(1.5), CFG) as run:
        want, inputs = wan.standard(pipe)
    guider = EmagGuider(EMAG(1.5), CFG)
    got = wan.run(wan.pipe(pipe, guider), inputs)
    assert len(got) == 15 and near(got, want)
    assert guider.stats.steps == run.stats.steps == 15


def test_a_scale_for_first_order_samplers_is_refused_on_another():
    wan, guider = MODULAR["wan"], EmagGuider(emag.CFG(CFGpp(0.6)))
    for scheduler in (None, FlowMatchHeunDiscreteScheduler()):
        pipe = wan.case.pipe()
        pipe.scheduler = scheduler or pipe.scheduler
        _, inputs = wan.standard(pipe)
        if scheduler is None:
            wan.run(wan.pipe(pipe, guider), inputs)
        else:
            with pytest.raises(emag.Unsupported, match="FlowMatchHeunDiscreteScheduler here is of a higher order"):
                wan.run(wan.pipe(pipe, guider), inputs)


def test_rows_do_not_see_each_other():
    pipe = SD3.case.pipe()
    (_, both), (_, one) = (SD3.standard(pipe, seeds=seeds) for seeds in ((8, 9), (9,)))
    for guider in (EmagGuider(emag.CADS(), EMAG(1.5), emag.APG(4.0)), WithWeak(ClassifierFreeGuidance(4.0), EMAG(1.5))):
        modular = SD3.pipe(pipe, guider)
        assert near(SD3.run(modular, both)[:, 1:], SD3.run(modular, one), 1e-4)


# Runs, and what is left of them


def test_runs_follow_each_other_and_leave_nothing(plain):
    pipe, inputs = plain
    guider = EmagGuider(EMAG(1.5), CFG)
    modular, before = SD3.pipe(pipe, guider), snapshot(pipe)
    first = SD3.run(modular, inputs)
    assert torch.equal(SD3.run(modular, inputs), first)
    assert changes(before, snapshot(pipe), own=False) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("make", [
    lambda: EmagGuider(EMAG(1.5), CFG), lambda: WithWeak(ClassifierFreeGuidance(4.0), EMAG(1.5))], ids=["ours", "around"])
def test_an_exception_in_a_weak_pass_leaves_nothing(make, error, plain):
    """The loops do not clean up then."""
    pipe, inputs = plain
    guider = make()
    modular, before = SD3.pipe(pipe, guider), snapshot(pipe)
    want, block = SD3.run(modular, inputs), pipe.transformer.transformer_blocks[3]
    forward, calls = block.forward, []

    def failing(*args, **kwargs):
        calls.append(len(kwargs["hidden_states"]))
        if len(calls) == 9:  # five steps of two calls: a weak one is among the first nine
            raise error("in the middle")
        return forward(*args, **kwargs)

    with attribute(block, "forward", failing), pytest.raises(error, match="in the middle"):
        SD3.run(modular, inputs)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(SD3.run(modular, inputs), want)


def test_a_run_that_broke_off_between_two_calls_is_forgotten(plain):
    """Nothing of ours is in the network then but what the next step takes away."""
    pipe, inputs = plain
    guider = EmagGuider(EMAG(1.5), CFG)
    modular, before = SD3.pipe(pipe, guider), snapshot(pipe)
    want = SD3.run(modular, inputs)
    rewound(pipe.scheduler)
    guider.set_state(0, 8, pipe.scheduler.timesteps[0])
    guider.prepare_inputs({"a": (torch.zeros(1), torch.ones(1))})
    guider.prepare_models(pipe.transformer)
    assert "forward" in vars(pipe.transformer)
    assert torch.equal(SD3.run(modular, inputs), want)
    assert changes(before, snapshot(pipe), own=False) == []


def test_no_effect_is_an_error(plain):
    pipe, inputs = plain
    for block in pipe.transformer.transformer_blocks:  # queries that do not move: their average is what they are
        torch.nn.init.zeros_(block.attn.norm_q.weight)
    for guider in (EmagGuider(EMAG(1.5), CFG), WithWeak(ClassifierFreeGuidance(4.0), EMAG(1.5))):
        with pytest.raises(emag.NoEffect, match="never differed"):
            SD3.run(SD3.pipe(pipe, guider), inputs)


def test_a_network_serves_one_run_at_a_time(plain):
    pipe, inputs = plain
    modular = SD3.pipe(pipe, EmagGuider(EMAG(1.5), CFG))

    def held(undo):
        hold(pipe.transformer, "somebody else", undo)
        with pytest.raises(emag.Busy, match="somebody else"):
            SD3.run(modular, inputs)

    undone(held)


# What is refused


def test_a_combining_rule_needs_unconditional_rows(plain):
    """Where none are given, this loop would hand both calls the same condition, unseen by diffusers' guiders."""
    pipe, inputs = plain
    modular = SD3.pipe(pipe, EmagGuider(CFG))
    with pytest.raises(emag.BadValue, match=r"cfg combines or measures conditional and unconditional .* negative prompt"):
        SD3.run(modular, {name: value for name, value in inputs.items() if "negative" not in name})
    assert EmagGuider(CFG).num_conditions == 2 and EmagGuider(EMAG(1.5)).num_conditions == 1


def test_a_guider_must_know_its_pipeline(plain):
    pipe, inputs = plain
    modular = SD3.pipe(pipe)
    modular.update_components(guider=EmagGuider(CFG))
    with pytest.raises(emag.BadValue, match=r"guider\.attach\(pipe\)"):
        SD3.run(modular, inputs)


def test_a_guider_serves_one_pipeline(plain):
    pipe, inputs = plain
    guider = EmagGuider(CFG)
    modular, other = SD3.pipe(pipe, guider), SD3.pipe(SD3.case.pipe(), guider)
    with pytest.raises(emag.BadValue, match="another pipeline"):
        SD3.run(modular, inputs)
    assert guider._serving.latest is None and other.guider is guider


def test_pipelines_that_take_no_such_guider():
    with pytest.raises(emag.Unsupported, match=r"no guider.*emag\.guide"):
        EmagGuider(CFG).attach(SD3.case.pipe())
    with pytest.raises(emag.Unsupported, match="EmagGuider"), emag.guide(SD3.pipe(SD3.case.pipe()), CFG):
        pass
    with pytest.raises(emag.Unsupported, match="passes of its own"):
        EmagGuider(CFG).attach(SimpleNamespace(guider=LTX2Guidance()))


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: EmagGuider(3), emag.BadValue, "made of rules"),
    (lambda: EmagGuider(CFG, recipe=[]), emag.BadValue, "not both"),
    (lambda: EmagGuider(CFG, emag.APG(2.0)), emag.BadValue, "keep one"),
    (lambda: EmagGuider(recipe=[{"emag": {"nonsense": 1}}]), emag.BadValue, "nonsense"),
    (lambda: WithWeak(ClassifierFreeGuidance(), CFG), emag.BadValue, "cfg does more"),
    (lambda: WithWeak(ClassifierFreeGuidance(), emag.CADS()), emag.BadValue, "cads does more"),
    (lambda: WithWeak(EmagGuider(CFG), EMAG()), emag.BadValue, "diffusers' guiders"),
    (lambda: WithWeak(LTX2Guidance(), EMAG()), emag.Unsupported, "LTX2Guidance"),
    (lambda: WithWeak({"_class_name": "ConfigMixin"}, EMAG()), emag.BadValue, "ConfigMixin"),
])
def test_what_no_guider_is_made_of(make, error, match):
    with pytest.raises(error, match=match):
        make()


# As data


def test_a_guider_is_its_recipe(tmp_path):
    guider = EmagGuider([EMAG(1.5), emag.CFG(3.0)])
    guider.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "guider_config.json").read_text())["recipe"] == guider.config.recipe
    for again in (EmagGuider.from_pretrained(tmp_path), guider.new()):
        assert again.rules == guider.rules == (EMAG(1.5), emag.CFG(3.0)) and again is not guider


@pytest.mark.parametrize("stock", [
    AdaptiveProjectedGuidance(3.0, eta=0.5), SkipLayerGuidance(2.0, skip_layer_config=LayerSkipConfig(indices=[1]))])
def test_a_guider_around_another_keeps_its_configuration(stock, tmp_path):
    WithWeak(stock, EMAG(1.5)).save_pretrained(tmp_path)
    again = WithWeak.from_pretrained(tmp_path)
    assert type(again.guider) is type(stock) and again.rules == (EMAG(1.5),)
    assert again.guider.to_json_string() == stock.to_json_string()
    assert again.guidance_scale == stock.guidance_scale and again.num_conditions == stock.num_conditions


def test_the_page_runs(plain, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pipe, inputs = plain
    names = {"pipe": SD3.pipe(pipe)}
    calls = {"inputs": inputs, "steps": lambda: rewound(pipe.scheduler)}
    for code in re.findall(r"```python\n(.*?)```", (PAGES / "modular.md").read_text(), re.S):
        exec(code.replace("prompt=\"a fox\"", "**inputs, **steps()"), names | calls, names)
    assert "emag 1.5" in capsys.readouterr().out
    assert isinstance(names["pipe"].guider, EmagGuider)
