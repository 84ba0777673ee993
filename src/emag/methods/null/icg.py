"""Independent condition guidance: the unconditional prediction from a condition that has nothing to do with the image."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...core import Conditioned, Perturbation, RunStart, State, Step
from ...errors import BadValue, Unsupported
from ...maths.streams import Streams
from ..common.null_branch import NullBranch

ICGForm = Literal["gaussian", "label", "given"]
LABELS = "class_labels"
NO_NOISE = ("this network takes its condition as class labels, or as a list of texts, not noise: say icg=label, or "
            "ICG('given', ('prompt:a text',))")
NO_LABELS = "this network takes no class labels: say icg=gaussian, or ICG('given', ('prompt:a text',))"


@dataclass(frozen=True)
class Independent(Perturbation):
    """The conditional rows under a drawn condition: noise, or one of `classes` labels."""

    form: ICGForm
    redraw: bool
    classes: int

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return Drawn(self, streams)


class Drawn(State):
    """The condition drawn for each sample."""

    def __init__(self, spec: Independent, streams: Streams):
        super().__init__()
        self.spec, self.streams = spec, streams
        self.drawn: dict[str, Any] = {}

    def inputs(self, values: dict[str, Any], condition: tuple[str, ...]) -> dict[str, Any]:
        if self.spec.redraw or not self.drawn:
            self.drawn = self._labels(values) if self.spec.form == "label" else self._noise(values, condition)
        return self.drawn

    def _noise(self, values: dict[str, Any], condition: tuple[str, ...]) -> dict[str, torch.Tensor]:
        found = {name: values[name] for name in condition if values.get(name) is not None}
        if not found:
            raise Unsupported(NO_NOISE)
        return {name: noise_like(y, self.streams.normal(f"icg/{name}", y)) for name, y in found.items()}

    def _labels(self, values: dict[str, Any]) -> dict[str, torch.Tensor]:
        if values.get(LABELS) is None:
            raise Unsupported(NO_LABELS)
        labels: torch.Tensor = values[LABELS]
        # the sample's own stream gives normal numbers; through their distribution function they are uniform in (0, 1)
        share = torch.special.ndtr(self.streams.normal("icg/label", labels).double())
        return {LABELS: (share * self.spec.classes).long().clamp(max=self.spec.classes - 1).to(labels.dtype)}


def noise_like(y: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Standard normal noise brought to the mean and standard deviation of each sample of y [batch, ...], in y's dtype."""
    dims = tuple(range(1, y.ndim))
    wide = y.float()
    return (wide.mean(dims, keepdim=True) + wide.std(dims, keepdim=True, correction=0) * normal).to(y.dtype)


@dataclass(frozen=True)
class ICG(NullBranch):
    """Independent condition guidance: the prediction under a condition unrelated to the image stands for u.

    u <- e(y^), with a condition y^ independent of x. So the network needs no null condition: it works on
    guidance-distilled ones too, under a rule that combines. Masks of the text and image prompts stay.

    Args:
        form: "gaussian": y^ is noise with the mean and standard deviation of each condition tensor, per sample.
            "label": a random class label, on class-conditional networks. "given": the named `conditions`, a new one
            each step, in turn.
        conditions: names for the form "given", "prompt:a text" or as in emag.guide(..., conditions=...); empty in
            other forms.
        redraw: draw y^ anew at each step, an untested default, as the paper's way is unconfirmed. False keeps y^ for
            the whole run (the first of `conditions`).
        classes: how many labels there are, at least 1.

    >>> import emag
    >>> emag.ICG("given", ("prompt:a photo", "prompt:a drawing")).form
    'given'
    """

    form: ICGForm = "gaussian"
    conditions: tuple[str, ...] = ()
    redraw: bool = True
    classes: int = 1000

    name = "icg"
    paper = "arXiv 2407.02687"
    equation = "u <- e(y^), y^ independent of x"

    def __post_init__(self) -> None:
        if isinstance(self.conditions, str) or not all(name and isinstance(name, str) for name in self.conditions):
            raise BadValue(f"icg conditions are names, e.g. ('prompt:a photo',), got {self.conditions!r}")
        object.__setattr__(self, "conditions", tuple(self.conditions))
        if bool(self.conditions) != (self.form == "given"):
            raise BadValue(f"icg conditions go with the form 'given', got form {self.form!r} and {self.conditions}")
        if not self.classes >= 1:
            raise BadValue(f"icg classes must be at least 1, got {self.classes}")

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        if self.form == "label" and LABELS not in network.signature.parameters:
            raise Unsupported(NO_LABELS)
        if self.form == "gaussian" and not network.backbone.condition:
            raise Unsupported(NO_NOISE)

    def fits_run(self, start: RunStart) -> None:
        if self.form == "label" and start.arguments is not None and start.arguments.get(LABELS) is None:
            raise Unsupported(NO_LABELS)

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        if self.form == "given":
            used = self.conditions if self.redraw else self.conditions[:1]
            return tuple(Conditioned(name) for name in dict.fromkeys(used))
        return (Independent(self.form, self.redraw, self.classes),)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return (self.weak[step.index % len(self.weak)],)
