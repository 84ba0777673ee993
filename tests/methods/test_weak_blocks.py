"""Weak branches by whole blocks and by tokens: SLG, STG, S2-Guidance, TPG."""

from contextlib import suppress
from copy import deepcopy

import pytest
import torch
from diffusers import guiders
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks.layer_skip import _apply_layer_skip_hook

import emag
from emag.core import COND, UNCOND, combine
from emag.hosts.defaults import resolve
from emag.methods import METHODS as C
from emag.methods.weak.slg import Skipped
from emag.schedules import Interval
from reference import at_step, tensors
from spy import scheduler_steps
from tiny import CASES, noise
from whole_blocks import ALL, S2, SLG, STG, TPG, answer, close, evaluated, weak_calls, without

LATER = Interval(2.0, 0.5, 1.0, "progress")  # the first step at which anything happens is the third of four


# SLG


@ALL
@pytest.mark.parametrize("which", ["middle", "first", "last", "all"])
def test_the_weak_branch_is_the_network_without_the_blocks(case, which):
    """All of them skipped is the embedding and the head alone. Streams are handed on in each block's own order."""
    depth = case.depth(case.pipe())
    layers = {"middle": (1, 2), "first": (0,), "last": (depth - 1,), "all": tuple(range(depth))}[which]
    weak = weak_calls(case, SLG(2.0, layers))
    assert len(weak) == 3
    net = without(case.pipe(), layers).double()
    for call in weak:
        close(call.out, answer(net, call.values), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["sd3", "pixart"])
def test_the_weak_branch_is_conditional_and_the_clean_pass_is_untouched(name):
    """STG's Wan code extrapolates from the negative prompt."""
    case = CASES[name]
    plain, _ = evaluated(case)
    seen, _ = evaluated(case, SLG(2.0, (1, 2)))
    assert torch.equal(seen[0].out, plain[0].out)
    assert torch.equal(seen[1].values["encoder_hidden_states"], seen[0].values["encoder_hidden_states"][2:])
    assert not torch.equal(seen[1].values["encoder_hidden_states"], seen[0].values["encoder_hidden_states"][:2])


@pytest.mark.parametrize(("start", "stop"), [(0.01, 0.2), (0.01, 0.7), (0.3, 1.0)])
def test_as_in_diffusers_pipeline(start, stop):
    """Theirs is on strictly after start N: the same here, where start N is no whole number."""
    case = CASES["sd3"]
    theirs = case.run(case.pipe(), skip_guidance_layers=[1, 2], skip_layer_guidance_scale=1.3,
                      skip_layer_guidance_start=start, skip_layer_guidance_stop=stop)
    pipe = case.pipe()
    with emag.guide(pipe, emag.CFG(4.0), SLG(Interval(2.3, start, stop, "progress"), (1, 2))):
        ours = case.run(pipe)
    assert not torch.allclose(theirs, case.run(case.pipe()), atol=1e-2)
    close(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=1e-5)


def test_as_in_diffusers_guider_on_pixart():
    case, pipe = CASES["pixart"], CASES["pixart"].pipe()
    net = deepcopy(pipe.transformer).double()
    _apply_layer_skip_hook(net, LayerSkipConfig([1, 2], fqn="transformer_blocks"))
    for call in weak_calls(case, SLG(2.0, (1, 2)), pipe=pipe):
        close(call.out, answer(net, call.values), atol=1e-9, rtol=1e-9)


def test_the_formula_of_diffusers_guider():
    cond, uncond, weak = (t.double() for t in tensors(1, 3))
    guider = guiders.SkipLayerGuidance(7.5, 2.8, 0.0, 1.0, skip_layer_config=LayerSkipConfig([1], fqn="auto"))
    guider.set_state(5, 10, torch.tensor(500))
    rules = emag.CFG(7.5), SLG(3.8, (1,))
    ours = combine(rules, cond, {COND: cond, UNCOND: uncond, Skipped((1,)): weak}, at_step(), [{}, {}])
    close(ours, guider.forward(cond, uncond, weak).pred)


def test_diffusers_skips_blocks_of_flux_with_their_streams_exchanged():
    """The smallest call that shows it: a skipped block returns (image, text) where the network unpacks (text, image)."""
    case, pipe = CASES["flux"], CASES["flux"].pipe()
    call = weak_calls(case, SLG(2.0, (0,)), pipe=pipe)[0]
    right = answer(without(pipe, (0,)), call.values)
    close(call.out, right, atol=1e-9, rtol=1e-9)
    net = deepcopy(pipe.transformer)
    _apply_layer_skip_hook(net, LayerSkipConfig([0], fqn="transformer_blocks"))
    with suppress(RuntimeError):  # other versions may refuse
        assert not torch.allclose(answer(net, call.values), right, atol=1e-2)


def test_outside_its_window_it_is_cfg():
    case, given = CASES["sd3"], []
    for rules in ((emag.CFG(4.0),), (emag.CFG(4.0), SLG(LATER, (1, 2)))):
        pipe = case.pipe()
        with scheduler_steps(pipe) as steps, emag.guide(pipe, *rules) as handle:
            case.run(pipe, num_inference_steps=4)
        given.append(steps)
    assert [torch.equal(a, b) for a, b in zip(*given)] == [True, True, False, False]
    assert handle.stats.evaluations == 4 * 2 * 4 + 2 * (4 - 1 - 2)


def test_the_default_window_is_the_published_one():
    """Steps 1 to 5 of 28, as in diffusers' pipeline; its guider leaves one out, and has none at all in a run of 8."""
    rule = resolve(SLG(), ("SD3Transformer2DModel",), 24)
    assert rule.layers == (7, 8, 9)

    def active(count):
        steps = [at_step(index=i, sigmas=(0.5,) * count) for i in range(count)]
        return [step.index for step in steps if rule.branches(step)]

    assert active(28) == [1, 2, 3, 4, 5] and active(8) == [1]


def test_a_schedule_without_a_scale_takes_the_one_of_a_default_schedule():
    rule = resolve(SLG(Interval(None, 0.0, 0.5, "progress")), ("SD3Transformer2DModel",), 24)
    assert rule.scale == Interval(3.8, 0.0, 0.5, "progress")


@pytest.mark.parametrize(("name", "call"), [("sd3", {"guidance_scale": 1.0}), ("flux", {}), ("sd3", {})])
def test_it_acts_with_cfg_off_and_in_short_runs(name, call):
    """In diffusers' guiders it does neither."""
    case, pipe = CASES[name], CASES[name].pipe()
    plain = case.run(pipe, **call)
    with emag.guide(pipe, SLG(layers=(1, 2))):
        assert not torch.allclose(case.run(pipe, **call), plain, atol=1e-3)


def test_a_run_too_short_for_the_window_is_an_error():
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    with pytest.raises(emag.NoEffect, match="never evaluated"), emag.guide(pipe, SLG(layers=(1,))):
        case.run(pipe, num_inference_steps=4)


@pytest.mark.parametrize("kind", [SLG, STG, S2, TPG])
@pytest.mark.parametrize("layers", [(), [], 7, "7", (1.0,), (True,)])
def test_layers_are_a_list_of_blocks(kind, layers):
    with pytest.raises(emag.BadValue, match="layers is a list"):
        kind(layers=layers)


@pytest.mark.parametrize("kind", [SLG, STG, S2, TPG])
def test_values_are_checked(kind):
    for scale in (-1.0, float("nan"), float("inf"), "3"):
        with pytest.raises(emag.BadValue):
            kind(scale)
    pipe = CASES["flux"].pipe()
    with pytest.raises(emag.BadValue, match="do not exist"), emag.guide(pipe, kind(2.0, layers=(1, 9))):
        CASES["flux"].run(pipe, num_inference_steps=2)


def test_a_controlnets_residual_stays_behind_a_skipped_block():
    """As in diffusers. The original code leaves it out."""
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    residuals = [noise(i, 4, 16, 16).double() for i in range(4)]

    def add(module, args, kwargs):
        return args, {**kwargs, "block_controlnet_hidden_states": residuals}

    pipe.transformer.register_forward_pre_hook(add, with_kwargs=True)
    net = without(CASES["sd3"].pipe(), (1,)).double()
    for call in weak_calls(case, SLG(2.0, (1,)), pipe=pipe):
        given = call.values["block_controlnet_hidden_states"]
        assert all(torch.equal(a, b[2:]) for a, b in zip(given, residuals))
        close(call.out, answer(net, call.values), atol=1e-9, rtol=1e-9)
        left_out = [torch.zeros_like(r) if i == 1 else r for i, r in enumerate(given)]
        assert not torch.allclose(
            call.out, answer(net, {**call.values, "block_controlnet_hidden_states": left_out}), atol=1e-2)


# STG


@ALL
def test_stg_is_slg_or_joint_pag(case):
    for form, same in (("residual", SLG(2.0, (1, 2))), ("attention", C["pag"](2.0, (1, 2), "joint"))):
        assert STG(2.0, (1, 2), form).perturbation == same.perturbation
        made = []
        for rule in (STG(2.0, (1, 2), form), same):
            pipe = case.pipe()
            with emag.guide(pipe, rule):
                made.append(case.run(pipe, num_inference_steps=2))
        assert torch.equal(*made)


def test_stg_has_two_forms():
    with pytest.raises(emag.BadValue, match="residual, attention"):
        STG(2.0, form="temporal")
