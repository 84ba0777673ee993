"""A guidance scale that a small trained network gives."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..core import Branches, Schedule, Step
from ..errors import BadValue
from .normed import both, epsilon_norm
from .renoise import renoised

AnnealingHead = list[tuple[torch.Tensor, torch.Tensor]]

FEATURES = 12  # z, cos z, cos 2z, cos 3z of the time, of |c - u| / 5 and of lambda
NORM_UNIT = 5.0


@dataclass(frozen=True)
class Annealing(Schedule):
    """Annealing guidance: a small trained network gives the scale at each step, for each sample.

    w = bias + factor MLP(t, |c - u|, lambda), re-noised with u. t is the time as a fraction of the training schedule,
    |c - u| the norm of epsilon predictions. The published head was trained for SDXL; t and norms of other models mean
    something else to it: `python -m emag.lab.train.annealing_head` trains one for a small model. Raises `BadValue` before
    a run whose file is missing or odd.

    Args:
        scale: the paper's lambda, at least 0; larger keeps closer to the prompt, 0.4 in the authors' script. It is
            not a w.
        weights: a safetensors file with the linear layers `combined_head.0.weight`, `.0.bias`, `.2.weight`,
            `.2.bias`, ... of the head (ReLU between them), [out, in]; the first takes 12 features, the last gives 1.
            Those are the names in the authors' checkpoint: save its "guidance_scale_model" with safetensors.
        factor: what the head's number is multiplied by, finite; 1 there.
        bias: what is added to it, finite; 1 there.
        renoise: take the step of CFG++, as published (see `CFGpp`, also for which samplers that is exact); False
            takes w itself.

    >>> import emag
    >>> scale = emag.Annealing(0.4, weights="head.safetensors")
    >>> emag.CFG(scale).scale.measures
    True
    """

    scale: float | None = 0.4
    weights: str = ""
    factor: float = 1.0
    bias: float = 1.0
    renoise: bool = True

    name = "annealing"
    paper = "arXiv 2506.24108"
    equation = "bias + factor MLP(t, |c - u|, lambda)"
    cost = "none but a small network"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weights:
            raise BadValue("annealing needs weights=..., the safetensors file of a trained head")
        if not (math.isfinite(self.factor) and math.isfinite(self.bias)):
            raise BadValue(f"annealing factor and bias must be finite, got {self.factor} and {self.bias}")

    def check(self) -> None:
        read_head(self.weights)

    @property
    def first_order(self) -> bool:
        return self.renoise

    def at(self, branches: Branches, step: Step, state: dict[str, Any]) -> float | torch.Tensor:
        cond, _ = both(self.name, branches)
        if "head" not in state:
            state["head"] = [(w.to(cond.device), b.to(cond.device)) for w, b in read_head(self.weights)]
        apart = epsilon_norm(self.name, branches, step)
        apart = torch.zeros(len(cond), device=cond.device) if apart is None else apart / NORM_UNIT
        found = evaluate(state["head"], features(step.time, apart, self.strength))
        return (self.bias + self.factor * found) * (renoised(step) if self.renoise else 1.0)


def features(time: float, apart: torch.Tensor, strength: float) -> torch.Tensor:
    """What the head sees, [batch, 12] in float64: z, cos z, cos 2z, cos 3z of each of three numbers. apart: [batch]."""
    z = torch.stack([torch.full_like(apart, time), apart, torch.full_like(apart, strength)], 1).double()
    return torch.stack([z, z.cos(), (2 * z).cos(), (3 * z).cos()], 2).flatten(1)


def evaluate(head: AnnealingHead, inputs: torch.Tensor) -> torch.Tensor:
    """Linear layers with ReLU between them, on [batch, 12]; [batch]."""
    for weight, bias in head[:-1]:
        inputs = torch.relu(inputs @ weight.T + bias)
    weight, bias = head[-1]
    return (inputs @ weight.T + bias).squeeze(1)


def read_head(path: str) -> AnnealingHead:
    """The layers of a head, in float64. Raises `BadValue` where the file cannot be read, or holds something else."""
    try:
        tensors = load_file(Path(path))
    except (OSError, SafetensorError) as error:
        raise BadValue(f"cannot read the annealing head {path}: {str(error).splitlines()[0]}") from None
    names = [f"combined_head.{2 * i}" for i in range(len(tensors) // 2)]
    if not names or set(tensors) != {f"{name}.{part}" for name in names for part in ("weight", "bias")}:
        raise BadValue(f"{path} is no annealing head: expected combined_head.0.weight, combined_head.0.bias, "
                       f"combined_head.2.weight, ..., got {', '.join(sorted(tensors)[:4]) or 'nothing'}")
    head = [(tensors[f"{name}.weight"].double(), tensors[f"{name}.bias"].double()) for name in names]
    sizes = [FEATURES, *(len(bias) for _, bias in head)]
    wanted = [[out, size] for size, out in pairwise(sizes)]
    if [list(weight.shape) for weight, _ in head] != wanted or sizes[-1] != 1:
        raise BadValue(f"{path} is no annealing head: its layers must lead from {FEATURES} features to 1 number, "
                       f"got weights {[list(weight.shape) for weight, _ in head]}")
    return head
