"""Small Kandinsky 2.1 and 2.2 pipelines, with their priors where they bring one, and unCLIP's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    KandinskyCombinedPipeline,
    KandinskyImg2ImgCombinedPipeline,
    KandinskyImg2ImgPipeline,
    KandinskyInpaintCombinedPipeline,
    KandinskyInpaintPipeline,
    KandinskyPipeline,
    KandinskyV22CombinedPipeline,
    KandinskyV22ControlnetImg2ImgPipeline,
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgCombinedPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintCombinedPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    PriorTransformer,
    StableUnCLIPPipeline,
    UnCLIPImageVariationPipeline,
    UnCLIPPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from PIL import Image

from .small import TEXT, Case, awaken, generators, noise, quiet
from .small_unconditional import vq
from .small_unet import calm, ddim, deep_vae, unet

SIDE = 64  # pixels; eight to a latent
SEEN = 12  # numbers of a picture's or a text's embedding
TURNED = Image.linear_gradient("L").convert("RGB").resize((SIDE, SIDE))


def added(seed: int = 0, **config: Any) -> UNet2DConditionModel:
    """Four blocks, each an attention module that sees the text as well: one down, one in the middle, two up."""
    net = UNet2DConditionModel(**{**dict(
        sample_size=8, in_channels=4, out_channels=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        cross_attention_dim=SEEN, attention_head_dim=4, resnet_time_scale_shift="scale_shift"), **config})
    return calm(awaken(net, seed))


def written(text: str) -> torch.Tensor:
    """Numbers [1, TEXT + 1, SEEN] of a text: a number stands for the text of that seed, "" for the negative one."""
    return noise(100 + int(text) if text else 900, 1, TEXT + 1, SEEN)


def encode(prompt: Any, device: Any, copies: int, guided: bool, *negative: Any) -> tuple[torch.Tensor, ...]:
    """In the place of a text encoder: pooled, tokens, mask; negative rows first."""
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    texts = [text for text in texts for _ in range(copies)]
    states = torch.cat([written(text) for text in [""] * (len(texts) * guided) + texts])
    return states[:, 0], states[:, 1:], torch.ones(len(states), TEXT, dtype=torch.bool)


def decoder_parts(old: bool, seed: int, **config: Any) -> dict[str, Any]:
    """Network, scheduler and autoencoder of Kandinsky 2.1, or of 2.2."""
    kind = (dict(addition_embed_type="text_image", encoder_hid_dim_type="text_image_proj") if old else
            dict(addition_embed_type="image", encoder_hid_dim_type="image_proj"))
    more: dict[str, Any] = {"text_encoder": None, "tokenizer": None} if old else {}
    return {"unet": added(seed, **{"encoder_hid_dim": SEEN, **kind, **config}), "movq": vq(4, latent_channels=4),
            "scheduler": DDIMScheduler(clip_sample=False) if old else DDPMScheduler(clip_sample=False), **more}


def kandinsky(cls: Any = KandinskyPipeline, old: bool = True, seed: int = 0, **config: Any) -> Any:
    pipe = quiet(cls(**decoder_parts(old, seed, **config)))
    pipe._encode_prompt = encode
    return pipe


def combined(cls: Any, old: bool, seed: int = 0, **config: Any) -> Any:
    """A pipeline with its prior."""
    prior = awaken(PriorTransformer(num_attention_heads=2, attention_head_dim=6, num_layers=1, embedding_dim=SEEN,
                                    num_embeddings=TEXT, additional_embeddings=4), 1)
    blank = {f"prior_{name}": None for name in ("image_encoder", "text_encoder", "tokenizer", "image_processor")}
    pipe = quiet(cls(**decoder_parts(old, seed, **config), prior_prior=prior, prior_scheduler=UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000), **blank))
    for part in (pipe.prior_pipe, pipe.decoder_pipe):
        part._encode_prompt = encode
    pipe.prior_pipe.get_zero_embed = lambda batch_size, device: noise(950, 1, SEEN).expand(batch_size, SEEN)
    return pipe


def unclip_parts(seed: int) -> dict[str, Any]:
    """What both pipelines have: a decoder, and two networks that enlarge what it makes."""
    larger = dict(sample_size=16, in_channels=6, out_channels=3, block_out_channels=(4, 4), layers_per_block=1,
                  norm_num_groups=2, attention_head_dim=4, down_block_types=("ResnetDownsampleBlock2D",) * 2,
                  up_block_types=("ResnetUpsampleBlock2D",) * 2)
    decoder = added(seed, in_channels=3, out_channels=6, class_embed_type="identity")
    proj = UnCLIPTextProjModel(clip_embeddings_dim=SEEN, time_embed_dim=32, cross_attention_dim=SEEN)
    return {"decoder": decoder, "text_encoder": None, "tokenizer": None, "text_proj": awaken(proj, 3),
            "super_res_first": calm(awaken(UNet2DModel(**larger), 4)),
            "super_res_last": calm(awaken(UNet2DModel(**larger), 5)),
            "decoder_scheduler": UnCLIPScheduler(variance_type="learned_range", num_train_timesteps=1000),
            "super_res_scheduler": UnCLIPScheduler(variance_type="fixed_small_log", num_train_timesteps=1000)}


def unclip(seed: int = 0) -> Any:
    prior = awaken(PriorTransformer(num_attention_heads=2, attention_head_dim=6, num_layers=1, embedding_dim=SEEN,
                                    num_embeddings=TEXT, additional_embeddings=4), 1)
    pipe = UnCLIPPipeline(**unclip_parts(seed), prior=prior, prior_scheduler=UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000))
    pipe._encode_prompt = lambda *args: encode(*args[:4])
    return quiet(pipe)


def stable_unclip(seed: int = 0) -> Any:
    """Stable Diffusion 2 with the embedding of a picture, which a prior makes, as a class."""
    prior = awaken(PriorTransformer(num_attention_heads=2, attention_head_dim=6, num_layers=1, embedding_dim=SEEN,
                                    num_embeddings=TEXT, additional_embeddings=4), 1)
    net = unet(seed, class_embed_type="projection", projection_class_embeddings_input_dim=2 * SEEN)
    pipe = StableUnCLIPPipeline(
        prior_tokenizer=None, prior_text_encoder=None, prior=prior, prior_scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=SEEN), image_noising_scheduler=DDPMScheduler(),
        tokenizer=None, text_encoder=None, unet=net, scheduler=ddim(), vae=deep_vae())
    pipe._encode_prior_prompt = lambda prompt, device, num_images_per_prompt, do_classifier_free_guidance: encode(
        prompt, device, num_images_per_prompt, do_classifier_free_guidance)
    pipe.encode_prompt = lambda prompt, num_images_per_prompt, negative_prompt=None, **unread: (
        encode(prompt, None, num_images_per_prompt, False)[1],
        torch.cat([written("")[:, 1:]] * len(prompt) * num_images_per_prompt))
    return quiet(pipe)


def unclip_variation(seed: int = 0) -> Any:
    pipe = UnCLIPImageVariationPipeline(**unclip_parts(seed), feature_extractor=None, image_encoder=None)
    pipe._encode_prompt = encode
    pipe._encode_image = lambda image, device, copies, given: given.repeat_interleave(copies, 0)
    return quiet(pipe)


def prompted(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"prompt": [str(seed) for seed in seeds], "generator": generators(seeds), "height": SIDE, "width": SIDE,
            "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "pt", **more}


def embedded(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """A call with embeddings of pictures, in the place of a prior."""
    return {"image_embeds": torch.cat([noise(600 + seed, 1, SEEN) for seed in seeds]),
            "negative_image_embeds": noise(950, 1, SEEN).repeat(len(seeds), 1), **prompted(seeds, **more)}


def wordless(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = embedded(seeds, **more)
    return {name: value for name, value in call.items() if name != "prompt"}


def hinted(call: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        return {"hint": torch.cat([noise(620 + seed, 1, 3, SIDE, SIDE) for seed in seeds]), **call(seeds, **more)}

    return made


def late(call: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """From a picture, in nine of ten steps."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        return {"image": [TURNED.rotate(30 * seed) for seed in seeds], "strength": 0.9, **call(seeds, **more)}

    return made


def filled(call: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The lower half of one picture filled in, for each row: the pipelines keep the first row's rest in all."""
    def made(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
        mask = torch.zeros(len(seeds), 1, SIDE, SIDE)
        mask[:, :, SIDE // 2:] = 1
        return {"image": noise(640, 1, 3, SIDE, SIDE).clamp(-1, 1).repeat(len(seeds), 1, 1, 1), "mask_image": mask,
                **call(seeds, **more)}

    return made


def unclip_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    steps = more.pop("num_inference_steps", 8)
    return {"prompt": [str(seed) for seed in seeds], "generator": generators(seeds), "decoder_guidance_scale": 4.0,
            "prior_guidance_scale": 1.0, "prior_num_inference_steps": 2, "super_res_num_inference_steps": 2,
            "decoder_num_inference_steps": steps, "output_type": "np", **more}


def variation_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    call = unclip_call(seeds, **more)
    return {"image_embeddings": torch.cat([noise(600 + seed, 1, SEEN) for seed in seeds]),
            **{name: value for name, value in call.items() if not name.startswith("p")}}


def stable_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {**prompted(seeds, **{"output_type": "latent", **more}), "prior_num_inference_steps": 2}


class Decoded(Case):
    """A pipeline that gives its pictures as arrays, and has other words for its steps."""

    def run(self, pipe: Any, seeds: tuple[int, ...] = (8, 9), **more: Any) -> torch.Tensor:
        return torch.as_tensor(pipe(**self.call(seeds, **more)).images)


def _old(name: str, cls: Any, call: Any) -> Case:
    return Case(name, partial(kandinsky, cls), call, True)


def _new(name: str, cls: Any, call: Any, **config: Any) -> Case:
    return Case(name, partial(kandinsky, cls, False, **config), call, True)


def _whole(name: str, cls: Any, old: bool, call: Any, **config: Any) -> Case:
    return Case(name, partial(combined, cls, old, **config), call, True)


FILLED: dict[str, Any] = {"in_channels": 9}
HINTED: dict[str, Any] = {"in_channels": 8, "addition_embed_type": "image_hint"}

MORE = {case.name: case for case in (
    _old("kandinsky", KandinskyPipeline, embedded),
    _old("kandinsky-img2img", KandinskyImg2ImgPipeline, late(embedded)),
    Case("kandinsky-inpaint", partial(kandinsky, KandinskyInpaintPipeline, **FILLED), filled(embedded), True),
    _whole("kandinsky-combined", KandinskyCombinedPipeline, True, prompted),
    _whole("kandinsky-img2img-combined", KandinskyImg2ImgCombinedPipeline, True, late(prompted)),
    _whole("kandinsky-inpaint-combined", KandinskyInpaintCombinedPipeline, True, filled(prompted), **FILLED),
    _new("kandinsky22", KandinskyV22Pipeline, wordless),
    _new("kandinsky22-img2img", KandinskyV22Img2ImgPipeline, late(wordless)),
    _new("kandinsky22-inpaint", KandinskyV22InpaintPipeline, filled(wordless), **FILLED),
    _new("kandinsky22-control", KandinskyV22ControlnetPipeline, hinted(wordless), **HINTED),
    _new("kandinsky22-control-img2img", KandinskyV22ControlnetImg2ImgPipeline, hinted(late(wordless)), **HINTED),
    _whole("kandinsky22-combined", KandinskyV22CombinedPipeline, False, prompted),
    _whole("kandinsky22-img2img-combined", KandinskyV22Img2ImgCombinedPipeline, False, late(prompted)),
    _whole("kandinsky22-inpaint-combined", KandinskyV22InpaintCombinedPipeline, False, filled(prompted), **FILLED),
    Decoded("unclip", unclip, unclip_call, True, "decoder_guidance_scale"),
    Case("stable-unclip", stable_unclip, stable_call, True),
    Decoded("unclip-variation", unclip_variation, variation_call, True, "decoder_guidance_scale"),
)}
