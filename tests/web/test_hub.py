"""What is meant for the Hub, loaded from its folder as code that somebody trusts: it is emag, and nothing without it."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.modular_pipelines import ModularPipelineBlocks, SequentialPipelineBlocks
from diffusers.modular_pipelines.stable_diffusion_3.denoise import StableDiffusion3DenoiseStep

import emag
from emag.testing.small import CASES, sd3
from modular import MODULAR

HUB = Path(__file__).parents[2] / "hub"
RULES = (emag.EMAG(1.5, layers=(1,), window=emag.Window.progress(0, 0.2, 1)), emag.CFG(3.0))
WORDS = "emag=1.5,layers=1,window=progress:0:0.2:1 cfg=3"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Trusted code is copied into a cache of diffusers before it runs."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def guided():
    return DiffusionPipeline.from_pipe(sd3(), custom_pipeline=str(HUB / "sd3-pipeline" / "pipeline.py"),
                                       trust_remote_code=True)


def latents(pipe, **more):
    return CASES["sd3"].run(pipe, num_inference_steps=4, **more)


def test_the_custom_pipeline_is_emag():
    pipe = guided()
    assert type(pipe).__name__ == "GuidedStableDiffusion3Pipeline"
    with emag.guide(plain := sd3(), *RULES):
        want = latents(plain)
    assert torch.equal(latents(pipe, guidance=WORDS), want)
    assert type(pipe).__name__ == "GuidedStableDiffusion3Pipeline" and "forward" not in vars(pipe.transformer)


def test_without_a_guidance_it_is_the_pipeline():
    assert torch.equal(latents(guided()), latents(sd3()))


def test_a_wrong_guidance_is_an_error_of_emag():
    with pytest.raises(emag.BadValue, match="no method"):
        latents(guided(), guidance="nosuch")


def block():
    return ModularPipelineBlocks.from_pretrained(str(HUB / "modular-block"), trust_remote_code=True)


def around(standard):
    """A modular pipeline whose first block is ours."""
    blocks = SequentialPipelineBlocks.from_blocks_dict({"guidance": block(), "denoise": StableDiffusion3DenoiseStep()})
    pipe = blocks.init_pipeline()
    pipe.update_components(transformer=standard.transformer, scheduler=standard.scheduler)
    return pipe


@pytest.mark.parametrize("words", [WORDS, None])
def test_the_block_is_the_guider_that_its_words_name(words):
    """Without words the pipeline keeps the guider it has."""
    case, standard = MODULAR["sd3"], sd3()
    _, inputs = case.standard(standard, num_inference_steps=4)
    want = case.run(case.pipe(standard, emag.EmagGuider(*RULES) if words else None), inputs)
    assert torch.equal(case.run(around(standard), {**inputs, "guidance": words}), want)


def test_nothing_runs_without_trust():
    with pytest.raises(ValueError, match="trust_remote_code"):
        ModularPipelineBlocks.from_pretrained(str(HUB / "modular-block"))


@pytest.mark.parametrize("folder", ["modular-block", "sd3-pipeline"])
def test_each_has_a_card(folder):
    card = (HUB / folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers") and "Limits" in card and "```python" in card
