"""Negative token merging: image features pushed away from those of a reference image that they match."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ...core import Perturbation, Rows, Rule, RunStart, Sdpa, State
from ...errors import BadValue
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...maths.vectors import widened
from ...samplers.style import check_style, read_latents
from ..common.inside import Inside, Strong, has_moved, put_rows
from ..common.negative_text import check_noise
from ..common.reference_image import noised


@dataclass(frozen=True)
class ReferencePass(Perturbation):
    """The conditional rows with the noised reference image in the place of x_t, before the clean pass."""

    reference: str
    layers: tuple[int, ...]
    sigma_end: float

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def ahead(self) -> bool:
        return True

    def runs(self, index: int, sigmas: tuple[float, ...]) -> bool:
        return sigmas[index] >= self.sigma_end

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "ReferenceState":
        return ReferenceState(read_latents(self.reference, "reference"), streams)


class ReferenceState(State):
    """Keeps the image features of each block, for one step: held by block, [B, H, image tokens, d]."""

    def __init__(self, latents: torch.Tensor, streams: Streams):
        super().__init__()
        self.latents, self.streams = latents, streams
        self.held: dict[int, torch.Tensor] = {}

    def begin(self, index: int) -> None:
        super().begin(index)
        self.held.clear()

    def inputs(self, values: dict[str, Any], condition: tuple[str, ...]) -> dict[str, Any]:
        assert self.now is not None
        x = values["hidden_states"]
        new = noised(self.latents, x, self.now, self.streams, "neg-to-me")
        self.note((new != x).any())
        return {"hidden_states": new}

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        out = sdpa(call.q)
        self.held[block] = out[:, :, call.image].clone()
        return out


@dataclass(frozen=True)
class PushedApart(Strong):
    """Image features pushed away from those of `reference` that they match."""

    strength: float
    threshold: float
    reference: ReferencePass

    def check(self, sigmas: tuple[float, ...]) -> None:
        """Raise `BadValue` where no step is noisy enough."""
        check_noise("neg-to-me", self.reference.sigma_end, sigmas)

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "PushedState":
        return PushedState(self)


class PushedState(State):
    """Pushes where the reference pass of the step left features."""

    proves = True

    def __init__(self, spec: PushedApart):
        super().__init__()
        self.spec = spec

    def meet(self, states: Mapping[Any, State]) -> None:
        found = states[self.spec.reference]
        assert isinstance(found, ReferenceState)
        self.held = found.held

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        live = sdpa(call.q)
        if block not in self.held:
            return live
        held, old = self.held[block], live[:, :, call.image]
        # rows of all conditions: each holds the samples once, in one order
        away = held.repeat(len(old) // len(held), 1, 1, 1)
        new = torch.cat([pushed_apart(old[:, :, chunk], away, self.spec) for chunk in call.chunks()], dim=2)
        self.note(has_moved(new, old))
        return put_rows(live, slice(None), call.image, new)


def pushed_apart(features: torch.Tensor, reference: torch.Tensor, spec: PushedApart) -> torch.Tensor:
    """`features` [B, H, n, d], each token pushed away from the token of `reference` [B, H, m, d] that it is most like.

    A token is one vector over all heads; likeness is the cosine, and none above the threshold is no push.
    """
    ours, theirs = (widened(x).transpose(1, 2).flatten(2) for x in (features, reference))
    alike, match = (F.normalize(ours, dim=-1) @ F.normalize(theirs, dim=-1).transpose(1, 2)).max(-1, keepdim=True)
    matched = theirs.gather(1, match.expand(-1, -1, theirs.shape[-1]))
    pushed = ours + spec.strength * (ours - matched) * (alike > spec.threshold)
    return pushed.unflatten(2, (features.shape[1], -1)).transpose(1, 2)


@dataclass(frozen=True)
class NegToMe(Inside):
    """Negative token merging: push image features away from the features of a reference image that they match.

    Z = (1 + alpha) Z+ - alpha Z_r, for each image token whose best match Z_r among the reference's tokens, by the cosine
    over all heads, is more alike than `threshold`. Features are those of self-attention (on joint attention of its image
    rows), before the output projection. The reference goes through the network ahead of each step, under the prompt, with
    noise of the step's level. It works on the rows of all conditions; the pipeline's CFG still combines.

    The authors' code takes the maximum over the other axis, which finds for each token of the reference its match; their
    text is what this does. Their other use, pushing the images of a batch apart, is not here: no image of a batch depends
    on another.

    Args:
        reference: a safetensors file whose tensor "latents" [1 or images, ...] is the reference image as the network takes
            it: encoded, shifted and scaled. Needed. Raises `BadValue` before a run whose file is missing or odd.
        strength: alpha, at least 0; 0 is off. 0.9 is the authors'.
        threshold: least cosine of a match, in [-1, 1]. The authors': 0.65 on FLUX.1 dev, 0.7 on SDXL.
        sigma_end: it acts at steps of at least this noise, sigma in [0, 1]. The authors': 0.9 on FLUX.1 dev, on SDXL
            timestep 800, which is 0.98.
        layers: blocks it works in, by number; None and "auto" take all. The authors': all on FLUX.1 dev, the way up on SDXL.

    >>> import emag
    >>> emag.NegToMe("reference.safetensors").threshold  # the file is read as a pipeline is guided
    0.65
    """

    reference: str = ""
    strength: float = 0.9
    threshold: float = 0.65
    sigma_end: float = 0.9
    layers: tuple[int, ...] | None = None

    name = "neg-to-me"
    cost = "one evaluation of the conditional rows at the steps where it acts, for the reference"
    paper = "arXiv 2412.01339"
    equation = "Z = (1 + alpha) Z+ - alpha Z_r, Z_r the reference's best match"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reference:
            raise BadValue("neg-to-me needs reference=..., a safetensors file with the latents of the reference image")
        if self.strength < 0 or not -1 <= self.threshold <= 1 or not 0 <= self.sigma_end <= 1:
            raise BadValue("neg-to-me strength is at least 0, threshold in [-1, 1], sigma_end in [0, 1], got "
                           f"{self.strength}, {self.threshold} and {self.sigma_end}")

    @property
    def neutral(self) -> bool:
        return self.strength == 0

    def fits_network(self, network: Any) -> None:
        Rule.fits_network(self, network)  # it needs no text
        read_latents(self.reference, "reference")

    def fits_run(self, start: RunStart) -> None:
        check_style(read_latents(self.reference, "reference"), start.first.x, "reference")

    @property
    def perturbation(self) -> PushedApart:
        assert self.layers is not None
        source = ReferencePass(self.reference, self.layers, self.sigma_end)
        return PushedApart(self.layers, False, self.strength, self.threshold, source)

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (self.perturbation.reference, self.perturbation)
