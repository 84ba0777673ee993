"""Small modular pipelines: the denoising loops of diffusers' modular blocks around the networks of the small pipelines."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.modular_pipelines import ModularPipelineBlocks
from diffusers.modular_pipelines.flux2.denoise import Flux2KleinBaseDenoiseStep
from diffusers.modular_pipelines.hunyuan_video1_5.denoise import HunyuanVideo15DenoiseStep
from diffusers.modular_pipelines.krea2.denoise import Krea2DenoiseStep
from diffusers.modular_pipelines.ltx.denoise import LTXDenoiseStep
from diffusers.modular_pipelines.qwenimage.denoise import QwenImageDenoiseStep, QwenImageEditDenoiseStep
from diffusers.modular_pipelines.stable_diffusion_3.denoise import StableDiffusion3DenoiseStep
from diffusers.modular_pipelines.stable_diffusion_xl.denoise import StableDiffusionXLDenoiseStep
from diffusers.modular_pipelines.wan.denoise import Wan22DenoiseStep, WanDenoiseStep
from diffusers.modular_pipelines.z_image.denoise import ZImageDenoiseStep

from emag.testing.small import CASES, Case
from emag.testing.small_edits import MORE as EDITS
from emag.testing.small_joint import MORE as JOINT
from emag.testing.small_ragged import MORE as RAGGED
from emag.testing.small_unet import MORE as UNET
from emag.testing.small_video import MORE as VIDEO
from emag.testing.small_video import Video, video_call
from emag.testing.small_video_more import MORE as VIDEOS
from emag.testing.small_wan import SWITCH, experts
from spy import attribute, scheduler_steps

TEXTS = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")

Calls = list[dict[str, Any]]


@dataclass(frozen=True)
class Modular:
    """One modular pipeline beside the standard one of the same network.

    further: inputs of its loop beside latents and texts, made from a call of the standard pipeline and the network calls
    that it made. rescales: the loop gives what the guider returns the norm of its conditional prediction, token by token.
    anchored: its CFG is cond + scale (cond - uncond). boundary: where a second network takes over. steady: steps for which
    rounding, another in a doubled call than in two, stays below `share` of the largest value.
    """

    case: Case
    blocks: type[ModularPipelineBlocks]
    further: Callable[[dict[str, Any], Calls], dict[str, Any]] = lambda call, calls: {}
    rescales: bool = False
    anchored: bool = False
    boundary: float | None = None
    steady: int | None = None
    share: float = 1e-5

    def standard(self, pipe: Any, **more: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        """What the scheduler of the standard pipeline gets, step by step, and what the modular loop needs to start there."""
        call, calls = {**self.case.call(**more), **more}, []
        network = getattr(pipe, network_of(pipe))
        forward, signature = network.forward, inspect.signature(network.forward)

        def noting(*args: Any, **kwargs: Any) -> Any:
            calls.append(signature.bind(*args, **kwargs).arguments)
            return forward(*args, **kwargs)

        with attribute(network, "forward", noting), scheduler_steps(pipe) as given:
            self.case.run(pipe, **more)
        texts = {name: call[name] for name in TEXTS if name in call}
        start = {"latents": next(iter(calls[0].values()))[:len(texts["prompt_embeds"])], **texts}
        return torch.stack(given), {**start, **self.further(call, calls)}

    def pipe(self, standard: Any, guider: Any = None) -> Any:
        """A modular pipeline with the network and the scheduler of the standard one."""
        pipe, name = self.blocks().init_pipeline(), network_of(standard)
        pipe.update_components(**{name: getattr(standard, name)}, scheduler=standard.scheduler)
        if self.boundary:
            pipe.update_components(transformer_2=standard.transformer_2, boundary_ratio=self.boundary)
        if guider is not None:
            guider.attach(pipe) if hasattr(guider, "attach") else pipe.update_components(guider=guider)
        return pipe

    def near(self, got: torch.Tensor, want: torch.Tensor, times: float = 1.0) -> bool:
        got, want = got[:self.steady], want[:self.steady]
        bound = times * self.share * float(want.abs().max())
        return got.shape == want.shape and torch.allclose(got, want, rtol=0, atol=bound)

    def run(self, pipe: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """What the scheduler gets, step by step."""
        with scheduler_steps(pipe) as given:
            pipe(**inputs, **rewound(pipe.scheduler), output="latents")
        return torch.stack(given)


def network_of(pipe: Any) -> str:
    return "unet" if hasattr(pipe, "unet") else "transformer"


def rewound(scheduler: Any) -> dict[str, Any]:
    """The steps of the run before, once more: as `set_timesteps` leaves them."""
    scheduler.timesteps, scheduler._step_index = scheduler.timesteps.clone(), None
    if hasattr(scheduler, "dt"):  # Heun's: its next evaluation is the first of a step
        scheduler.dt = None
    return {"timesteps": scheduler.timesteps, "num_inference_steps": scheduler.num_inference_steps}


def _qwen(call: dict[str, Any], calls: Calls) -> dict[str, Any]:
    texts = {name: call[name] for name in call if "prompt_embeds" in name}
    return {"denoiser_input_fields": {"img_shapes": calls[0]["img_shapes"], **texts}}


def _klein(call: dict[str, Any], calls: Calls) -> dict[str, Any]:
    return {"txt_ids": calls[0]["txt_ids"], "negative_txt_ids": calls[1]["txt_ids"], "latent_ids": calls[0]["img_ids"]}


def _ltx(call: dict[str, Any], calls: Calls) -> dict[str, Any]:
    return {"dtype": torch.float32, "rope_interpolation_scale": calls[0]["rope_interpolation_scale"],
            **{name: call[name] for name in ("height", "width", "num_frames", "prompt_attention_mask",
                                             "negative_prompt_attention_mask")}}


def _krea2(call: dict[str, Any], calls: Calls) -> dict[str, Any]:
    return {"position_ids": calls[0]["position_ids"], "batch_size": len(call["prompt_embeds"]),
            **{name: call[name] for name in ("prompt_embeds_mask", "negative_prompt_embeds_mask")}}


def _z_image(call: dict[str, Any], calls: Calls) -> dict[str, Any]:
    latents = torch.stack(calls[0]["x"][:len(call["prompt_embeds"])]).squeeze(2)
    return {"latents": latents, "dtype": torch.float32}


def _hunyuan_15(call: dict[str, Any], calls: Calls) -> dict[str, Any]:
    latents, picture, mask = calls[0]["hidden_states"].split((4, 4, 1), 1)
    texts = {name: value for name, value in call.items() if "prompt_embeds" in name}
    return {"latents": latents, "cond_latents_concat": picture, "mask_concat": mask,
            "image_embeds": calls[0]["image_embeds"], **texts}


def _sdxl(call: dict[str, Any], calls: Calls) -> dict[str, Any]:
    against, ids = calls[0]["added_cond_kwargs"]["time_ids"].chunk(2)
    texts = {name: call[name] for name in TEXTS}
    return {"denoiser_input_fields": {"add_time_ids": ids, "negative_add_time_ids": against, **texts}}


def _ddim_sdxl() -> Any:
    pipe = UNET["sdxl"].pipe()
    pipe.scheduler = DDIMScheduler()
    return pipe


def _klein_edit(call: dict[str, Any], calls: Calls) -> dict[str, Any]:
    tokens = int((calls[0]["img_ids"][0, :, 0] == 0).sum())
    (latents, pictures), (ids, picture_ids) = (
        (calls[0][name][:, :tokens], calls[0][name][:, tokens:]) for name in ("hidden_states", "img_ids"))
    return {**_klein(call, calls), "latents": latents, "latent_ids": ids, "image_latents": pictures,
            "image_latent_ids": picture_ids}


def _qwen_edit(call: dict[str, Any], calls: Calls) -> dict[str, Any]:
    tokens = math.prod(calls[0]["img_shapes"][0][0])
    x = calls[0]["hidden_states"]
    return {**_qwen(call, calls), "latents": x[:, :tokens], "image_latents": x[:, tokens:]}


MODULAR = {modular.case.name: modular for modular in (
    Modular(CASES["sd3"], StableDiffusion3DenoiseStep),
    Modular(JOINT["qwen"], QwenImageDenoiseStep, _qwen, rescales=True),
    Modular(JOINT["klein"], Flux2KleinBaseDenoiseStep, _klein),
    Modular(VIDEO["wan"], WanDenoiseStep, lambda call, calls: {"dtype": torch.float32}),
    Modular(VIDEO["ltx"], LTXDenoiseStep, _ltx),
    Modular(RAGGED["z-image"], ZImageDenoiseStep, _z_image, anchored=True, steady=4, share=3e-4),
    Modular(RAGGED["krea2"], Krea2DenoiseStep, _krea2, anchored=True, steady=4, share=3e-4),
    Modular(VIDEOS["hunyuan-video-1.5"], HunyuanVideo15DenoiseStep, _hunyuan_15),
    Modular(replace(UNET["sdxl"], pipe=_ddim_sdxl), StableDiffusionXLDenoiseStep, _sdxl, steady=4, share=3e-3),
    Modular(EDITS["klein-edit"], Flux2KleinBaseDenoiseStep, _klein_edit),
    Modular(EDITS["qwen-edit"], QwenImageEditDenoiseStep, _qwen_edit, rescales=True),
)}

EXPERTS = Modular(Video("experts", experts, video_call, True), Wan22DenoiseStep, lambda call, calls: {
    "dtype": torch.float32, "denoiser_input_fields": {}}, boundary=SWITCH)
