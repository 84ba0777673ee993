"""Small pipelines that edit pictures, of networks that `small` to `small_separate` have."""

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    Flux2KleinInpaintPipeline,
    FluxKontextInpaintPipeline,
    FluxKontextPipeline,
    QwenImageEditInpaintPipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImageTransformer2DModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from PIL import Image

from .small import Case, awaken, flux, flux_call, generators, quiet, true_cfg_call
from .small_joint import flux2, flux2_call, klein, plain_call, qwen, qwen_call
from .small_separate import from_image, masks, pictures

SIDE = 128  # pixels of a latent: these pipelines bring what they edit to a million pixels, whatever it was


class Averages(AutoencoderKLQwenImage):
    """Encodes pictures [batch, 3, 1, height, width] by their averages over squares, without noise."""

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        squares = 3 * F.avg_pool2d(x[:, :, 0], SIDE)
        mean = torch.cat([squares, squares.mean(1, keepdim=True)], 1)[:, :, None]
        found = DiagonalGaussianDistribution(torch.cat([mean, torch.full_like(mean, -30.0)], 1))
        return AutoencoderKLOutput(latent_dist=found)


def qwen_edit(cls: Any = QwenImageEditPipeline, layers: int = 4, seed: int = 0, **config: Any) -> Any:
    torch.manual_seed(0)
    squares = SIDE.bit_length() - 1
    decoder = Averages(base_dim=8, z_dim=4, dim_mult=[1], num_res_blocks=1, temperal_downsample=[False] * squares,
                       latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()
    net = QwenImageTransformer2DModel(in_channels=16, out_channels=4, num_layers=layers, joint_attention_dim=12,
                                      axes_dims_rope=(4, 6, 6), attention_head_dim=16, num_attention_heads=2, **config)
    made = qwen(layers, seed)
    return quiet(cls(transformer=awaken(net, seed), vae=decoder, scheduler=made.scheduler, text_encoder=None, tokenizer=None,
                     processor=None))


class Layers(Case):
    """Several images for each sample, in a list."""

    def run(self, pipe: Any, seeds: tuple[int, ...] = (8, 9), **more: Any) -> torch.Tensor:
        return torch.cat(pipe(**self.call(seeds, **more)).images)


def qwen_layered(**settings: Any) -> QwenImageLayeredPipeline:
    made = qwen_edit(QwenImageLayeredPipeline, use_layer3d_rope=True, use_additional_t_cond=True, **settings)
    made.text_encoder = SimpleNamespace(dtype=torch.float32)
    return made


def like(cls: Any, made: Any) -> Any:
    """A pipeline of another class with the components of `made`."""
    return quiet(cls.from_pipe(made))


def flux2_edit(made: Any) -> Any:
    """`made` with an encoder to an eighth: pictures of 64 pixels are the smallest it takes."""
    torch.manual_seed(0)
    eightfold = AutoencoderKLFlux2(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                                   block_out_channels=(2,) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=1,
                                   use_quant_conv=False, use_post_quant_conv=False).eval()
    return quiet(type(made)(**{**made.components, "vae": eightfold}))


def drawn(seeds: tuple[int, ...], height: int = 8, width: int = 8) -> list[Image.Image]:
    """`pictures` as PIL has them."""
    bytes_of = (127.5 * (pictures(seeds, height, width) + 1)).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(one) for one in bytes_of]


def edited(call: Any, **shared: Any) -> Any:
    """`call` in six steps with one picture for each image, [6, 8] pixels, and the size of the images."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        values = call(seeds, **{"num_inference_steps": 6, **shared, **more})
        return {"image": drawn(seeds, 6, 8), **values}

    return made


def beside(call: Any, **shared: Any) -> Any:
    """`call` in six steps with the same two pictures for all images."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        values = call(seeds, **{"num_inference_steps": 6, **shared, **more})
        return {"image": [*drawn((1,), 64, 128), *drawn((2,), 64, 64)], **values}

    return made


def plus_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """One prompt, with several images."""
    values = beside(qwen_call, **QWEN_SIZE)((1,), **more)
    return {**values, "generator": generators(seeds), "num_images_per_prompt": len(seeds)}


def kontext_call(call: Any) -> Any:
    """`call` with a picture for each image that is not brought to a million pixels."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        values = call(seeds, **{"num_inference_steps": 6, "_auto_resize": False, **more})
        return {"image": pictures(seeds, 4, 8), "max_area": values["height"] * values["width"], **values}

    return made


def _without_size(call: Any) -> Any:
    return lambda *args, **more: {k: v for k, v in call(*args, **more).items() if k not in ("height", "width")}


def _named(call: Any) -> Any:
    """`call` with a prompt beside its embeddings, without which the pipeline would describe the picture."""
    return lambda seeds=(8, 9), **more: {"prompt": ["a"] * len(seeds), **call(seeds, **more)}


def masked(call: Any, key: str, *size: int) -> Any:
    """`call` with a mask under the name `key`."""
    return lambda seeds=(8, 9), **more: {key: masks(seeds, *size), **call(seeds, **more)}


TRUE = "true_cfg_scale"
QWEN_SIZE = {"height": 4 * SIDE, "width": 6 * SIDE}

MORE = {case.name: case for case in (
    Case("qwen-edit", qwen_edit, edited(qwen_call, **QWEN_SIZE), True, TRUE),
    Case("qwen-edit-2511", lambda **kw: qwen_edit(zero_cond_t=True, **kw), edited(qwen_call, **QWEN_SIZE), True, TRUE),
    Case("qwen-edit-plus", lambda **kw: qwen_edit(QwenImageEditPlusPipeline, **kw), plus_call, True, TRUE),
    Case("qwen-edit-inpaint", lambda **kw: qwen_edit(QwenImageEditInpaintPipeline, **kw),
         masked(_without_size(edited(qwen_call, num_inference_steps=8, strength=0.75)), "mask_image"), True, TRUE),
    Layers("qwen-layered", qwen_layered, _named(_without_size(edited(qwen_call, layers=1, output_type="pt"))), True, TRUE),
    Case("kontext", lambda **kw: like(FluxKontextPipeline, flux(**kw)), kontext_call(flux_call), False),
    Case("kontext-cfg", lambda **kw: like(FluxKontextPipeline, flux(guidance=False, **kw)), kontext_call(true_cfg_call),
         True, TRUE),
    Case("kontext-inpaint", lambda **kw: like(FluxKontextInpaintPipeline, flux(guidance=False, **kw)),
         masked(lambda seeds=(8, 9), **more: kontext_call(true_cfg_call)(
             seeds, **{"num_inference_steps": 8, "strength": 0.75, **more}), "mask_image", 4, 8), True, TRUE),
    Case("flux2-edit", lambda **kw: flux2_edit(flux2(**kw)), beside(flux2_call, height=64, width=64), False),
    Case("klein-edit", lambda **kw: flux2_edit(klein(**kw)), beside(plain_call, height=64, width=64), True),
    Case("klein-inpaint", lambda **kw: like(Flux2KleinInpaintPipeline, klein(**kw)), from_image(plain_call, inpaint=True),
         True),
)}
"""Pictures whose tokens stand behind those of the image in the making."""
