"""The embedded model: prompts, pixels, defaults, and that it runs under a guidance."""

import inspect

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import emag
from emag.errors import BadValue
from emag.hosts.load import load
from emag.models.tiny import PixelVAE, TinyPipeline, uniform_sigmas
from emag.models.words import class_of
from tiny import generators

CLASSES = ("airplane", "automobile", "bird", "frog", "truck", "fire truck")


@pytest.fixture(scope="module")
def pipe():
    pipe = load("tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompts, seeds, **more):
    return pipe(prompts, generator=generators(seeds), **{"num_inference_steps": 4, "output_type": "pt", **more}).images


@pytest.mark.parametrize(("prompt", "name"), [
    ("a photo of a frog", "frog"), ("frog", "frog"), ("A FROG!", "frog"), ("two frogs, please", "frog"),
    ("a frog and a frog", "frog"), ("my plane", "airplane"), ("cars.", "automobile"), ("a fire truck", "fire truck"),
    ("a truck on fire", "truck"), ("", None), ("  ", None)])
def test_a_prompt_names_one_class(prompt, name):
    assert class_of(prompt, CLASSES) == name


@pytest.mark.parametrize(("prompt", "says"), [
    ("a castle", "names none of this model's classes: airplane, automobile"), ("...", "names none"),
    ("birdsong", "names none"), ("a bird and a frog", "bird and frog; this model draws one class at a time")])
def test_other_prompts_are_refused(prompt, says):
    with pytest.raises(BadValue, match=says):
        class_of(prompt, CLASSES)


def test_a_word_that_is_a_class_is_no_synonym():
    assert class_of("a car", ("automobile", "car")) == "car"


def test_encoding_is_the_training_caption(pipe):
    words = pipe.text_encoder_3
    assert words.ids(["frog", None]).tolist() == [[1, 2, 3, 1, 10, 0, 0, 0], [0] * 8]
    states, negative, pooled, negative_pooled = pipe.encode_prompt(["frog", "a photo of a frog"])
    rows = words.embedding.weight
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], rows[[1, 2, 3, 1, 10, 0, 0, 0]])
    assert torch.equal(pooled[0], rows[10]) and torch.equal(negative_pooled[1], rows[0])
    assert torch.equal(negative[0], rows[[0] * 8])


def test_encoding_repeats_and_passes_embeddings_through(pipe):
    states, negative, pooled, _ = pipe.encode_prompt(["cat", "dog"], negative_prompt="ship", num_images_per_prompt=2)
    assert torch.equal(states[0], states[1]) and not torch.equal(states[1], states[2])
    assert torch.equal(negative[0], pipe.encode_prompt("ship")[0][0])
    kept = pipe.encode_prompt(None, prompt_embeds=states, pooled_prompt_embeds=pooled, do_classifier_free_guidance=False)
    assert kept[0] is states and kept[2] is pooled and kept[1] is None
    made = draw(pipe, ["cat", "dog"], (1, 2))
    encoded = pipe.encode_prompt(["cat", "dog"])
    again = draw(pipe, None, (1, 2), prompt_embeds=encoded[0], pooled_prompt_embeds=encoded[2])
    assert torch.equal(made, again)


def test_images_are_32_by_32_and_repeatable(pipe):
    images = draw(pipe, ["frog", "ship"], (1, 2))
    assert images.shape == (2, 3, 32, 32) and images.std() > 0.05
    assert torch.equal(images, draw(pipe, ["a frog", "ships"], (1, 2)))
    assert draw(pipe, "truck", (1,), output_type="pil")[0].size == (32, 32)
    assert draw(pipe, "truck", (1,), height=16, width=24).shape == (1, 3, 16, 24)


def test_a_row_of_a_batch_is_the_image_alone(pipe):
    both = draw(pipe, ["horse", "truck"], (1, 2), output_type="latent")
    alone = draw(pipe, ["truck"], (2,), output_type="latent")
    assert torch.allclose(both[1:], alone, atol=1e-4)


def test_the_class_and_the_guidance_scale_matter(pipe):
    frog = draw(pipe, "frog", (1,))
    assert not torch.allclose(frog, draw(pipe, "ship", (1,)), atol=1e-2)
    assert not torch.allclose(frog, draw(pipe, "frog", (1,), guidance_scale=1.0), atol=1e-2)
    assert torch.equal(frog, draw(pipe, "frog", (1,), guidance_scale=2.5))


def test_the_scheduler_gets_evenly_spaced_sigmas(pipe):
    draw(pipe, "cat", (1,))
    expected = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    assert torch.allclose(pipe.scheduler.sigmas, expected) and torch.allclose(pipe.scheduler.timesteps, expected[:-1] * 1000)
    assert uniform_sigmas(4) == [1.0, 0.75, 0.5, 0.25]
    draw(pipe, "cat", (1,), sigmas=[1.0, 0.4], num_inference_steps=2)
    assert torch.allclose(pipe.scheduler.sigmas, torch.tensor([1.0, 0.4, 0.0]))


def test_the_call_has_the_parents_signature(pipe):
    own, parent = (inspect.signature(cls.__call__) for cls in (TinyPipeline, StableDiffusion3Pipeline))
    assert list(own.parameters) == list(parent.parameters)
    bound = own.bind(pipe, "frog")
    bound.apply_defaults()
    assert bound.arguments["guidance_scale"] == 2.5 and bound.arguments["num_inference_steps"] == 28


@pytest.mark.parametrize(("arguments", "says"), [
    ({"prompt": "a castle"}, "names none"), ({"prompt": ["cat", "a cat and a dog"]}, "one class at a time"),
    ({"prompt": "cat", "negative_prompt": "blurry"}, "names none"), ({"prompt": "cat", "height": 64}, "at most 32x32"),
    ({"prompt": "cat", "height": 30}, "divisible by 4"), ({"prompt": "cat", "num_inference_steps": 0}, "at least 1"),
    ({"prompt": "cat", "prompt_2": "dog"}, "one word encoder"), ({}, "Provide either"),
    ({"prompt": ["cat", "dog"], "negative_prompt": ["ship"]}, "1 negative prompts for 2"),
    ({"prompt": [3]}, "must be text")])
def test_bad_calls_end_before_the_network_runs(pipe, arguments, says, monkeypatch):
    monkeypatch.setattr(pipe.transformer, "forward", lambda *a, **k: pytest.fail("the network ran"))
    with pytest.raises(BadValue, match=says):
        pipe(**arguments)


def test_the_vae_is_the_identity():
    vae, x = PixelVAE(scaling_factor=2.0), torch.randn(1, 3, 4, 4)
    assert vae.decode(x, return_dict=False)[0] is x
    assert (vae.config.scaling_factor, vae.config.shift_factor, len(vae.config.block_out_channels)) == (2.0, 0.0, 1)


@pytest.mark.slow
def test_guidance_on_two_prompts_as_in_the_readme(pipe):
    prompts = ["a photo of a horse", "a photo of a ship"]
    call = {"num_inference_steps": 28, "guidance_scale": 2.5}
    plain = draw(pipe, prompts, (0, 1), **call)
    with emag.guide(pipe, emag.EMAG(scale=1.5)) as run:
        guided = draw(pipe, prompts, (0, 1), **call)
    assert run.latest is not None
    assert not torch.allclose(plain, guided, atol=1e-3) and (plain - guided).square().mean().sqrt() < 0.3
    assert torch.equal(plain, draw(pipe, prompts, (0, 1), **call))


def test_half_precision_is_close():
    pipe = load("tiny", device="cpu", dtype="bfloat16")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.dtype == torch.bfloat16 and pipe.emag_source["dtype"] == "bfloat16"
    exact = load("tiny", device="cpu")
    exact.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 3, 32, 32, generator=generators((1,))[0])
    images = [p("ship", latents=latents, num_inference_steps=4, output_type="pt").images for p in (pipe, exact)]
    assert torch.allclose(images[0].float(), images[1], atol=0.1)
