"""Late starts, hosts that make two untagged calls, prompts as conditions."""

import inspect

import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

import emag
from emag.engine.reading import read_network
from emag.hosts.defaults import entry
from emag.lab.forecast import image_tokens, text_tokens
from emag.methods.weak.slg import SLG
from emag.testing.small_separate import MORE, auraflow, hunyuan, pictures, sana
from separate import EMAG, WINDOW, size_of

LATE = pytest.mark.parametrize("name", [n for n in MORE if "img2img" in n or "inpaint" in n or "fill" in n])


# late starts, and hosts that make two untagged calls


@LATE
def test_a_window_counts_the_steps_that_are_run(name):
    case = MORE[name]
    pipe = case.pipe()
    with emag.guide(pipe, EMAG()) as run:
        case.run(pipe, num_inference_steps=20, strength=0.5)
    path = tuple(float(sigma) for sigma in pipe.scheduler.sigmas[10:20])
    assert run.stats.steps == 10 and len(run.stats.effects) == 10
    assert [effect is not None for effect in run.stats.effects] == [p == "apply" for p in WINDOW.phases(path)]


@LATE
def test_a_late_start_that_leaves_no_weak_pass_is_refused_before_the_run(name):
    case, calls = MORE[name], []
    pipe = case.pipe()
    pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    with pytest.raises(emag.BadValue, match="no weak pass"), emag.guide(pipe, EMAG()):
        case.run(pipe, num_inference_steps=8, strength=0.125)
    assert calls == []


@LATE
@pytest.mark.parametrize("strength", [0.3, 0.61, 1.0])
def test_the_steps_known_before_a_run_are_those_made(name, strength):
    case = MORE[name]
    pipe = case.pipe()
    with emag.guide(pipe, SLG(1.2, layers=(1,))) as run:
        case.run(pipe, (8,), num_inference_steps=7, strength=strength)
        call = case.call((8,), num_inference_steps=7, strength=strength)
    assert run.host.steps(call) == run.stats.steps


def test_a_late_start_with_a_scheduler_that_evaluates_twice():
    pipe = MORE["sd3-img2img"].pipe()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with emag.guide(pipe, EMAG()) as run:
        MORE["sd3-img2img"].run(pipe, num_inference_steps=10, strength=0.5)
    assert run.stats.steps == len(pipe.scheduler.timesteps[pipe.scheduler.begin_index:]) == 9
    assert run.stats.evaluations == run.stats.planned and run.stats.effect > 0


def test_further_channels_are_no_part_of_x():
    """An inpainting network's mask and picture: what rules and perturbations get and change is x_t alone."""
    network = read_network(MORE["sd3-inpaint-wide"].pipe().transformer)
    whole = torch.arange(33.0).reshape(1, 33, 1, 1).expand(2, 33, 4, 4)
    x = network.latents(whole)
    assert torch.equal(x, whole[:, :16]) and torch.equal(network.with_latents(whole, x), whole)
    assert torch.equal(network.with_latents(whole, x + 1)[:, 16:], whole[:, 16:])
    packed = read_network(MORE["flux-fill"].pipe().transformer)
    assert packed.latents(torch.zeros(2, 16, 36)).shape == (2, 16, 16)
    assert read_network(auraflow().transformer).latents(whole[:, :4]).shape == (2, 4, 4, 4)


def test_forecasts_count_the_tokens():
    assert image_tokens(read_network(sana().transformer), 64, 96) == 2 * 3
    assert image_tokens(read_network(hunyuan().transformer), 64, 96) == 4 * 6
    assert text_tokens(read_network(auraflow().transformer), None) == 264
    assert text_tokens(read_network(hunyuan().transformer), None) == 0


def test_two_untagged_calls_with_one_text_are_told_apart():
    case = MORE["flux-img2img-cfg"]
    pipe, call = case.pipe(), case.call()
    same = {name: call[name.removeprefix("negative_")] for name in call if name.startswith("negative_prompt_embeds")}
    same |= {"negative_pooled_prompt_embeds": call["pooled_prompt_embeds"]}
    off = case.run(pipe, true_cfg_scale=1.0)
    with emag.guide(pipe, emag.CFG(5.0)) as run:
        assert size_of(case.run(pipe, **same) - off) < 1e-4
    assert run.stats.steps == 6


def test_a_text_changed_on_the_way_is_still_conditional():
    case = MORE["flux-img2img-cfg"]
    pipe = case.pipe()

    def change(pipe, index, timestep, values):
        return {"prompt_embeds": values["prompt_embeds"] + 0.1}

    with emag.guide(pipe, EMAG(), emag.CFG(4.0)) as run:
        case.run(pipe, callback_on_step_end=change, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert run.stats.steps == 6 and run.stats.evaluations == run.stats.planned


# prompts as conditions, defaults


ANSWERS = {"auraflow": ("encoder_hidden_states", None), "sana": ("encoder_hidden_states", "encoder_attention_mask"),
           "hunyuan": ("encoder_hidden_states", "text_embedding_mask")}


@pytest.mark.parametrize("name", ANSWERS)
def test_prompts_are_encoded_as_the_host_does(name):
    pipe, asked = MORE[name].pipe(), []
    signature = inspect.signature(pipe.encode_prompt)
    states, mask = torch.ones(1, 3, 12), torch.ones(1, 3)

    def encode_prompt(*args, **kwargs):
        asked.append(signature.bind(*args, **kwargs).arguments)
        return (states, None, mask, None) if name == "hunyuan" else (states, mask, None, None)

    pipe.encode_prompt = encode_prompt
    network = read_network(pipe.transformer)
    found = network.backbone.encode(pipe, ["a fox"])
    text, masked = ANSWERS[name]
    assert found[text] is states and (masked is None or found[masked] is mask)
    assert all(one["prompt"] == ["a fox"] and one["do_classifier_free_guidance"] is False for one in asked)
    assert set(found) <= set(network.backbone.per_row)


@pytest.mark.parametrize("make", [auraflow, hunyuan, sana])
def test_defaults_say_where_they_come_from(make):
    name = type(make().transformer).__name__
    assert {"scale", "layers", "window"} == set(entry("emag", (name,)).values)
    assert any(word in entry("emag", (name,)).source for word in ("untested", "none works"))


def test_pictures_are_reproducible():
    assert torch.equal(pictures((8, 9))[1:], pictures((9,)))
