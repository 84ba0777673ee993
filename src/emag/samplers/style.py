"""Style-prompting guidance's other half: latents with the mean and the spread of a style image's, channel by channel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import BadValue, Unsupported
from ..maths.vectors import widened
from .base import Corrector, GuidedModel

KEY = "latents"
TINY = 1e-7


@dataclass(frozen=True)
class StyleMoments(Corrector):
    """AdaIN after each step: every channel gets the mean and the deviation of the noised style image's.

    (x - mean) / std * std_s + mean_s, over height and width, for each sample and channel; the style is alpha s + sigma n
    with noise of its own for every step and sample. Beside `SPG` it is the published method. For spatial latents
    [batch, channels, height, width]; packed ones are refused.

    Args:
        style: a safetensors file whose tensor "latents" [1 or images, ...] is the style image as the network takes it.
            Needed. Raises `BadValue` before a run whose file is missing.
        level: the noise level at which the style is taken: "left", that of the step just made, as in the authors' code,
            or "reached", x's own.

    >>> import emag
    >>> emag.StyleMoments("style.safetensors").level
    'left'
    """

    style: str = ""
    level: Literal["left", "reached"] = "left"

    name = "style-moments"
    paper = "arXiv 2508.11476"
    equation = "(x - mean) / std std_s + mean_s"

    def check(self, model: GuidedModel) -> None:
        if not self.style:
            raise BadValue(f"{self.name} needs a style: {self.name}=style.safetensors")
        read_latents(self.style)

    def after(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        if x.ndim != 4:
            raise Unsupported(f"{self.name} takes spatial latents [batch, channels, height, width], got {tuple(x.shape)}")
        alpha, sigma = model.path.at(i if self.level == "left" else i + 1)
        if "style" not in state:  # read once a run
            state["style"] = widened(read_latents(self.style)).to(x.device)
            check_style(state["style"], x)
        noised = alpha * state["style"] + sigma * model.noise(f"{self.name}/{i}", x).to(x)
        return with_moments(x, noised).to(x.dtype)


def with_moments(x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """x [B, C, H, W] with the mean and the unbiased deviation of `style` over H and W."""
    (deviation, mean), (target, middle) = (torch.std_mean(widened(value), dim=(2, 3), keepdim=True) for value in (x, style))
    return (x - mean) / (deviation + TINY) * target + middle


def read_latents(path: str, of: str = "style") -> torch.Tensor:
    """The tensor "latents" of a safetensors file. Raises `BadValue` where it cannot be read, or is not there.

    of: what image it is, for messages.
    """
    try:
        tensors = load_file(Path(path))
    except (OSError, SafetensorError) as error:
        raise BadValue(f"cannot read the {of} latents {path}: {str(error).splitlines()[0]}") from None
    if KEY not in tensors:
        raise BadValue(f"{path} holds no tensor {KEY!r}: save the {of} image's latents under that name")
    return tensors[KEY]


def check_style(style: torch.Tensor, x: torch.Tensor, of: str = "style") -> None:
    """Raise `BadValue` where latents of an image are not of the shape of x, one for all or one for each."""
    if style.shape[1:] != x.shape[1:] or len(style) not in (1, len(x)):
        raise BadValue(f"the {of} latents have shape {tuple(style.shape)}; these images need {tuple(x.shape)}, or that "
                       "with a first dimension of 1")
