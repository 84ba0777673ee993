"""Smoothed energy: image queries blurred over the token grid."""

import math
from dataclasses import dataclass

import torch

from ...core import OnLayers, Sdpa, State
from ...errors import BadValue, Unsupported
from ...maths.attention import Attention, differ
from ...maths.streams import Streams
from ...maths.vectors import widened
from ..common.push import Push

INFINITE = 9999.0


@dataclass(frozen=True)
class SmoothedQueries(OnLayers):
    """The weak branch of SEG on `layers`: image queries blurred with standard deviation `sigma`, in tokens."""

    sigma: float

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> "SmoothedState":
        return SmoothedState(self.sigma)


class SmoothedState(State):
    """No memory but the token grid, which the run tells."""

    proves = True

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def look(self, block: int, call: Attention) -> None:
        count = call.image.stop - call.image.start
        check_grid(count, self.grid_of(count))

    def perturb(self, block: int, call: Attention, sdpa: Sdpa) -> torch.Tensor:
        live = sdpa(call.q)
        q = call.q.clone()
        image = call.image_queries()
        q[:, :, call.image] = smoothed(image, self.grid_of(image.shape[2]), self.sigma)
        out = sdpa(q)
        self.note(differ(out, live))
        return out


def smoothed(queries: torch.Tensor, grid: tuple[int, ...], sigma: float) -> torch.Tensor:
    """`queries` [B, H, tokens, d] blurred over rows and columns of `grid`, ([frames,] rows, columns); frames apart.

    Raises `Unsupported` where the tokens are not those of the grid.
    """
    check_grid(queries.shape[2], grid)
    wide = widened(queries)
    planes = wide.unflatten(2, (-1, *grid[-2:]))
    down, across = (blur_kernel(n, sigma, wide) for n in grid[-2:])
    # a Gaussian blur is one along the rows and one along the columns: two small matrices
    return torch.einsum("ry,cx,bhfyxd->bhfrcd", down, across, planes).flatten(2, 4).to(queries.dtype)


def check_grid(count: int, grid: tuple[int, ...]) -> None:
    """Raise `Unsupported` where `count` tokens are not those of the grid."""
    if math.prod(grid) != count:
        raise Unsupported(f"seg cannot place {count} image tokens on a grid of {grid}: it needs one token per patch, and no "
                          "tokens of further images")


def blur_kernel(count: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """The blur along one side as a matrix [count, count] whose rows add up to 1; reflected at the edges.

    It reaches ceil(6 sigma) // 2 tokens each way, and half the side at most (the published kernel size). Above INFINITE
    it is the mean over the side. It is made on the device and in the dtype of `like`: nothing waits for a copy.
    """
    if sigma > INFINITE:
        return like.new_full((count, count), 1 / count)
    reach = min(math.ceil(6 * sigma) // 2, count // 2) if count > 1 else 0
    offsets = torch.arange(-reach, reach + 1, device=like.device)
    taps = (torch.exp(-0.5 * (offsets.to(like.dtype) / sigma).square()) if sigma > 0 else offsets == 0).to(like.dtype)
    places = (torch.arange(count, device=like.device)[:, None] + offsets).abs()
    # places beyond the last token are reflected too: count comes to count - 2
    mirrored = (count - 1) - ((count - 1) - places).abs()
    return like.new_zeros(count, count).scatter_add_(1, mirrored, (taps / taps.sum()).expand(count, -1))


@dataclass(frozen=True)
class SEG(Push):
    """Smoothed energy guidance: push away from a network whose image queries are blurred over the token grid.

    Blurring queries blurs the logits along the query axis. On networks with rotary embeddings this holds for the
    queries after rotation, which is where they are blurred. (Before rotation, the attention call no longer knows the
    angles.) Text queries stay as they are. Frames of a video are blurred apart. Any grid will do: the kernel is capped
    by each side's own length. Published for SDXL: s = 3 (w = 4), the mean query.

    Args:
        layers: blocks to perturb, by number; None is the model's default, "auto" the middle block.
        sigma: standard deviation of the blur in tokens. 0 is off; above 9999 every image query is the mean one. None
            takes the model's.

    >>> import emag
    >>> mean_query = emag.SEG(4, layers=(13,), sigma=1e7)  # as published for SDXL
    >>> mean_query.neutral, emag.SEG(4, sigma=0).neutral
    (False, True)
    """

    layers: tuple[int, ...] | None = None
    sigma: float | None = None

    name = "seg"
    paper = "arXiv 2408.00760"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma is not None and not 0 <= self.sigma < math.inf:
            raise BadValue(f"seg sigma must be at least 0 (0 is off, above {INFINITE:g} the mean query), got {self.sigma}")

    @property
    def neutral(self) -> bool:
        return self.scale == 1 or self.sigma == 0

    @property
    def perturbation(self) -> SmoothedQueries:
        assert self.layers is not None and self.sigma is not None
        return SmoothedQueries(self.layers, self.sigma)
