"""Small pipelines that make sounds, as in `small`."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    AudioLDM2Pipeline,
    AudioLDM2UNet2DConditionModel,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    LongCatAudioDiTPipeline,
    LongCatAudioDiTTransformer,
    ModelMixin,
    StableAudio3AudioToAudioPipeline,
    StableAudio3DiTModel,
    StableAudio3InpaintPipeline,
    StableAudio3Pipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)

from .small import TEXT, Case, awaken, generators, noise, quiet
from .small_ragged import Ragged, valid
from .small_unet import calm, ddim, deep_vae

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
        self.downsampling_ratio = self.hop_length = 1

    def encode(self, waves: torch.Tensor) -> Any:
        return SimpleNamespace(latents=self.gain * waves)


class Lasting(ModelMixin):
    """A stand-in for the embedder of a duration: as many numbers as a text token has."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.linspace(-1, 1, 12))

    def forward(self, seconds: torch.Tensor) -> torch.Tensor:
        return seconds[:, None] * self.gain


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


def stable_audio3(cls: Any = StableAudio3Pipeline, layers: int = 3, seed: int = 0) -> Any:
    net = StableAudio3DiTModel(io_channels=CHANNELS, embed_dim=24, depth=layers, num_heads=2, cond_token_dim=12,
                               global_cond_dim=12, local_add_cond_dim=CHANNELS + 1, timestep_features_dim=8, ff_mult=1.5,
                               num_memory_tokens=3)
    return quiet(cls(vae=Unread(sampling_rate=16, latent_dim=CHANNELS), text_encoder=None, tokenizer=None,
                     duration_embedder=Lasting(), transformer=awaken(net, seed),
                     scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0)))


def audioldm2(seed: int = 0) -> AudioLDM2Pipeline:
    """Nine blocks in transformers of three kinds: of the sound itself, of the words of a language model, of a text."""
    kinds = (None, 12, 10)
    net = AudioLDM2UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=(kinds, kinds), attention_head_dim=2)
    parts: dict[str, Any] = dict.fromkeys(("text_encoder", "projection_model", "tokenizer", "tokenizer_2",
                                           "feature_extractor"))
    parts |= {"text_encoder_2": Unread(model_type="t5"), "language_model": Unread()}
    waves = Unread(upsample_rates=(1,), sampling_rate=16, model_in_dim=64)
    return quiet(AudioLDM2Pipeline(vae=deep_vae(), unet=calm(awaken(net, seed)), scheduler=ddim(), vocoder=waves, **parts))


def stable_audio(layers: int = 3, seed: int = 0) -> StableAudioPipeline:
    net = StableAudioDiTModel(sample_size=16, in_channels=CHANNELS, out_channels=CHANNELS, num_layers=layers,
                              attention_head_dim=16, num_attention_heads=2, num_key_value_attention_heads=1,
                              cross_attention_dim=24, cross_attention_input_dim=12, global_states_input_dim=24,
                              time_proj_dim=8)
    given = awaken(StableAudioProjectionModel(text_encoder_dim=12, conditioning_dim=12, min_value=0, max_value=16), 5)
    steps = EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", sigma_min=0.3, sigma_max=50.0, sigma_data=1.0)
    return quiet(StableAudioPipeline(vae=Unread(sampling_rate=16, audio_channels=1), text_encoder=None, tokenizer=None,
                                     projection_model=given, transformer=awaken(net, seed), scheduler=steps))


def longcat_audio_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    return {"prompt": [str(seed) for seed in seeds], "negative_prompt": ["0"] * len(seeds), "audio_duration_s": 1.0,
            "generator": generators(seeds), "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent", **more}


def ace_step_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Of odd length: the last patch is filled up."""
    return {"prompt": [str(seed) for seed in seeds], "audio_duration": 15 / 16, "generator": generators(seeds),
            "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent", **more}


def stable_audio3_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    texts = {"prompt_embeds": _told([str(seed) for seed in seeds]), "encoder_attention_mask": valid(seeds).long()}
    return {**texts, "duration": 1.0, "generator": generators(seeds), "num_inference_steps": 8, "output_type": "latent",
            **more}


def stable_audio_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """With latents: those of lists of generators it does not draw."""
    call = against(stable_audio3_call)(seeds, **{
        "audio_end_in_s": 1.0, "latents": torch.cat([noise(400 + seed, 1, CHANNELS, 16) for seed in seeds]), **more})
    masks = {"attention_mask": call.pop("encoder_attention_mask"),
             "negative_attention_mask": call.pop("negative_encoder_attention_mask")}
    return {**masks, **{name: value for name, value in call.items() if name != "duration"}}


def against(call: Any) -> Any:
    """`call` with guidance and a negative prompt."""
    return lambda seeds=(8, 9), **more: call(seeds, **{
        "negative_prompt_embeds": noise(900, 1, TEXT, 12).repeat(len(seeds), 1, 1), "guidance_scale": 4.0,
        "negative_encoder_attention_mask": valid((2,) * len(seeds)).long(), **more})


def from_waves(call: Any, **shared: Any) -> Any:
    """`call` with a sound for each one that is made."""
    return lambda seeds=(8, 9), **more: call(seeds, **{
        "audio": torch.cat([noise(300 + seed, 1, CHANNELS, 16) for seed in seeds]), **shared, **more})


def audioldm2_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    texts = {f"{sign}{name}": torch.cat([noise(base + (0 if sign else seed), 1, TEXT, width) for seed in seeds])
             for sign in ("", "negative_")
             for name, base, width in (("prompt_embeds", 100, 10), ("generated_prompt_embeds", 500, 12))}
    return {**texts, "attention_mask": valid(seeds).long(), "negative_attention_mask": valid((2,) * len(seeds)).long(),
            "audio_length_in_s": 4.0, "generator": generators(seeds), "guidance_scale": 4.0, "num_inference_steps": 8,
            "output_type": "latent", **more}


MORE: dict[str, Case] = {case.name: case for case in (
    Sound("longcat-audio", longcat_audio, longcat_audio_call, True),
    Sound("ace-step", ace_step, ace_step_call, True),
    Sound("audioldm2", audioldm2, audioldm2_call, True),
    Sound("stable-audio", stable_audio, stable_audio_call, True),
    Sound("stable-audio-3", stable_audio3, against(stable_audio3_call), True),
    Sound("stable-audio-3-follow", lambda **kw: stable_audio3(StableAudio3AudioToAudioPipeline, **kw),
          from_waves(stable_audio3_call, init_noise_level=0.8), False),
    Sound("stable-audio-3-inpaint", lambda **kw: stable_audio3(StableAudio3InpaintPipeline, **kw),
          from_waves(stable_audio3_call, mask_start_seconds=0.2, mask_end_seconds=0.7), False),
)}
"""Sounds, whose x_t is a sequence in time."""
