"""One of diffusers' guiders, with weak branches of ours."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import diffusers.guiders
import torch
from diffusers.guiders import BaseGuidance

from ..core import Rule
from ..errors import BadValue, Unsupported
from ..records.recipe import to_data
from .guider_base import Guider, RecipeData, rules_of
from .guider_run import GuiderRun


class WithWeak(Guider):
    """One of diffusers' guiders, which sees the conditional prediction as our weak rules rewrite it.

    `WithWeak(AdaptiveProjectedGuidance(4.0), EMAG(1.5)).attach(pipe)`. It decides about everything else, and its own
    attributes are reached through this one. guider: a guider, or its configuration. Raises `BadValue` for rules other than
    weak ones, and as `EmagGuider`.
    """

    def __init__(self, guider: BaseGuidance | Mapping[str, Any], *rules: Rule | Sequence[Rule],
                 recipe: RecipeData | None = None):
        self.guider = _stock(guider) if isinstance(guider, Mapping) else guider
        super().__init__(0.0, 1.0, self.guider._enabled)
        _check_stock(self.guider)
        self.rules = rules_of(rules, recipe)
        for rule in self.rules:
            if rule.kind != "weak":
                raise BadValue(f"{rule.name} does more than push away from a weak branch: name all rules in "
                               "EmagGuider(...), a combining one included")
        self._serving = GuiderRun(self.rules)
        self.register_to_config(guider=_data(self.guider), recipe=to_data(self.rules))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "guider" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.guider, name)

    def enable(self) -> None:
        super().enable()
        self.guider.enable()

    def disable(self) -> None:
        super().disable()
        self.guider.disable()

    @property
    def num_conditions(self) -> int:
        return self.guider.num_conditions

    @property
    def is_conditional(self) -> bool:
        return self.guider.is_conditional

    def set_state(self, step: int, num_inference_steps: int, timestep: torch.Tensor) -> None:
        self.guider.set_state(step, num_inference_steps, timestep)
        super().set_state(step, num_inference_steps, timestep)

    def prepare_inputs(self, data: dict[str, Any]) -> list[Any]:
        return self.guider.prepare_inputs(data)

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        return self.guider.prepare_inputs_from_block_state(data, input_fields)

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        super().prepare_models(denoiser)
        self.guider.prepare_models(denoiser)
        if self._count_prepared == 1:
            self._serving.prepare(denoiser, "cond", uncond=False)

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        self._serving.release()
        self.guider.cleanup_models(denoiser)

    def __call__(self, data: list[Any]) -> Any:
        found = self.guider(data)
        self._serving.combined()
        return found


def _check_stock(guider: Any) -> None:
    if not isinstance(guider, BaseGuidance) or isinstance(guider, Guider):
        raise BadValue(f"WithWeak goes around one of diffusers' guiders, got {type(guider).__name__}")
    if hasattr(guider, "active_predictions") or guider._input_predictions[:1] != ["pred_cond"]:
        raise Unsupported(f"{type(guider).__name__} is not a guider whose first pass is the conditional one")


def _data(guider: BaseGuidance) -> dict[str, Any]:
    return json.loads(guider.to_json_string())


def _stock(data: Mapping[str, Any]) -> BaseGuidance:
    """A guider of diffusers from its configuration. Raises `BadValue` for a class that is none."""
    cls: Any = getattr(diffusers.guiders, str(data.get("_class_name")), None)
    if BaseGuidance not in getattr(cls, "__mro__", ()):
        raise BadValue(f"{data.get('_class_name')!r} is not one of diffusers' guiders")
    return cls.from_config(dict(data))
