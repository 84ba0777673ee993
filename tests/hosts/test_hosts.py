"""Pipelines as hosts: what is refused before any denoising, and the host's own skip-layer guidance."""

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
)

import emag
from cases import ALL, EMAG, EVERY
from spy import Counter, changes, snapshot
from tiny import CASES, flux, flux_call, sd3, sd3_call

# What is refused, before any denoising


def counted(pipe):
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    return calls


@EVERY
@pytest.mark.parametrize("rule", [emag.CFG(3.0), emag.APG(3.0, norm_threshold=1.0, momentum=0.0)], ids=["cfg", "apg"])
def test_a_combiner_without_unconditional_rows_is_refused(case, rule):
    pipe = case.pipe()
    calls, before = counted(pipe), snapshot(pipe)
    off, scale = ({case.scale: 1.0}, case.scale) if case.uncond else ({}, "true_cfg_scale")
    with pytest.raises(emag.BadValue, match=f"{rule.name}.*{scale}"), emag.guide(pipe, rule):
        case.run(pipe, **off)
    assert calls == [] and changes(before, snapshot(pipe)) == []


def test_true_cfg_needs_a_negative_prompt_for_a_combiner():
    pipe = flux()
    with pytest.raises(emag.BadValue, match="negative_prompt"), emag.guide(pipe, emag.CFG(3.0)):
        pipe(**flux_call(true_cfg_scale=4.0))


def test_two_combiners_are_refused():
    with pytest.raises(emag.BadValue, match="cfg and apg"):
        emag.guide(sd3(), emag.CFG(3.0), emag.APG(3.0)).__enter__()


@ALL
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 28, 50])
def test_windows_at_any_number_of_steps(case, count):
    """`Window.published` and progress windows either run as planned, or are refused before the run."""
    pipe = case.pipe()
    calls = counted(pipe)
    for window in (emag.Window.published(250, 50, 50), emag.Window.progress(0, 0.2, 1.0))[:1 if count > 8 else 2]:
        calls.clear()
        phases = window.phases(tuple(1 - i / count for i in range(count)))
        with emag.guide(pipe, EMAG(window=window)) as run:
            if "apply" not in phases:
                with pytest.raises(emag.BadValue, match="no weak pass"):
                    case.run(pipe, (1,), num_inference_steps=count)
                assert calls == [] and run.latest is None
                continue
            case.run(pipe, (1,), num_inference_steps=count)
        assert [e is not None for e in run.stats.effects] == [p == "apply" for p in phases]
        assert run.stats.evaluations == run.stats.planned
    if count == 1:
        assert calls == []


@ALL
def test_an_empty_sigma_window_is_refused_before_any_denoising(case):
    pipe = case.pipe()
    blocks = Counter(pipe.transformer, "attn" if hasattr(pipe.transformer.transformer_blocks[0], "attn") else "attn1")
    with pytest.raises(emag.BadValue, match="no weak pass"):
        with emag.guide(pipe, EMAG(window=emag.Window.sigma(0.9, 0.895, 0.001))):
            case.run(pipe, num_inference_steps=2)
    assert blocks.blocks == {}


def test_an_unsupported_pipeline_names_the_supported_ones():
    class OtherPipeline(DiffusionPipeline):
        def __call__(self):
            return None

    with pytest.raises(emag.Unsupported, match=r"OtherPipeline is not a supported pipeline.*emag\.register"):
        emag.guide(OtherPipeline(), EMAG()).__enter__()
    with pytest.raises(emag.Unsupported, match="`emag models` lists those"):
        emag.guide(object(), EMAG()).__enter__()


def test_an_unsupported_network_names_the_supported_ones():
    pipe = sd3()
    pipe.transformer = torch.nn.Linear(1, 1)
    with pytest.raises(emag.Unsupported, match=r"Linear is not a supported network.*emag\.register"):
        emag.guide(pipe, EMAG()).__enter__()


@ALL
@pytest.mark.parametrize("layers", [(99,), (-1,), (0, 5)])
def test_wrong_layers_are_refused_at_once(case, layers):
    pipe = case.pipe()
    before = snapshot(pipe)
    with pytest.raises(emag.BadValue, match=r"blocks 0 to"):
        emag.guide(pipe, EMAG(layers=layers)).__enter__()
    assert changes(before, snapshot(pipe)) == []


def test_a_subclass_of_a_pipeline_is_supported():
    class Mine(type(sd3())):
        pass

    pipe = sd3()
    pipe.__class__ = Mine
    with emag.guide(pipe, EMAG()) as run:
        pipe(**sd3_call())
    assert type(pipe) is Mine and run.stats.effect > 0


def test_something_that_is_not_a_rule_is_refused():
    with pytest.raises(emag.BadValue, match="made of rules"):
        emag.guide(sd3(), 1.5).__enter__()


# The host's own skip-layer guidance


SLG = {"skip_guidance_layers": [1], "skip_layer_guidance_scale": 2.8, "skip_layer_guidance_start": 0.0,
       "skip_layer_guidance_stop": 1.0}


def test_the_hosts_skip_layer_guidance_adds_to_ours():
    case, pipe = CASES["sd3"], sd3()
    plain, plain_slg = case.run(pipe), case.run(pipe, **SLG)
    counter = Counter(pipe.transformer, "attn")
    with emag.guide(pipe, EMAG()) as run:
        guided = case.run(pipe)
        without = run.stats.evaluations
        counter.blocks.clear()
        both = case.run(pipe, **SLG)
    assert not torch.equal(both, guided) and not torch.equal(both, plain_slg) and not torch.equal(plain, plain_slg)
    assert run.stats.evaluations == run.stats.planned == without
    third = sum(counter.blocks.values()) // 2 - without
    assert third > 0 and third % 3 == 0  # three of four blocks, one row


def test_the_hosts_skip_layer_guidance_sees_the_condition_that_cads_made():
    """The third call of a step gets the noised condition of that step's conditional rows."""
    pipe, seen = sd3(), []
    original = pipe.transformer.forward

    def forward(**kwargs):
        seen.append((kwargs.get("skip_layers"), kwargs["encoder_hidden_states"].clone()))
        return original(**kwargs)

    pipe.transformer.__dict__["forward"] = forward
    with emag.guide(pipe, emag.CADS(0.3, tau1=0.1, tau2=0.9, psi=0.5), EMAG()):
        pipe(**sd3_call(**SLG))
    third = 0
    for skip, text in seen:
        if skip is None and text.shape[0] == 4:
            noised = text[2:]
        if skip is not None:
            assert torch.equal(text, noised)
            third += 1
    assert third > 4


def test_a_combiner_refuses_the_hosts_skip_layer_guidance():
    pipe = sd3()
    calls = counted(pipe)
    with pytest.raises(emag.Unsupported, match="skip_guidance_layers"), emag.guide(pipe, emag.CFG(3.0)):
        pipe(**sd3_call(**SLG))
    assert calls == []
