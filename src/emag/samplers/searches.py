"""Searches over whole runs: which first noise to try next. `emag.refine` tries them, and keeps the best."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.utils.checkpoint import checkpoint

from ..core import FiniteFields
from ..errors import BadValue, Unsupported
from ..maths.streams import Streams
from ..maths.vectors import divided, norm
from .base import GuidedModel, guided_prediction
from .solvers import advance

Memory = dict[str, torch.Tensor]
"""What a search keeps from one round to the next: "x", the noise to try now [batch, ...], and what is its own."""


@dataclass(frozen=True)
class Search(FiniteFields):
    """Base of all searches: frozen values."""

    name: ClassVar[str] = ""
    differentiates: ClassVar[bool] = False  # True where the gradient of the score through the whole run is needed
    follows: ClassVar[bool] = True  # False where what is tried for a sample does not hang on what was tried before

    @property
    def rounds(self) -> int:
        """Runs after the first."""
        raise NotImplementedError

    def following(self, memory: Memory, gradient: torch.Tensor | None, at: int, streams: Streams) -> Memory:
        """What to try in round `at` + 1, after `memory["x"]` whose score has this gradient [batch, ...]."""
        raise NotImplementedError


@dataclass(frozen=True)
class BestOf(Search):
    """The best of n first noises, each drawn from a stream of the sample's own; the first is the one given.

    n: at least 1, which is the start alone. Any score will do, differentiable or not.
    """

    n: int = 8

    name = "best-of"
    follows = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise BadValue(f"best-of n must be at least 1, got {self.n}")

    @property
    def rounds(self) -> int:
        return self.n - 1

    def following(self, memory: Memory, gradient: torch.Tensor | None, at: int, streams: Streams) -> Memory:
        return {"x": streams.normal(f"{self.name}/{at}", memory["x"]).to(memory["x"])}


@dataclass(frozen=True)
class Ascent(Search):
    """The first noise climbs the score by its gradient through the whole run (DOODL, arXiv 2303.13703).

    v <- momentum v + clip(G), x <- x + rate v, then x is scaled back to the norm it had: first noises lie on a shell. `clip`
    bounds each entry of G; the authors add a little noise as well and use an exactly invertible sampler, where ours keeps
    the steps' inputs (`emag.samplers.searches.differentiable`).

    steps: m, gradient steps. rate, momentum, clip: at least 0; momentum 0.9 and clip 1e-3 are the authors'; clip 0 is none.
    """

    steps: int = 50
    rate: float = 1.0
    momentum: float = 0.9
    clip: float = 1e-3

    name = "ascent"
    differentiates = True

    def __post_init__(self) -> None:
        if self.steps < 0 or min(self.rate, self.momentum, self.clip) < 0 or self.momentum >= 1:
            raise BadValue(f"ascent steps, rate and clip must be at least 0, momentum in [0, 1), got {self}")

    @property
    def rounds(self) -> int:
        return self.steps

    def following(self, memory: Memory, gradient: torch.Tensor | None, at: int, streams: Streams) -> Memory:
        assert gradient is not None, "a search that differentiates is given gradients"
        x = memory["x"]
        bounded = gradient.clamp(-self.clip, self.clip) if self.clip else gradient
        velocity = self.momentum * memory.get("velocity", torch.zeros_like(x)) + bounded
        moved = x + self.rate * velocity
        return {"x": divided(moved, norm(moved)) * norm(x), "velocity": velocity}


@dataclass(frozen=True)
class Predicted(Search):
    """The first noise as a trained network refines it, x + g(x): the use of NoiseRefine, arXiv 2412.03895.

    refinement: g, from first noises [batch, ...] to as many moves, its prompt inside: `lambda x: lora_pass(x, prompt)`. It
    is trained so that the sampler without guidance makes the guided image (`emag.objectives.further.noise_loss`). One run
    with, and one without: the better one by the score is kept, for each image.
    """

    refinement: Callable[[torch.Tensor], torch.Tensor] = field(default=torch.zeros_like, repr=False)

    name = "predicted"

    @property
    def rounds(self) -> int:
        return 1

    def following(self, memory: Memory, gradient: torch.Tensor | None, at: int, streams: Streams) -> Memory:
        x = memory["x"]
        with torch.no_grad():
            move = self.refinement(x)
        if move.shape != x.shape:
            raise BadValue(f"a refinement of {list(x.shape)} gave {list(move.shape)}: it must give a move for each entry")
        return {"x": x + move.to(x)}


def differentiable(model: GuidedModel, scale: float = 1.0) -> Callable[[torch.Tensor], torch.Tensor]:
    """First-order runs of `model` whose result is differentiable in the first noise x [batch, ...].

    scale: CFG's w of the clean predictions; rules of the model are refused, as they keep no gradients. Each step is
    evaluated once more in the backward pass, so that memory holds one step's activations and all steps' x.
    """
    step = checkpointed_step(model, scale)

    def run(x: torch.Tensor) -> torch.Tensor:
        for i in range(len(model.path)):
            x = step(x, i)
        return x

    return run


def checkpointed_step(model: GuidedModel, scale: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """One step of such a run, (x, level) -> x at the next one."""
    rules: Any = getattr(model, "rules", ())
    if rules:
        raise Unsupported(f"{rules[0].name} keeps no gradients over a run: give a model without rules, and CFG's scale here")

    def step(x: torch.Tensor, i: int) -> torch.Tensor:
        pred = guided_prediction(model.branches(x, i), scale, "differentiable")
        return advance(x, pred, model.path, i, i + 1, model.space)

    def checkpointed(x: torch.Tensor, i: int) -> torch.Tensor:
        return checkpoint(step, x, i, use_reentrant=False) if x.requires_grad else step(x, i)

    return checkpointed
