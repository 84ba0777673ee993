"""UnGuide's weight for a prompt, measured on a pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..core import COND, Branches, Perturbation, Rule, Step
from ..errors import BadValue, NoEffect
from ..methods.combining.cfg import CFG
from ..methods.common.other_model import other
from ..methods.null.unguide import unguide_weight
from .pipeline import guide


@dataclass(frozen=True)
class UnlearnedDistance(Rule):
    """A recorder: |e_unlearned(x, c) - e_full(x, c)| of each sample at one step of a run; it changes nothing.

    Args:
        model: the unlearned network, as in `UnGuide`.
        share: the step it measures in, as a share of the run, in [0, 1).
        distances: what it found, [batch] for each run, on the CPU.
    """

    model: str
    share: float = 0.8
    distances: list[torch.Tensor] = field(default_factory=list, repr=False, compare=False)

    name = "unguide-distance"
    paper = "arXiv 2508.05755"
    equation = "|e_unlearned(x, c) - e_full(x, c)|"
    kind = "null"
    space = "x0"

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise BadValue(f"unguide measures at a share of the run in [0, 1), got {self.share}")

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (other(self.model),)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return self.weak if step.index == int(self.share * step.count) else ()

    def new_null(self, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor | None:
        if self.weak[0] in branches:
            # of noise, from x0: defined at pure noise too, where an x0 is not told by the noise
            apart = (branches[self.weak[0]] - branches[COND]).flatten(1).norm(dim=1)
            self.distances.append(step.alpha / step.sigma * apart.cpu())
        return None


def measured_weight(pipe: Any, prompt: str, model: str = "lora:0", models: Mapping[str, Any] | None = None, *,
                    erase: float = -1.0, keep: float = 2.0, repeats: int = 10, share: float = 0.8, seed: int = 0,
                    scale: float = 7.5, **call: Any) -> float:
    """w of `UnGuide` for one prompt: `erase` where it has lost more by unlearning than the empty prompt has, else `keep`.

    Two runs of `repeats` images, with `prompt` and with "", under CFG at `scale`; each measures, at `share` of its steps,
    how far the unlearned network is from the pipeline's (arXiv 2508.05755: step 40 of 50, 30 repeats; its command line
    takes 10). The same seed gives the same answer. model, models: as in `UnGuide` and `emag.guide`. call: further
    arguments of the pipeline, e.g. num_inference_steps=50. Raises `BadValue`, and what the pipeline raises.
    """
    if repeats < 1:
        raise BadValue(f"unguide measures on at least one image, got repeats={repeats}")

    def distances(text: str) -> torch.Tensor:
        rule = UnlearnedDistance(model, share)
        noise = [torch.Generator().manual_seed(seed + i) for i in range(repeats)]
        try:
            with guide(pipe, rule, CFG(scale), models=models):
                pipe(prompt=[text] * repeats, generator=noise, output_type="latent", **call)
        except NoEffect:  # the two agree on this text: what they differ by is rounding
            return torch.zeros(repeats)
        return torch.cat(rule.distances)

    return unguide_weight(distances(prompt), distances(""), erase, keep)
