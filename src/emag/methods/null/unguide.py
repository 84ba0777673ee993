"""UnGuide: a network and its unlearned version, mixed by a weight that depends on the prompt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...samplers.base import GuidedModel
from ...samplers.solvers import advance
from ..common.two_models import TwoModels

_Denoiser = Callable[[torch.Tensor, float, Any], torch.Tensor]


@dataclass(frozen=True)
class UnGuide(TwoModels):
    """UnGuide: mix a network with its unlearned version, by a weight that depends on the prompt.

    w e_full + (1 - w) e_unlearned, both guided with the same scale. Name it before the rule that combines.
    `emag.hosts.unguide.measured_weight` finds the weight for a prompt on a pipeline.

    Args:
        scale: w, the weight of the pipeline's own network, finite, or a schedule of time; 1 is off. Published: -1 for
            prompts that name what was unlearned, 2 for all others. Where the unlearned network is the pipeline's own
            (its LoRA loaded, model "lora:0"), give 1 - w.

    >>> import emag
    >>> rule = emag.UnGuide(-1.0, model="unlearned")  # emag.guide(pipe, rule, models={"unlearned": network})
    >>> rule.kind
    'null'
    """

    name = "unguide"
    paper = "arXiv 2508.05755"
    equation = "w e_full + (1 - w) e_unlearned for both branches"


@torch.no_grad()
def unlearned_distance(run: GuidedModel, full: _Denoiser, unlearned: _Denoiser, x: torch.Tensor, condition: Any,
                       steps: int = 10) -> torch.Tensor:
    """|e_unlearned(x, c) - e_full(x, c)| for each sample, after `steps` steps of a run from noise x [batch, ...]; [batch].

    run: the full network under its guidance, `emag.guided(full, CFG(7.5), path=...)`, called as run(x, i). full, unlearned:
    plain denoisers (x, sigma, condition). Published: 10 of 50 steps, at a random time near that step (here: at its own).
    """
    for i in range(steps):
        x = advance(x, run(x, i), run.path, i, i + 1, run.space)
    sigma = run.path.sigmas[steps]
    return (unlearned(x, sigma, condition) - full(x, sigma, condition)).flatten(1).norm(dim=1)


def unguide_weight(prompt: torch.Tensor, empty: torch.Tensor, erase: float = -1.0, keep: float = 2.0) -> float:
    """w for one prompt: `erase` where its distances [repeats] have a larger mean than the empty prompt's, else `keep`.

    Distances: of `unlearned_distance`, over starting noises (published: 30 of them for objects, 10 for nudity).
    """
    return erase if prompt.double().mean() > empty.double().mean() else keep
