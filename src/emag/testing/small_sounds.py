"""Small pipelines that make sounds, as in `small`."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    FlowMatchEulerDiscreteScheduler,
    LongCatAudioDiTPipeline,
    LongCatAudioDiTTransformer,
    ModelMixin,
)

from .small import TEXT, Case, awaken, generators, noise, quiet
from .small_ragged import Ragged

CHANNELS = 4


class Sound(Ragged):
    """A case whose pipeline makes sounds."""

    def run(self, pipe: Any, seeds: tuple[int, ...] = (8, 9), **more: Any) -> torch.Tensor:
        return pipe(**self.call(seeds, **more)).audios


class Unread(ModelMixin):
    """A stand-in for an autoencoder: latents go out as they are."""

    def __init__(self, **config: Any):
        super().__init__()
        self.config = SimpleNamespace(**config)
        self.gain = torch.nn.Parameter(torch.ones(1))


class Packed(ModelMixin):
    """A stand-in for the encoder of text, lyrics and timbre: the text as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.silence_latent = torch.nn.Parameter(noise(5, 1, 16, CHANNELS))
        self.null_condition_emb = torch.nn.Parameter(noise(900, 1, 1, 12))

    def forward(self, text_hidden_states: torch.Tensor, **more: Any) -> tuple[torch.Tensor, None]:
        return text_hidden_states, None


def _told(prompts: list[str]) -> torch.Tensor:
    """Text states [prompts, TEXT, 12]; a number stands for the text of that seed."""
    return torch.cat([noise(100 + int(prompt), 1, TEXT, 12) for prompt in prompts])


def longcat_audio(layers: int = 3, seed: int = 0) -> LongCatAudioDiTPipeline:
    net = LongCatAudioDiTTransformer(dit_dim=24, dit_depth=layers, dit_heads=2, dit_text_dim=12, latent_dim=CHANNELS,
                                     ff_mult=2.0)
    pipe = LongCatAudioDiTPipeline(vae=Unread(sample_rate=16, downsampling_ratio=1), text_encoder=None, tokenizer=None,
                                   transformer=awaken(net, seed), scheduler=None)
    pipe.encode_prompt = lambda prompts, device: (
        _told(prompts), torch.tensor([2 + int(prompt) % (TEXT - 1) for prompt in prompts]))
    return quiet(pipe)


def ace_step(layers: int = 3, seed: int = 0) -> AceStepPipeline:
    """Its first and third block see three patches to either side."""
    net = AceStepTransformer1DModel(
        hidden_size=24, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        head_dim=12, in_channels=3 * CHANNELS, audio_acoustic_hidden_dim=CHANNELS, sliding_window=3, encoder_hidden_size=12)
    pipe = AceStepPipeline(vae=Unread(sampling_rate=16, downsampling_ratios=(1,)), text_encoder=None, tokenizer=None,
                           transformer=awaken(net, seed), condition_encoder=Packed(),
                           scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0))
    pipe.encode_prompt = lambda prompt, **more: (_told(prompt), None, None, None)
    return quiet(pipe)


def longcat_audio_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"prompt": [str(seed) for seed in seeds], "negative_prompt": ["0"] * len(seeds), "audio_duration_s": 1.0,
            "generator": generators(seeds), "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent", **more}


def ace_step_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Of odd length: the last patch is filled up."""
    return {"prompt": [str(seed) for seed in seeds], "audio_duration": 15 / 16, "generator": generators(seeds),
            "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent", **more}


MORE: dict[str, Case] = {case.name: case for case in (
    Sound("longcat-audio", longcat_audio, longcat_audio_call, True),
    Sound("ace-step", ace_step, ace_step_call, True),
)}
"""Sounds, whose x_t is a sequence in time."""
