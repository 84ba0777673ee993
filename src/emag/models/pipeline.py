"""The pipeline of the small models: Stable Diffusion 3's, with words of our own instead of text encoders."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from ..errors import BadValue

ABSENT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "tokenizer_3")


class Words(Protocol):
    """What encodes prompts: word ids [batch, words] to states [batch, words, dim] and a pooled vector [batch, dim]."""

    def check(self, prompt: str) -> None:
        """Raise `BadValue` for a prompt that cannot be drawn."""

    def prompt_ids(self, prompts: Sequence[str]) -> torch.Tensor:
        """Word ids [batch, words]; the empty prompt is all padding."""

    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...


def uniform_sigmas(count: int) -> list[float]:
    """Noise levels 1, ..., 1/count, evenly spaced; the scheduler adds the final 0."""
    if count is None or count < 1:
        raise BadValue(f"num_inference_steps must be at least 1, got {count}")
    return torch.linspace(1, 1 / count, count, dtype=torch.float64).tolist()


def call(**defaults: Any) -> Callable[..., Any]:
    """`StableDiffusion3Pipeline.__call__` with other defaults, and with evenly spaced noise levels unless they are given."""
    parent = StableDiffusion3Pipeline.__call__
    signature = inspect.signature(parent)
    signature = signature.replace(parameters=[
        p.replace(default=defaults[name]) if name in defaults else p for name, p in signature.parameters.items()])

    @torch.no_grad()
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Make images. Arguments as in `StableDiffusion3Pipeline`."""
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        values = {name: value for name, value in bound.arguments.items() if name != "self"}
        if values["sigmas"] is None:
            values["sigmas"] = uniform_sigmas(values["num_inference_steps"])
        return parent(self, **values)

    __call__.__signature__ = signature
    return __call__


class SmallPipeline(StableDiffusion3Pipeline):
    """`StableDiffusion3Pipeline` for a network with words of its own.

    Same call, but sigmas are evenly spaced from 1 to 1/N unless given, and the empty prompt is the unconditional one. Raises
    `BadValue` for a prompt that the words refuse, and for sizes above the trained one.
    """

    _optional_components = [*StableDiffusion3Pipeline._optional_components, *ABSENT]

    @classmethod
    def build(cls, transformer: Any, words: Any, vae: Any) -> Any:
        """A pipeline around a network, its words and its autoencoder."""
        return cls(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=vae,
                   text_encoder_3=words, **dict.fromkeys(ABSENT))

    __call__ = call()

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
        words: Words = self.text_encoder_3
        states, pooled = words(words.prompt_ids(prompts).to(device))
        return states.repeat_interleave(per, 0), pooled.repeat_interleave(per, 0)

    def check_inputs(self, prompt: Any, prompt_2: Any, prompt_3: Any, height: int, width: int, **rest: Any) -> None:
        """Raise `BadValue` for anything that cannot be drawn, before any network call."""
        largest = self.transformer.config.pos_embed_max_size * self.patch_size * self.vae_scale_factor
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
            self.text_encoder_3.check(text)


def _texts(prompt: str | list[str] | None) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt or ())


def _as_many(negative: str | list[str], count: int) -> list[str]:
    if isinstance(negative, str):
        return [negative] * count
    if len(negative) != count:
        raise BadValue(f"{len(negative)} negative prompts for {count} prompts: give one, or one for each")
    return list(negative)
