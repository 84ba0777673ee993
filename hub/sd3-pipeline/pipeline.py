"""Stable Diffusion 3 with one more argument: a guidance of emag, in words."""

import inspect
import shlex
from typing import Any

from diffusers import StableDiffusion3Pipeline

import emag
from emag.records import recipe


class GuidedStableDiffusion3Pipeline(StableDiffusion3Pipeline):
    """`pipe(prompt, guidance="emag=1.5 apg=4")`: rules in order, as after -g of `emag generate`; None guides nothing."""

    def __call__(self, *args: Any, guidance: str | None = None, **kwargs: Any) -> Any:
        if guidance is None:
            return super().__call__(*args, **kwargs)
        with emag.guide(self, *(recipe.parse(word) for word in shlex.split(guidance))):
            return self(*args, **kwargs)

    # what emag and diffusers read of a call: the arguments of the pipeline, and ours
    _own = inspect.signature(StableDiffusion3Pipeline.__call__)
    __call__.__signature__ = _own.replace(parameters=[  # type: ignore[attr-defined]
        *_own.parameters.values(), inspect.Parameter("guidance", inspect.Parameter.KEYWORD_ONLY, default=None)])
