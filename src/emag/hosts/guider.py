"""Guiders for diffusers' modular pipelines: `EmagGuider`, and `WithWeak` around one of diffusers' own."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers.guiders.guider_utils import GuiderOutput

from ..core import Rule
from ..engine.answer import combined
from ..engine.plan import unfed
from ..engine.trajectory import Trajectory
from ..errors import BadValue
from ..records.recipe import to_data
from .checks import check_order
from .guider_base import Guider, RecipeData, rules_of
from .guider_run import GuiderRun
from .with_weak import WithWeak

__all__ = ["EmagGuider", "WithWeak"]


class EmagGuider(Guider):
    """A guidance as the guider of a modular pipeline; it takes the place of the pipeline's own CFG.

    `EmagGuider(EMAG(1.5), CFG(4.0)).attach(pipe)`. The rules may come as one list, or as data under `recipe`. Without a
    combining rule only conditional rows are evaluated. What the pipeline gets, as `pred` and as `pred_cond`, is exactly our
    result, so a rescale to the norm of `pred_cond` changes nothing. Raises `BadValue`, `Unsupported` and `Busy` at the first
    network call, `NoEffect` after the last one of a run in which a weak branch changed nothing.
    """

    def __init__(self, *rules: Rule | Sequence[Rule], recipe: RecipeData | None = None, enabled: bool = True):
        super().__init__(0.0, 1.0, enabled)
        self.rules = rules_of(rules, recipe)
        check_order([rule for rule in self.rules if not rule.neutral])
        self._serving = GuiderRun(self.rules)
        self._batches: int | None = None  # conditions of the present step, once they are prepared
        self.register_to_config(recipe=to_data(self.rules), enabled=enabled)

    def set_state(self, step: int, num_inference_steps: int, timestep: torch.Tensor) -> None:
        self._batches = None
        super().set_state(step, num_inference_steps, timestep)

    @property
    def num_conditions(self) -> int:
        if self._batches is not None:
            return self._batches
        return 2 if self._enabled and self._serving.reads_null else 1

    @property
    def is_conditional(self) -> bool:
        return self._count_prepared == 1

    def prepare_inputs(self, data: dict[str, Any]) -> list[Any]:
        names = self._predictions(data.values())
        return [self._prepare_batch(data, at, name) for at, name in enumerate(names)]

    def prepare_inputs_from_block_state(self, data: Any, input_fields: dict[str, Any]) -> list[Any]:
        pairs = [value for value in input_fields.values() if isinstance(value, tuple)]
        names = self._predictions([tuple(getattr(data, name, None) for name in pair) for pair in pairs])
        return [self._prepare_batch_from_block_state(input_fields, data, at, name) for at, name in enumerate(names)]

    def _predictions(self, values: Iterable[Any]) -> list[str]:
        """Names of the predictions to make. Raises `BadValue` where a rule needs the unconditional one and there is none."""
        self._batches = None
        if self.num_conditions == 2 and not any(map(_two, values)):
            reader = unfed(self.rules, Trajectory.even(28))
            raise BadValue(f"{reader} combines or measures conditional and unconditional predictions, but this call has no "
                           "unconditional rows: give the pipeline a negative prompt, or its embeddings")
        self._batches = self.num_conditions
        return self._input_predictions[:self._batches]

    def prepare_models(self, denoiser: torch.nn.Module) -> None:
        super().prepare_models(denoiser)
        if self._enabled:
            self._serving.prepare(denoiser, "cond" if self.is_conditional else "uncond", self._batches == 2)

    def cleanup_models(self, denoiser: torch.nn.Module) -> None:
        self._serving.release()

    def forward(self, pred_cond: torch.Tensor, pred_uncond: torch.Tensor | None = None) -> GuiderOutput:
        # the second answer is ours, whatever became of the first
        pred = combined(pred_cond if pred_uncond is None else pred_uncond)
        self._batches = None
        self._serving.combined()
        return GuiderOutput(pred=pred, pred_cond=pred, pred_uncond=pred_uncond)


def _two(value: Any) -> bool:
    """True for a field with a value of its own in the unconditional rows."""
    return isinstance(value, tuple) and value[0] is not None and value[1] is not None and value[0] is not value[1]
