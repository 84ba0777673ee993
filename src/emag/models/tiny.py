"""The small text-to-image pipeline: Stable Diffusion 3's, on pixels, with a vocabulary instead of text encoders."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, FlowMatchEulerDiscreteScheduler, ModelMixin, StableDiffusion3Pipeline
from diffusers.configuration_utils import register_to_config

from ..errors import BadValue
from .words import WordEncoder, class_of

GUIDANCE_SCALE = 2.5
ABSENT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "tokenizer_3")


class PixelVAE(ModelMixin, ConfigMixin):
    """The identity in place of an autoencoder: latents are pixels in [-1, 1] times `scaling_factor`."""

    @register_to_config
    def __init__(self, scaling_factor: float = 2.0, shift_factor: float = 0.0, block_out_channels: tuple = (1,),
                 latent_channels: int = 3):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()), requires_grad=False)  # what device and dtype are read from

    def decode(self, latents: torch.Tensor, return_dict: bool = False, **_: Any) -> tuple[torch.Tensor]:
        """Pixels [batch, 3, height, width] of latents already divided by the scaling factor."""
        return (latents,)


def uniform_sigmas(count: int) -> list[float]:
    """Noise levels 1, ..., 1/count, evenly spaced; the scheduler adds the final 0."""
    if count is None or count < 1:
        raise BadValue(f"num_inference_steps must be at least 1, got {count}")
    return torch.linspace(1, 1 / count, count, dtype=torch.float64).tolist()


def _signature(parent: Callable[..., Any], **defaults: Any) -> inspect.Signature:
    signature = inspect.signature(parent)
    return signature.replace(parameters=[
        p.replace(default=defaults[name]) if name in defaults else p for name, p in signature.parameters.items()])


_CALL = _signature(StableDiffusion3Pipeline.__call__, guidance_scale=GUIDANCE_SCALE)


class TinyPipeline(StableDiffusion3Pipeline):
    """`StableDiffusion3Pipeline` on pixels, for prompts that name one of a few classes ("a photo of a frog").

    Same call, but guidance_scale is 2.5, sigmas are evenly spaced from 1 to 1/N unless given, and the empty prompt is
    the unconditional one. Raises `BadValue` for a prompt without a known class, and for sizes above the trained one.
    """

    emag_model = "tiny"
    _optional_components = [*StableDiffusion3Pipeline._optional_components, *ABSENT]

    @classmethod
    def build(cls, transformer: Any, words: WordEncoder, scale: float) -> "TinyPipeline":
        """A pipeline around a network, its words and the number that pixels in [-1, 1] are multiplied by."""
        return cls(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
                   vae=PixelVAE(scaling_factor=scale, latent_channels=transformer.config.in_channels),
                   text_encoder_3=words, **dict.fromkeys(ABSENT))

    @torch.no_grad()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make images. Arguments as in `StableDiffusion3Pipeline`."""
        bound = _CALL.bind(self, *args, **kwargs)
        bound.apply_defaults()
        values = {name: value for name, value in bound.arguments.items() if name != "self"}
        if values["sigmas"] is None:
            values["sigmas"] = uniform_sigmas(values["num_inference_steps"])
        return super().__call__(**values)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that a prompt can ask for."""
        return tuple(self.text_encoder_3.config.classes)

    def encode_prompt(self, prompt: str | list[str] | None, *unused: Any, device: Any = None,
                      num_images_per_prompt: int = 1, do_classifier_free_guidance: bool = True,
                      negative_prompt: str | list[str] | None = None, prompt_embeds: torch.Tensor | None = None,
                      negative_prompt_embeds: torch.Tensor | None = None,
                      pooled_prompt_embeds: torch.Tensor | None = None,
                      negative_pooled_prompt_embeds: torch.Tensor | None = None, **ignored: Any) -> tuple:
        """Encoder states [batch, words, dim], the same for the negative prompt, and both pooled [batch, dim].

        The second and fourth are None without classifier-free guidance. Embeddings given are passed through.
        """
        device, per = device or self._execution_device, num_images_per_prompt
        if prompt_embeds is None:
            prompt = [prompt] if isinstance(prompt, str) else list(prompt or ())
            prompt_embeds, pooled_prompt_embeds = self._encode(prompt, device, per)
        count = len(prompt) if prompt else len(prompt_embeds)
        if do_classifier_free_guidance and negative_prompt_embeds is None:
            negatives = _as_many(negative_prompt or "", count)
            negative_prompt_embeds, negative_pooled_prompt_embeds = self._encode(negatives, device, per)
        return prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds, negative_pooled_prompt_embeds

    def _encode(self, prompts: Sequence[str], device: Any, per: int) -> tuple[torch.Tensor, torch.Tensor]:
        words = self.text_encoder_3
        states, pooled = words(words.ids([class_of(prompt, self.classes) for prompt in prompts]).to(device))
        return states.repeat_interleave(per, 0), pooled.repeat_interleave(per, 0)

    def check_inputs(self, prompt: Any, prompt_2: Any, prompt_3: Any, height: int, width: int, **rest: Any) -> None:
        """Raise `BadValue` for anything that cannot be drawn, before any network call."""
        largest = self.transformer.config.pos_embed_max_size * self.patch_size
        if not 0 < height <= largest or not 0 < width <= largest:
            raise BadValue(f"this model draws at most {largest}x{largest} pixels, asked for {height}x{width}")
        if any(value is not None for value in (prompt_2, prompt_3, rest.get("negative_prompt_2"),
                                               rest.get("negative_prompt_3"))):
            raise BadValue("this model has one word encoder: use prompt and negative_prompt only")
        try:
            super().check_inputs(prompt, prompt_2, prompt_3, height, width, **rest)
        except ValueError as error:
            raise BadValue(str(error)) from error
        for text in _texts(prompt) + _texts(rest.get("negative_prompt")):
            if not isinstance(text, str):
                raise BadValue(f"a prompt must be text, got {text!r}")
            class_of(text, self.classes)


TinyPipeline.__call__.__signature__ = _CALL


def _texts(prompt: str | list[str] | None) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt or ())


def _as_many(negative: str | list[str], count: int) -> list[str]:
    if isinstance(negative, str):
        return [negative] * count
    if len(negative) != count:
        raise BadValue(f"{len(negative)} negative prompts for {count} prompts: give one, or one for each")
    return list(negative)
