"""A branch evaluated with other weights: another network, or the pipeline's own with its LoRA adapters at another scale."""

import copy
import math
from dataclasses import dataclass

import torch

from ...core import COND, UNCOND, Perturbation
from ...errors import BadValue

LORA, LOAD = "lora:", "load:"


@dataclass(frozen=True)
class OtherModel(Perturbation):
    """One evaluation by another network: on the conditional rows, the unconditional ones, or another condition.

    Args:
        network: which one. A name from emag.guide(..., models={name: network}); or "load:..." with a folder, hub id or
            embedded model, loaded once for each pipeline; or "lora:0.5": the pipeline's own, the scales of its LoRA
            adapters multiplied by 0.5, so that its weights are W0 + 0.5 dW. ("lora:0" is the network without them.)
        null: evaluate it on the unconditional rows.
        condition: the name of another condition; None is that of the rows.
    """

    network: str
    null: bool = False
    condition: str | None = None

    @property
    def model(self) -> str | None:
        return None if self.network.startswith(LORA) else self.network

    @property
    def lora_scale(self) -> float | None:
        return float(self.network.removeprefix(LORA)) if self.network.startswith(LORA) else None


def other(network: str, condition: str = COND) -> OtherModel:
    """The branch of `network` under "cond", "uncond" or a named condition."""
    return OtherModel(network, condition == UNCOND, None if condition in (COND, UNCOND) else condition)


def check_network(rule: str, network: str) -> None:
    """Raise `BadValue` where a rule's model is neither a name, nor "load:" and a place, nor "lora:" and a finite number."""
    try:
        named = isinstance(network, str) and network not in ("", LOAD)
        if named and (not network.startswith(LORA) or math.isfinite(float(network.removeprefix(LORA)))):
            return
    except ValueError:
        pass
    raise BadValue(f"{rule} model is a name from emag.guide(..., models={{name: network}}), 'load:a folder or hub id', or "
                   f"'lora:0.5' for the pipeline's own network with half its LoRA scale, got {network!r}")


def check_condition(rule: str, field: str, condition: str) -> None:
    """Raise `BadValue` where a condition is no name."""
    if not isinstance(condition, str) or not condition:
        raise BadValue(f"{rule} {field} is 'cond', 'uncond', 'prompt:a text' or a name from emag.guide(..., conditions="
                       f"{{name: ...}}), got {condition!r}")


def check_negative(rule: str, negative: str) -> None:
    """Raise `BadValue` where a rule's negative is no name, or a clean branch's: away from "uncond" is what CFG does."""
    check_condition(rule, "negative", negative)
    if negative in (COND, UNCOND):
        raise BadValue(f"{rule} negative is another prompt, 'prompt:a text' or a name, not 'cond' or 'uncond'")


@torch.no_grad()
def interpolated(pretrained: torch.nn.Module, tuned: torch.nn.Module, omega: float) -> torch.nn.Module:
    """A new network with weights (1 - omega) pretrained + omega tuned; 0 and 1 are exact. Costs one copy of `tuned`.

    omega: any finite number. Tensors of whole numbers are those of `tuned`. Raises `BadValue` where the two differ in the
    names or shapes of their weights.
    """
    if not math.isfinite(omega):
        raise BadValue(f"omega must be a finite number, 0 (pretrained) to 1 (tuned), got {omega}")
    weights, made = pretrained.state_dict(), copy.deepcopy(tuned)
    own = made.state_dict()
    if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in own.items()}:
        raise BadValue("only networks with the same weights by name and shape can be interpolated; is a LoRA loaded in one?")
    for name, weight in own.items():
        if weight.is_floating_point():
            weight.copy_(torch.lerp(weights[name].to(weight), weight, omega))
    return made
