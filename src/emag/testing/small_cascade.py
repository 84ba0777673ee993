"""Small Stable Cascade pipelines: the decoder, and with its prior."""

from typing import Any

import torch
from diffusers import (
    DDPMWuerstchenScheduler,
    StableCascadeCombinedPipeline,
    StableCascadeDecoderPipeline,
    StableCascadeUNet,
)

from .small import Case, awaken, generators, noise, quiet
from .small_kandinsky2 import SEEN, written


def network(seed: int = 0, **config: Any) -> StableCascadeUNet:
    """Two blocks on the way down; those on the way up are not counted, and the last of them runs twice."""
    net = StableCascadeUNet(**{**dict(
        in_channels=4, out_channels=4, timestep_ratio_embedding_dim=8, conditioning_dim=12, block_out_channels=(8, 16),
        num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1), up_num_layers_per_block=(1, 1),
        up_blocks_repeat_mappers=(2, 1), clip_text_pooled_in_channels=SEEN, clip_seq=3, effnet_in_channels=4, dropout=0.0,
        timestep_conditioning_type=("sca",)), **config})
    return awaken(net, seed)


def cascade(seed: int = 0) -> StableCascadeDecoderPipeline:
    return quiet(StableCascadeDecoderPipeline(decoder=network(seed), tokenizer=None, text_encoder=None, vqgan=None,
                                              scheduler=DDPMWuerstchenScheduler()))


def encode(prompt: list[str], num_images_per_prompt: int, do_classifier_free_guidance: bool, **unread: Any) -> Any:
    """In the place of a text encoder: tokens and pooled, of the prompts and of the negative ones."""
    texts = torch.cat([written(text) for text in prompt]).repeat_interleave(num_images_per_prompt, 0)
    negative = written("").repeat(len(texts), 1, 1) if do_classifier_free_guidance else None
    return texts, texts[:, :1], negative, None if negative is None else negative[:, :1]


def combined(seed: int = 0) -> StableCascadeCombinedPipeline:
    prior = network(1, clip_text_in_channels=SEEN, clip_image_in_channels=4, effnet_in_channels=None)
    blank = dict.fromkeys(("tokenizer", "text_encoder", "vqgan", "prior_tokenizer", "prior_text_encoder"))
    pipe = StableCascadeCombinedPipeline(decoder=network(seed), prior_prior=prior, scheduler=DDPMWuerstchenScheduler(),
                                         prior_scheduler=DDPMWuerstchenScheduler(), **blank)
    for part in (pipe.prior_pipe, pipe.decoder_pipe):
        part.encode_prompt = encode
    return quiet(pipe)


def call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    texts, negative = torch.cat([written(str(seed)) for seed in seeds]), written("").repeat(len(seeds), 1, 1)
    return {"image_embeddings": torch.cat([noise(600 + seed, 1, 4, 1, 1) for seed in seeds]), "prompt_embeds": texts,
            "prompt_embeds_pooled": texts[:, :1], "negative_prompt_embeds": negative,
            "negative_prompt_embeds_pooled": negative[:, :1], "generator": generators(seeds), "guidance_scale": 4.0,
            "num_inference_steps": 8, "output_type": "latent", **more}


def combined_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"prompt": [str(seed) for seed in seeds], "generator": generators(seeds), "height": 43, "width": 43,
            "prior_num_inference_steps": 2, "prior_guidance_scale": 2.0, "decoder_guidance_scale": 4.0,
            "num_inference_steps": 8, "output_type": "latent", **more}


MORE = {case.name: case for case in (
    Case("cascade", cascade, call, True),
    Case("cascade-combined", combined, combined_call, True, "decoder_guidance_scale"),
)}
