"""Self-attention guidance: a weak branch at another x_t, blurred where the network looks most."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...core import Perturbation, Rows, RunStart, State, Step
from ...errors import BadValue, NoEffect, Unsupported
from ...maths.attention import Attention
from ...maths.layout import from_planes, planes, unpack
from ...maths.predictions import to_x0
from ...maths.pyramid import blur
from ...maths.streams import Streams
from ..common.push import Push

TIE = 1e-4  # relative; a mass of exactly the threshold stays outside the mask, whatever rounding does to it
SAME = 5e-4  # relative distance below which two predictions may differ by rounding alone
UNIT = {"epsilon": 0.0, "flow": 1.0, "x0": -1.0}  # and sigma for v


@dataclass(frozen=True)
class SelfBlurred(Perturbation):
    """The weak branch of SAG: x_t with the most attended parts of its predicted x0 blurred."""

    layers: tuple[int, ...]
    threshold: float
    kernel: int
    sigma: float

    @property
    def blocks(self) -> tuple[int, ...]:
        return self.layers

    @property
    def taps(self) -> tuple[float, ...]:
        """The Gaussian kernel, which sums to 1."""
        reach = range(-(self.kernel // 2), self.kernel // 2 + 1)
        found = [math.exp(-at**2 / (2 * self.sigma**2)) for at in reach]
        return tuple(tap / sum(found) for tap in found)

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return SelfBlurredState(self)


class SelfBlurredState(State):
    """What the clean pass of one step left: queries and keys, then what the blur does to x0 (`shift`)."""

    proves = True

    def __init__(self, spec: SelfBlurred):
        super().__init__()
        self.spec = spec
        self.held: list[Attention] = []
        self.blurred: torch.Tensor | None = None

    def begin(self, index: int) -> None:
        super().begin(index)
        self.held, self.blurred = [], None

    @property
    def watches(self) -> bool:
        return True

    def watch(self, block: int, call: Attention, rows: Rows) -> None:
        part = call.rows(rows.cond)
        self.held.append(replace(part, v=part.k))  # v is not read: let it go

    def predicted(self, step: Step, cond: torch.Tensor) -> None:
        """shift: mask (blur(x0) - x0). x~ = alpha (x0 + shift) + sigma epsilon, so x~ - x = alpha shift."""
        self.step, self.cond = step, cond
        clean = to_x0(cond, step.x, step.alpha, step.sigma, step.space)
        image = planes(clean, step)
        # blurred where it is looked at most: what the network built there is missing in the weak branch
        # beside the step there is no attention to see: the mask is the step's
        self.blurred = self.mask(unpack(clean, step)) if self.blurred is None else self.blurred
        shift = self.blurred.to(image.dtype) * (blur(image, self.spec.taps) - image)
        self.shift = from_planes(shift, step, clean)
        self.held = []

    def mask(self, image: torch.Tensor) -> torch.Tensor:
        """True where x0 [batch, channels, height, width] is blurred; [batch, 1, height, width]."""
        if not self.held:
            raise NoEffect("sag saw no attention in this step: something skips the blocks it watches (a cache?)")
        mass = torch.stack([on_pixels(received(call), image.shape) for call in self.held]).mean(0)
        return mass > self.spec.threshold * (1 + TIE)

    def inputs(self, values: dict[str, Any], condition: tuple[str, ...]) -> dict[str, Any]:
        x = values["hidden_states"]
        return {"hidden_states": (x + self.step.alpha * self.shift).to(x.dtype)}

    def at_step(self, prediction: torch.Tensor) -> torch.Tensor:
        """The prediction at x that has the epsilon of `prediction`, which is at x~.

        epsilon is x + alpha flow, sigma x + alpha v or (x - alpha x0) / sigma: with x~ - x = alpha shift they differ by
        1, sigma and -1 times the shift.
        """
        size = self.cond.abs().amax()
        self.note((prediction - self.cond).abs().amax() > SAME * size)
        unit = self.step.sigma if self.step.space == "v" else UNIT[self.step.space]
        return prediction + unit * self.shift


def received(call: Attention) -> torch.Tensor:
    """Attention that each image token gets from all image tokens, mean over heads; [batch, image tokens], mean 1.

    Where text tokens are among the keys, rows are renormalised over the image keys.
    """
    total = torch.zeros((), device=call.q.device)
    for chunk in call.chunks():
        weights = call.weights(chunk)[..., call.image]
        # rows sum to 1 over the image, so that columns have mean 1 whatever share the text takes
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        total = total + weights.sum(2).mean(1)
    return total


def _no_place(tokens: int, shape: Sequence[int]) -> str:
    return (f"sag cannot place {tokens} image tokens on latents of shape {tuple(shape)}: it needs images, one token per "
            "square patch, and no tokens of further images")


def on_pixels(tokens: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Values of tokens [batch, tokens] on the pixels of latents of `shape`, nearest; [batch, 1, height, width]."""
    height, width = shape[-2:]
    sides = (math.isqrt(height * width // tokens.shape[1]), *(2**i for i in range(max(height, width).bit_length() + 1)))
    # -(-a // n) is a / n rounded up; the side of a patch is the n that gives as many patches as there are tokens
    side = next((n for n in sides if n and -(-height // n) * -(-width // n) == tokens.shape[1]), None)
    if len(shape) != 4 or side is None:
        raise Unsupported(_no_place(tokens.shape[1], shape))
    grid = tokens.unflatten(1, (1, -(-height // side), -(-width // side)))
    return grid.repeat_interleave(side, -2).repeat_interleave(side, -1)[..., :height, :width]


@dataclass(frozen=True)
class SAG(Push):
    """Self-attention guidance: push away from a prediction at an x_t whose most attended parts are blurred.

    From the conditional prediction come x0, epsilon, and a mask of the image tokens that get more than `threshold` of
    attention (mean over heads and blocks, summed over queries; the mean over tokens is 1). x0 is blurred inside the
    mask and noised again with the same epsilon: x~. The weak prediction is made at x~ and read as an epsilon, the
    paper's space. What rules see of it is the prediction at x_t with that epsilon, in whatever space the network
    works, so that p + (w - 1) (cond - weak) means the same in all of them. For flow networks this choice of the space
    is unconfirmed.

    At alpha 0 (pure noise, the first step of flow models) x~ is x, and nothing is evaluated. Published with CFG,
    diffusers reads mask and weak prediction off the unconditional branch; this is the conditional one. For images
    alone, also as sequences of patches; other latents are refused (`Unsupported`).

    Args:
        layers: blocks whose attention is read, by number; None takes the model's, or the middle one, as "auto" does.
        threshold: a token that gets more attention than this is blurred, in units of the mean; at least 0, 1 as
            published.
        kernel: size of the blur in latent pixels, an odd number; None takes the model's.
        sigma: standard deviation of the blur in latent pixels, above 0.

    >>> import emag
    >>> emag.SAG(1.75).equation
    'p + (w - 1) (cond - weak), weak at x~, in epsilon'
    >>> len(emag.SAG(1.75, layers=(13,), kernel=9).perturbation.taps)  # of the Gaussian kernel
    9
    """

    layers: tuple[int, ...] | None = None
    threshold: float = 1.0
    kernel: int | None = None
    sigma: float = 1.0

    name = "sag"
    paper = "arXiv 2210.00939"
    equation = "p + (w - 1) (cond - weak), weak at x~, in epsilon"
    cost = "one weak evaluation of the conditional rows per step, all blocks; reads attention maps in chunks"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold < math.inf:
            raise BadValue(f"sag threshold must be at least 0 (1 as published), got {self.threshold}")
        if self.kernel is not None and (type(self.kernel) is not int or self.kernel < 1 or self.kernel % 2 == 0):
            raise BadValue(f"sag kernel must be an odd number of pixels, e.g. 9, got {self.kernel!r}")
        if not 0 < self.sigma < math.inf:
            raise BadValue(f"sag sigma must be above 0, got {self.sigma}")

    def fits_run(self, start: RunStart) -> None:
        x = unpack(start.first.x, start.first)
        if x.ndim != 4:
            raise Unsupported(_no_place(math.prod(start.tokens), x.shape))

    @property
    def perturbation(self) -> SelfBlurred:
        assert self.layers is not None and self.kernel is not None
        return SelfBlurred(self.layers, self.threshold, self.kernel, self.sigma)

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return () if step.alpha == 0 else super().branches(step)
