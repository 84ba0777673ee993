"""Style-prompting guidance: a branch whose image tokens look at those of a style image of the same noise level."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import UNCOND, Branches, Perturbation, Rows, RunStart, Sdpa, State, Step
from ...errors import BadValue
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...samplers.style import check_style, read_latents
from ...schedules import Scale, known
from ..common.inside import Keys, attend, has_moved, put_rows, text_keys
from ..common.push import Push
from ..common.reference_image import noised


@dataclass(frozen=True)
class StyledAttention(Perturbation):
    """Both rows of the host's call under the null condition: x_t, and beside it the noised style, whose keys x_t sees."""

    layers: tuple[int, ...]
    style: str

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def all_rows(self) -> bool:
        return True

    @property
    def needs_uncond(self) -> bool:
        return True

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "StyledState":
        return StyledState(read_latents(self.style), streams)


class StyledState(State):
    """The conditional rows' places hold x_t, the unconditional ones' the style. rows: as the clean pass showed them."""

    proves = True

    def __init__(self, latents: torch.Tensor, streams: Streams):
        super().__init__()
        self.latents, self.streams = latents, streams

    @property
    def watches(self) -> bool:
        return True

    def watch(self, block: int, call: Attention, rows: Rows) -> None:
        self.rows = rows

    def predicted(self, step: Step, cond: torch.Tensor) -> None:
        self.step = step

    def inputs(self, values: dict[str, Any], condition: tuple[str, ...]) -> dict[str, Any]:
        """Every row tensor as the unconditional rows have it, but x_t."""
        x = values["hidden_states"]
        new = {name: self._null(value) for name, value in values.items()
               if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(x)}
        x = x.clone()
        # in the unconditional rows stands the style at this noise level, so that its keys and values are there in each block
        x[self.rows.uncond] = self.noised(x[self.rows.cond])
        return new | {"hidden_states": x}

    def noised(self, x: torch.Tensor) -> torch.Tensor:
        """The style at this step's noise level, shaped as x [batch, ...]; noise of its own for every step and sample."""
        return noised(self.latents, x, self.step, self.streams, "spg")

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        live, cond, uncond = sdpa(call.q), self.rows.cond, self.rows.uncond
        assert uncond is not None
        part, keys = call.rows(cond), Keys.of(call.rows(uncond), call.image)
        if call.has_text:
            keys = keys.beside(Keys.of(part, text_keys(call, "spg")))
        new, old = attend(part, keys), live[cond][:, :, call.image]
        self.note(has_moved(new, old))
        return put_rows(live, cond, call.image, new)

    def _null(self, value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[self.rows.cond] = value[self.rows.uncond]
        return value


@dataclass(frozen=True)
class SPG(Push):
    """Style-prompting guidance: move towards a prediction whose image tokens look at those of a style image.

    The push is p + s (style - u), s = w - 1, u the unconditional prediction. The style branch is evaluated on x_t
    under the null condition. In its self-attention the image queries see the image keys and values of the style image,
    which goes through the network beside it at the same noise level, with fresh noise per step and sample. On joint
    attention they see their own text as well, and text queries see what they did.

    Named after CFG it is the published form; before it, or under the pipeline's CFG at g, its effect is g times as
    large. It is for networks that evaluate both branches in one call (SD3, DiT, PixArt). It is not meant to go with
    NAG or VSF, which would take the style's rows for the negative prompt's. The published method also matches mean and
    standard deviation of the latents to the noised style's after each step: `StyleMoments`, in our own loop.

    Args:
        scale: w, at least 0, or a schedule; 1 is off (published: s 3 on SDXL).
        style: a safetensors file whose tensor "latents" [1 or images, ...] is the style image as the network takes it:
            encoded, shifted and scaled. Needed. Raises `BadValue` before a run whose file is missing or odd.
        layers: blocks, by number; None and "auto" take the last 6 / 70 of the depth, SDXL's share (untested), at least
            one.

    >>> import emag
    >>> emag.SPG(4, style="style.safetensors").equation  # the file is read as a pipeline is guided
    'p + (w - 1) (style - u)'
    >>> emag.SPG(style="style.safetensors").automatic_layers(24)
    (22, 23)
    """

    scale: Scale | None = 4.0
    style: str = ""
    layers: tuple[int, ...] | None = None

    name = "spg"
    paper = "arXiv 2508.11476"
    equation = "p + (w - 1) (style - u)"
    cost = "two evaluations per step: the style branch, and the noised style beside it"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.style:
            raise BadValue("spg needs style=..., a safetensors file with the latents of the style image")

    def automatic_layers(self, depth: int) -> tuple[int, ...]:
        """The last 6 of 70, at least one."""
        return tuple(range(depth - max(1, round(depth * 6 / 70)), depth))

    @property
    def perturbation(self) -> StyledAttention:
        assert self.layers is not None
        return StyledAttention(self.layers, self.style)

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        read_latents(self.style)

    def fits_run(self, start: RunStart) -> None:
        check_style(read_latents(self.style), start.first.x)

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1

    def away(self, branches: Branches) -> torch.Tensor | None:
        return branches[self.perturbation] - branches[UNCOND] if self.perturbation in branches else None
