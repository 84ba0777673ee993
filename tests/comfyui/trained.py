"""The trained model of the world of shapes in ComfyUI's own class: the same weights as `emag.load("shapes")`."""

from typing import Any

import comfy.latent_formats
import comfy.supported_models
import comfy.utils
import torch
from PIL import Image

import emag
from smallcomfy import wrapped


class Wide(int):
    """A number of heads or blocks that ComfyUI multiplies by 64 to have the width of its network: here the width is told."""

    width: int

    @classmethod
    def of(cls, count: int, width: int) -> "Wide":
        made = cls(count)
        made.width = width
        return made

    def __mul__(self, other: int) -> int:
        return self.width

    __rmul__ = __mul__


def pipeline() -> Any:
    """The pipeline of diffusers, on the CPU."""
    pipe = emag.load("shapes", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def model(pipe: Any) -> Any:
    """Its network as ComfyUI's, a `ModelPatcher`."""
    net = pipe.transformer.config
    width = net.num_attention_heads * net.attention_head_dim
    text = {"target": "torch.nn.Linear", "params": {"in_features": net.joint_attention_dim, "out_features": width}}
    config = comfy.supported_models.SD3(dict(
        in_channels=net.in_channels, patch_size=net.patch_size, depth=Wide.of(net.num_attention_heads, width),
        num_blocks=net.num_layers, input_size=None, adm_in_channels=net.pooled_projection_dim, qk_norm="rms",
        num_patches=net.pos_embed_max_size**2, pos_embed_max_size=net.pos_embed_max_size, context_embedder_config=text))
    config.unet_config["dtype"] = torch.float32
    config.set_inference_dtype(torch.float32, None)
    config.sampling_settings = {"shift": pipe.scheduler.config.shift}
    made = config.get_model({}, device=torch.device("cpu"))
    for part in made.diffusion_model.modules():
        if hasattr(part, "num_heads"):
            part.num_heads = net.num_attention_heads
    made.diffusion_model.load_state_dict(weights(pipe.transformer.state_dict(), net.num_layers, width))
    made.latent_format = comfy.latent_formats.LatentFormat()  # ours are neither scaled nor shifted
    made.latent_format.latent_channels = net.in_channels
    return wrapped(made, seed=None)


def weights(own: dict[str, torch.Tensor], blocks: int, width: int) -> dict[str, torch.Tensor]:
    """Weights of diffusers by ComfyUI's names; queries, keys and values are one matrix there."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, target in comfy.utils.mmdit_to_diffusers({"depth": Wide.of(blocks, width), "num_blocks": blocks}).items():
        if name in own:
            at, _, change = (target, None, None) if isinstance(target, str) else (*target, None)[:3]
            found.setdefault(at, []).append(change(own[name]) if change else own[name])
    return {name: torch.cat(parts) for name, parts in found.items()}


def conditioning(pipe: Any, text: str | list[str]) -> Any:
    """A prompt, or one for each image of a batch, as ComfyUI has it."""
    states, _, pooled, _ = pipe.encode_prompt(text, do_classifier_free_guidance=False)
    return [[states, {"pooled_output": pooled}]]


def pictures(pipe: Any, latents: torch.Tensor) -> list[Image.Image]:
    """Latents [images, 4, rows, columns] decoded."""
    with torch.no_grad():
        return pipe.image_processor.postprocess(pipe.vae.decode(latents, return_dict=False)[0])
