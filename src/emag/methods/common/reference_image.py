"""Reference images that a method holds x_t against: latents from a file, brought to the noise level of a step."""

import torch

from ...core import Step
from ...maths.streams import Streams
from ...samplers.style import check_style


def noised(latents: torch.Tensor, x: torch.Tensor, step: Step, streams: Streams, name: str) -> torch.Tensor:
    """`latents` [1 or images, ...] at the noise level of `step`, shaped as x [batch, ...].

    Every step and sample has noise of its own, drawn under `name`.
    """
    image = latents.to(x.device, torch.float32)
    check_style(image, x)
    return (step.alpha * image + step.sigma * streams.normal(name, x)).to(x.dtype)
