"""NAG's modulation form: the pooled text moved from a negative prompt towards a positive one."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...core import COND, UNCOND, Rule, Step
from ...errors import BadValue, Unsupported
from ...maths.vectors import widened
from ..common.other_model import check_condition

POOLED = ("pooled_projections", "pooled_embeds", "added_cond_kwargs.text_embeds")
"""Network arguments that hold the text as one vector."""
ModulatedRows = Literal["cond", "both"]


@dataclass(frozen=True)
class ModulationGuidance(Rule):
    """Modulation guidance: the pooled text pushed away from a negative prompt's, before it modulates the network.

    y <- y + w (y(positive) - y(negative)), y the text as one vector. Networks that are given one add it to the time
    embedding, which scales and shifts what their blocks do (SD3, FLUX, HunyuanVideo, HiDream, SDXL). It acts in every
    pass without evaluating anything, also on networks without CFG. Read in a port, as a form of NAG; whether the authors
    change one condition or both is unconfirmed.

    Args:
        negative: what to push away from: "prompt:a text", or a name from emag.guide(..., conditions=...).
        weight: w, finite; 0 is off, 3 the port's.
        positive: what to push towards, named likewise; None is the rows' own prompt.
        rows: the conditional rows alone, "cond" (untested default), or "both".

    >>> import emag
    >>> emag.ModulationGuidance("prompt:blurry").named
    ('prompt:blurry',)
    """

    negative: str = "negative"
    weight: float = 3.0
    positive: str | None = None
    rows: ModulatedRows = "cond"

    name = "modulation"
    paper = "arXiv 2602.09268"
    equation = "y <- y + w (y(positive) - y(negative)), y the pooled text"
    kind = "condition"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise BadValue(f"modulation weight must be a finite number (0 is off), got {self.weight}")
        for field in ("negative", "positive"):
            value = getattr(self, field)
            if value is not None:
                check_condition(self.name, field, value)
            if value in (COND, UNCOND):
                raise BadValue(f"modulation {field} is another prompt, 'prompt:a text' or a name, not 'cond' or 'uncond'")

    @property
    def neutral(self) -> bool:
        return self.weight == 0

    @property
    def named(self) -> tuple[str, ...]:
        return (self.negative, *([self.positive] if self.positive is not None else []))

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        if not set(POOLED) & set(network.backbone.condition):
            raise Unsupported(f"{self.name} moves the text that is one vector, and {network.backbone.name} is given none: "
                              "it is for SD3, FLUX, HunyuanVideo, HiDream and SDXL")

    def condition(self, cond: dict[str, torch.Tensor], step: Step) -> dict[str, torch.Tensor]:
        name = next((name for name in POOLED if name in cond), None)
        if name is None:
            raise Unsupported(f"{self.name} found no pooled text among {', '.join(cond)}: it is one of {', '.join(POOLED)}")
        if self.rows == "cond" and step.branch != COND:
            return cond
        own = widened(cond[name])
        away = _rows_of(self.negative, name, step, own)
        towards = own if self.positive is None else _rows_of(self.positive, name, step, own)
        return {**cond, name: (own + self.weight * (towards - away)).to(cond[name].dtype)}


def _rows_of(condition: str, name: str, step: Step, like: torch.Tensor) -> torch.Tensor:
    """The pooled text of a condition, one row for each of `like`."""
    found = step.given[condition].get(name)
    if found is None:
        raise BadValue(f"the condition {condition!r} has no {name}: give it, or name the condition 'prompt:a text'")
    # one for all, or one an image; a pass that repeats its rows has all images several times over
    return found.to(like.dtype).repeat(len(like) // len(found), 1)
