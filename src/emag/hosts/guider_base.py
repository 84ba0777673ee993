"""What our guiders for modular pipelines share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from diffusers.guiders import BaseGuidance

from ..core import Rule
from ..engine.stats import Stats
from ..errors import BadValue, Unsupported
from ..records.recipe import from_data
from .given import Given
from .guider_run import GuiderRun

SLOTS = ("guider", "guider_2")

Own = TypeVar("Own", bound="Guider")
RecipeData = Sequence[Mapping[str, Mapping[str, Any]]]
"""Rules as data, see `emag.records.recipe`."""


class Guider(BaseGuidance):
    """What our guiders share. rules: of the guidance, in order."""

    _input_predictions = ["pred_cond", "pred_uncond"]
    rules: tuple[Rule, ...]
    _serving: GuiderRun

    def attach(self: Own, pipe: Any, *, conditions: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
               masks: Mapping[str, torch.Tensor] | None = None,
               models: Mapping[str, Callable[..., Any]] | None = None) -> Own:
        """Become the guider of `pipe`, and of both stages where it has two; returns itself.

        conditions, masks, models: as in `emag.guide`, conditions as tensors. Raises `Unsupported` for a pipeline without
        guider, or with a guider of another kind.
        """
        slots = [name for name in SLOTS if hasattr(pipe, name)]
        if not slots:
            raise Unsupported(f"{type(pipe).__name__} takes no guider" + (
                ": use emag.guide(pipe, ...)" if hasattr(pipe, "transformer") else ""))
        if any(hasattr(getattr(pipe, name), "active_predictions") for name in slots):
            raise Unsupported(f"{type(pipe).__name__} asks its guiders for passes of its own (blocks to perturb, "
                              "modalities), which other guiders do not have: use emag.guide with the standard pipeline")
        self._serving.attach(pipe, Given(dict(conditions or {}), dict(masks or {}), dict(models or {})))
        put = getattr(pipe, "update_components", None) or pipe.register_modules
        put(**dict.fromkeys(slots, self))
        return self

    @property
    def stats(self) -> Stats:
        """What the latest run did. Raises `BadValue` before one has come to its end, and where no rule is active."""
        if self._serving.latest is None:
            raise BadValue("there is no finished run to tell of yet: call the pipeline first" if self._serving.rules else
                           "no rule is active, so the pipeline ran as it is and nothing was counted")
        return self._serving.latest

    def set_state(self, step: int, num_inference_steps: int, timestep: torch.Tensor) -> None:
        super().set_state(step, num_inference_steps, timestep)
        self._serving.step(step)


def rules_of(rules: tuple[Rule | Sequence[Rule], ...], recipe: RecipeData | None) -> tuple[Rule, ...]:
    """Rules, or one list of them, or data. Raises `BadValue` for anything else."""
    if recipe is not None:
        if rules:
            raise BadValue("give rules, or a recipe, not both")
        return from_data([dict(item) for item in recipe])
    found = tuple(rules[0]) if len(rules) == 1 and isinstance(rules[0], (list, tuple)) else rules
    strange = [rule for rule in found if not isinstance(rule, Rule)]
    if strange:
        raise BadValue(f"a guidance is made of rules such as emag.EMAG(1.5), got {strange[0]!r}")
    return found  # type: ignore[return-value]
