"""Small pipelines that start from a picture or follow one, of networks that `small` to `small_separate` have."""

from typing import Any

import torch
from diffusers import (
    ChromaImg2ImgPipeline,
    ChromaInpaintPipeline,
    CogView4ControlPipeline,
    CogView4Transformer2DModel,
    Flux2KleinKVPipeline,
    HunyuanDiT2DControlNetModel,
    HunyuanDiTControlNetPipeline,
    QwenImageControlNetInpaintPipeline,
    QwenImageControlNetModel,
    QwenImageControlNetPipeline,
    QwenImageImg2ImgPipeline,
    QwenImageInpaintPipeline,
    SanaControlNetModel,
    SanaControlNetPipeline,
)

from .small import Case, awaken, quiet
from .small_edits import TRUE, like, masked
from .small_joint import chroma, chroma_call, cogview4, flux2_call, klein, plain_call, qwen, qwen_call
from .small_separate import controlled, from_image, hunyuan, hunyuan_call, sana, sana_call, short


def quietly(pipe: Any) -> Any:
    """`pipe`, its pictures encoded without noise, which some pipelines draw for a whole batch."""
    last = pipe.vae.quant_conv or pipe.vae.encoder.conv_out
    half = len(last.bias) // 2
    last.weight.data[half:], last.bias.data[half:] = 0, -30.0
    return pipe


def qwen_like(cls: Any, **settings: Any) -> Any:
    """A pipeline that starts from a picture, with the components of `qwen`."""
    return quiet(cls(**qwen(**settings).components))


def qwen_control(cls: Any = QwenImageControlNetPipeline, **settings: Any) -> Any:
    made = qwen(**settings)
    extra = 4 if cls is QwenImageControlNetInpaintPipeline else 0  # a mask in four pixels of a patch
    config = {**made.transformer.config, "num_layers": 2, "extra_condition_channels": extra}
    net = QwenImageControlNetModel.from_config(config)
    return quietly(quiet(cls(**made.components, controlnet=awaken(net, 5))))


def chroma_inpaint(**settings: Any) -> ChromaInpaintPipeline:
    made = chroma(**settings)
    made.transformer.register_to_config(guidance_embeds=False)  # which the pipeline reads
    return like(ChromaInpaintPipeline, made)


def cogview4_control(layers: int = 4, seed: int = 0) -> CogView4ControlPipeline:
    made = cogview4(layers, seed)
    config = {name: value for name, value in made.transformer.config.items() if not name.startswith("_")}
    net = awaken(CogView4Transformer2DModel(**{**config, "in_channels": 8}), seed)
    parts = {**made.components, "transformer": net}
    return quietly(quiet(CogView4ControlPipeline(**parts)))


def hunyuan_control(**settings: Any) -> HunyuanDiTControlNetPipeline:
    made = hunyuan(**settings)
    config = {"transformer_num_layers": made.transformer.config.num_layers, "conditioning_channels": 4}
    config |= {name: value for name, value in made.transformer.config.items() if name != "num_layers"}
    net = HunyuanDiT2DControlNetModel.from_config(config)
    parts = {**made.components, "controlnet": awaken(net, 5)}
    return quietly(quiet(HunyuanDiTControlNetPipeline(**parts, requires_safety_checker=False)))


def sana_control(**settings: Any) -> SanaControlNetPipeline:
    torch.manual_seed(0)  # its encoder's weights, which `sana` does not use
    made = sana(**settings)
    net = SanaControlNetModel.from_config({**made.transformer.config, "num_layers": 2})
    return quiet(SanaControlNetPipeline(**made.components, controlnet=awaken(net, 5)))


def kv_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {name: value for name, value in flux2_call(seeds, **more).items() if name != "guidance_scale"}


MORE = {case.name: case for case in (
    Case("klein-kv", lambda **kw: like(Flux2KleinKVPipeline, klein(**kw)), short(kv_call), False),
    Case("qwen-img2img", lambda **kw: qwen_like(QwenImageImg2ImgPipeline, **kw), from_image(qwen_call), True, TRUE),
    Case("qwen-inpaint", lambda **kw: qwen_like(QwenImageInpaintPipeline, **kw), from_image(qwen_call, inpaint=True), True,
         TRUE),
    Case("qwen-control", qwen_control, controlled(short(qwen_call), controlnet_conditioning_scale=0.3), True, TRUE),
    Case("qwen-control-inpaint", lambda **kw: qwen_control(QwenImageControlNetInpaintPipeline, **kw),
         masked(controlled(short(qwen_call), controlnet_conditioning_scale=0.3), "control_mask"), True, TRUE),
    Case("chroma-img2img", lambda **kw: like(ChromaImg2ImgPipeline, chroma(**kw)), from_image(chroma_call), True),
    Case("chroma-inpaint", chroma_inpaint, from_image(chroma_call, inpaint=True), True),
    Case("cogview4-control", cogview4_control, controlled(short(plain_call, height=16, width=16)), True),
    Case("hunyuan-control", hunyuan_control, controlled(short(hunyuan_call), controlnet_conditioning_scale=0.3), True),
    Case("sana-control", sana_control, controlled(short(sana_call), controlnet_conditioning_scale=0.3), True),
)}
"""Pictures that the image starts from, or that a network beside follows."""
