"""The file of `emag bake` is a LoRA that ComfyUI reads as it is: all of it, and with the effect that it has in diffusers."""

import logging
from typing import Any

import comfy.sd
import comfy.utils
import pytest
import torch

import parity
from emag.engine.reading import read_network

pytest.importorskip("peft")

from emag.lab.bake.adapter import add_adapter, write_adapter

NETWORKS = {"sd3": (parity.sd3, None), "flux": (parity.flux, parity.COMFY_FLUX)}


@pytest.fixture(scope="module", params=NETWORKS)
def baked(request: Any, tmp_path_factory: Any) -> tuple[str, Any, Any, str]:
    """A pipeline, its network in ComfyUI, and an adapter that was not trained but changes every layer of the blocks."""
    make, settings = NETWORKS[request.param]
    pipe = make()
    model = parity.converted(pipe.transformer, settings)
    network = read_network(pipe.transformer)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in add_adapter(network, 4, 0).values():
            value.copy_(torch.randn(value.shape, generator=draw) * 0.1)
    path = write_adapter(tmp_path_factory.mktemp("baked"), network, "transformer", {"rules": []})
    pipe.transformer.delete_adapters("baked")
    return request.param, pipe, model, str(path)


def latents(name: str, pipe: Any, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Of diffusers and of ComfyUI, from the same noise, without guidance."""
    text, pooled, noise = parity.drawn(2, 5, 24, seed=1), parity.drawn(2, 20, seed=2), parity.drawn(2, 16, 8, 8, seed=5)
    call = dict(prompt_embeds=text, pooled_prompt_embeds=pooled, num_inference_steps=4, output_type="latent")
    if name == "flux":
        packed = pipe._pack_latents(noise, 2, 16, 8, 8)
        ours = pipe(**call, latents=packed, guidance_scale=3.5, height=8, width=8).images
        ours = pipe._unpack_latents(ours, 8, 8, 1)
    else:
        ours = pipe(**call, latents=noise, guidance_scale=1.0, height=16, width=16).images
    cond = [[text, {"pooled_output": pooled, "guidance": 3.5}]]
    return ours, parity.comfy_latents(model, noise, pipe.scheduler.sigmas, cond, cond, 1.0)


def test_comfyui_reads_all_of_it(baked: tuple[str, Any, Any, str], caplog: pytest.LogCaptureFixture) -> None:
    name, pipe, model, path = baked
    with caplog.at_level(logging.WARNING):
        adapted, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(path), 1.0, 0.0)
    assert "not loaded" not in caplog.text
    plain, theirs = latents(name, pipe, model)
    assert (plain - theirs).abs().max() < 1e-4 * plain.abs().max()
    pipe.load_lora_weights(path)
    ours, theirs = latents(name, pipe, adapted)
    # ComfyUI adds the product to the weights, where diffusers computes it beside them
    assert (ours - theirs).abs().max() < 1e-3 * ours.abs().max()
    assert (ours - plain).abs().max() > 0.1 * plain.abs().max()
