"""NAG: the negative prompt at work in the attention's features, their size capped."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from ...core import Rows, RunStart, Sdpa
from ...errors import BadValue
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...maths.vectors import widened
from ...schedules import Scale, Schedule, at_time, check_scale, check_timed
from ..common.inside import Inside
from ..common.negative_text import AgainstText, NegativePass, NoisyFeatures, check_noise

Norm = Literal["l1", "l2"]
NORMS: dict[Norm, int] = {"l1": 1, "l2": 2}
LIMITS = {"tau": (1, 1e6), "alpha": (0, 1), "sigma_end": (0, 1), "eps": (1e-30, 1)}


@dataclass(frozen=True)
class NormalizedAttention(AgainstText):
    """Image features pushed away from those that the negative text gives, then capped and blended."""

    scale: Scale
    tau: float
    alpha: float
    norm: Norm
    eps: float
    sigma_end: float
    negative: NegativePass | None = None

    def check(self, sigmas: tuple[float, ...]) -> None:
        """Raise `BadValue` where no step is noisy enough."""
        check_noise("nag", self.sigma_end, sigmas)

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "NormalizedState":
        return NormalizedState(self, sigmas)


class NormalizedState(NoisyFeatures):
    """Acts while the noise is at least `sigma_end`."""

    name = "nag"

    def __init__(self, spec: NormalizedAttention, sigmas: tuple[float, ...]):
        super().__init__(spec.negative, spec.sigma_end, sigmas)
        self.spec = spec

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        spec = self._spec_now()
        if not self.acts or spec.scale == 1:
            return sdpa(call.q)
        return self.pushed(block, call, sdpa, rows, lambda plus, minus: normalized(plus, minus, spec))

    def _spec_now(self) -> NormalizedAttention:
        """The spec, with the strength that a schedule gives at this step."""
        if not isinstance(self.spec.scale, Schedule):
            return self.spec
        assert self.now is not None
        return replace(self.spec, scale=at_time(self.spec.scale, self.now))


def normalized(plus: torch.Tensor, minus: torch.Tensor, spec: NormalizedAttention) -> torch.Tensor:
    """Z from Z+ and Z- [B, H, tokens, d]; norms per token over all heads, in at least fp32."""
    assert not isinstance(spec.scale, Schedule)
    plus, minus = widened(plus), widened(minus)
    # extrapolated, then no longer than tau times what it was, then blended back: sizes stay what the next layer knows
    far = plus + (spec.scale - 1) * (plus - minus)
    size, limit = (torch.linalg.vector_norm(z, NORMS[spec.norm], dim=(1, 3), keepdim=True) for z in (far, plus))
    capped = far * (spec.tau * limit / size.clamp(min=spec.eps)).clamp(max=1)
    return plus + spec.alpha * (capped - plus)


@dataclass(frozen=True)
class NAG(Inside):
    """Normalized attention guidance: push image features away from those of the negative prompt, and cap them.

    In the attention of each listed block, with Z+ the image features and Z- those of the negative prompt:

        Far = Z+ + (s - 1) (Z+ - Z-)
        Z = alpha Far + (1 - alpha) Z+

    Where the norm of Far exceeds tau times that of Z+, Far is first scaled down to that. Norms are per image token
    over all heads, before the output projection.

    The negative text is that of the unconditional rows, at the same block and step. So a pipeline with both in one
    network call is needed (SD3, PixArt), or `negative`. Z- is the attention of the conditional image queries over that
    text (cross-attention), or over the conditional image keys and that text (joint attention). There the published
    form evolves the negative text beside the conditional image; here it evolves in the unconditional rows.

    Unconditional rows and text rows stay untouched. Further branches use the negative text of the clean pass of their
    step, and in a block whose attention they perturb Z- stays that of the live queries. The pipeline's CFG still
    combines: CFG(1.0) in the guidance makes it NAG alone.

    Args:
        scale: s, at least 0, the published code's, or a schedule of time; 1 is off, the paper's phi = s - 1. None
            takes the model's.
        tau: cap on the norm of Far, in units of the norm of Z+, from 1 to 1e6.
        alpha: blend in [0, 1]; 0 is off, 1 takes Far as it is. None takes the model's.
        sigma_end: it acts at steps of at least this noise, sigma in [0, 1]. k-diffusion's s is here s / sqrt(1 + s^2)
            on models that are not flows. None takes the model's.
        norm: which norm: "l1" (the paper's text, the ComfyUI port) or "l2" (the published Flux code).
        eps: smallest norm that is divided by, in (0, 1] (the codes: 1e-6, or none).
        layers: blocks it works in, by number; None and "auto" take all.
        cross: work in the blocks' cross-attention; None takes the model's.
        negative: the name of a condition ("prompt:a text") that gives the negative text in the place of the
            unconditional rows, at one more evaluation a step. For networks that have no such rows
            (guidance-distilled Flux) or evaluate them apart. None takes the unconditional rows.

    >>> import emag
    >>> alone = [emag.CFG(1.0), emag.NAG(5, negative="prompt:blurry")]  # NAG, and no CFG beside it
    >>> [rule.neutral for rule in alone]
    [False, False]
    >>> emag.NAG(1).neutral, emag.NAG(5, alpha=0).neutral
    (True, True)
    """

    scale: Scale | None = None
    tau: float = 2.5
    alpha: float | None = None
    sigma_end: float | None = None
    norm: Norm = "l1"
    eps: float = 1e-6
    layers: tuple[int, ...] | None = None
    cross: bool | None = None
    negative: str | None = None

    name = "nag"
    cost = "none; with a negative named, one evaluation of the conditional rows at the steps where it acts"
    paper = "arXiv 2505.21179"
    equation = "Z = alpha cap(Z+ + (s - 1) (Z+ - Z-)) + (1 - alpha) Z+"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scale(self.name, self.scale)
        check_timed(self.name, self.scale, "works inside the network")
        for field, (low, high) in LIMITS.items():
            value = getattr(self, field)
            if value is not None and not (isinstance(value, (int, float)) and low <= value <= high):
                raise BadValue(f"nag {field} must be a number in [{low:g}, {high:g}], got {value!r}")

    def fits_run(self, start: RunStart) -> None:
        noisy = [step for step in start.steps if step.sigma >= (self.sigma_end or 0)]
        if noisy and all(at_time(self.scale, step) == 1 for step in noisy):
            raise BadValue(f"nag is off (scale 1) at every step of this run with a noise of at least {self.sigma_end:g}: "
                           "give it another schedule or sigma_end, or leave it out")

    @property
    def neutral(self) -> bool:
        return self.scale == 1 or self.alpha == 0

    @property
    def perturbation(self) -> NormalizedAttention:
        assert self.layers is not None and None not in (self.scale, self.alpha, self.sigma_end)
        alpha, end = (float(value or 0) for value in (self.alpha, self.sigma_end))
        source = NegativePass.named(self.negative, self.layers, bool(self.cross), end)
        return NormalizedAttention(self.layers, bool(self.cross), self.scale or 0.0, self.tau, alpha, self.norm, self.eps,
                                   end, source)
