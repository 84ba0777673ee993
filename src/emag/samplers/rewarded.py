"""Feynman-Kac particles that a reward weighs: samples of what a model makes, times what is wanted."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from ..core import COND
from ..errors import BadValue, NoEffect
from ..maths.energies import called, check_scores, label_of
from ..maths.predictions import to_x0
from .base import GuidedModel, clean_prediction, guided_prediction
from .ctrl_z import Reward
from .feynman_kac import FKC


@runtime_checkable
class Sighted(Protocol):
    """What a `GuidedModel` may offer beside: clean samples as its scores see them."""

    def seen(self, x0: torch.Tensor) -> torch.Tensor:
        """Images, or whatever else scores are given, of clean samples [batch, ...]."""


@dataclass(frozen=True)
class FKCReward(FKC):
    """Feynman-Kac particles under a reward: images of one prompt are resampled by how well they score.

    The target is p(x0) exp(strength r(x0)), p what the run makes at this scale of CFG. After each step the clean image that
    the network sees in x is scored, and log-weights grow by strength times the rise of the score over the step; so they add
    up to strength r of the image, whatever was seen on the way. No gradient is taken, any score will do, a program too.
    Here, alone, images of one prompt depend on one another: give several seeds. See `emag.samplers.weighted.Weighted` for
    the solver, for resampling, and the rules that it goes with. What was gained since the last resampling, which leaves time
    for copies to part, stays in the "log_weights" of its state: the best images are those of the highest.

    As scores are weighed in Feynman-Kac steering (arXiv 2501.06848, by the difference), on the weights of FKC. The strength
    is a place to begin, untested: it is in units of one over the score.

    Args:
        reward: a function of what the model's scores see, images [batch, 3, height, width] in [0, 1] of a pipeline, that
            gives one number for each; higher is better. Needed.
        strength: lambda, of any sign; 0 is FKC.
        scale: w of CFG, as in FKC; 1 is the conditional model itself.

    >>> import emag
    >>> emag.FKCReward(reward=lambda images: -images.flatten(1).mean(1), strength=4.0).powers
    (('cond', 1.0),)
    """

    scale: float = 1.0
    reward: Reward | None = None
    strength: float = 1.0

    name = "fkc-reward"
    equation = "da = da of FKC + lambda (r(x0(x')) - r(x0(x)))"
    cost = "an evaluation of the clean branches at each level, a decoding and a score; several particles per image"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward is not None and not callable(self.reward):
            raise BadValue(f"fkc-reward reward must be a function of images, got {self.reward!r}")

    def check(self, model: GuidedModel) -> None:
        super().check(model)
        if self.reward is None:
            raise BadValue("fkc-reward needs a reward, a function of images from Python: FKCReward(reward=...)")

    def after(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor:
        kept = super().after(x, i, model, state)
        if self.strength:
            state["reward"] = state["reward"][state["rows"]]
            if i + 1 == len(model.path) and not state["parted"]:
                raise NoEffect(f"the score {label_of(self.reward)} was the same for all images at every level: there was "
                               "nothing to weigh them by")
        return kept

    def _rise(self, x: torch.Tensor, i: int, model: GuidedModel, state: dict[str, Any]) -> torch.Tensor | float:
        if not self.strength:
            return 0.0
        before, found = state.get("reward", 0.0), self._score(x, i + 1, model)
        state["reward"], state["parted"] = found, state.get("parted", False) or bool((found != found[0]).any())
        return self.strength * (found - before)

    def _predicted(self, x: torch.Tensor, i: int, model: GuidedModel) -> torch.Tensor:
        if self.scale == 1:
            return clean_prediction(model, x, i, COND, self.name)
        return guided_prediction(model.branches(x, i), self.scale, self.name)

    def _score(self, x: torch.Tensor, i: int, model: GuidedModel) -> torch.Tensor:
        """The reward [batch] of what is seen in x at level i: behind the last step, of x itself."""
        assert self.reward is not None
        with torch.no_grad():
            if i < len(model.path):
                x = to_x0(self._predicted(x, i, model), x, *model.path.at(i), model.space)
            images = model.seen(x) if isinstance(model, Sighted) else x
            label = label_of(self.reward)
            return check_scores(called(self.reward, images, label), len(x), label, f"level {i}").double()
