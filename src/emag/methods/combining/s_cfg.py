"""S-CFG: a guidance of the same strength on every semantic region of the image."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Perturbation, Rule, RunStart, Step
from ...errors import BadValue, NoEffect, Unsupported
from ...maths.layout import pack, unpack
from ...maths.pyramid import blur
from ...maths.vectors import widened
from ...schedules import Scale, check_scale, known, weight
from ..common.push import layers_of
from ..common.token_maps import GAUSSIAN
from ..common.token_watchers import NO_IMAGE, NO_TEXT, OwnMaps, TokenMaps, Watcher, check_bos

TIE = 1e-4  # relative margin below which two maps are equal


@dataclass(frozen=True)
class SCFG(Rule):
    """Semantic-aware guidance: a push of the same strength on every semantic region of the image.

    The result is u + w R D with D = p - u, p the running prediction, u the unconditional one, and a rate R at each
    place of the image. A region is where one text token has the largest map (`token_maps`, conditional rows), each
    map divided by its mean over the image first. The foreground is where all tokens but `bos` together have a larger
    one than `bos` (unconditional rows; where their tokens tell none, as an empty prompt's, the conditional ones). R =
    (mean |D| on the foreground) / (mean |D| on the region), |D| over channels; then clipped to [low, high] and w R to
    `limit`, and blurred. R does not depend on the prediction space.

    For networks whose attention holds text tokens (SD3, Flux), and those with a cross-attention beside a self-attention
    with a map (`cross`: Stable Diffusion, the paper's own, and PixArt); elsewhere `Unsupported` is raised. Maps are taken
    on at most 16x16 cells; those of a coarser block are resized. The published code computes (S + 3 S^2) / 4 where the
    text has four powers of the self-attention S, and blurs with a standard deviation of 0.71 where the text has 0.5; this
    is the text's form.

    Args:
        scale: w, at least 0, or a schedule; 1 is off. None takes the model's default.
        layers: blocks whose attention is read, by number; None takes the middle ones (untested default).
        bos: position of the start token among the text tokens, the first on SD3 and Stable Diffusion. Flux's and PixArt's
            T5 has none, and its first token stands in (untested).
        low: least R, at least 0; 0.8 as published for SD1.5.
        high: largest R, at least `low`; 3 as published for SD1.5.
        limit: largest w R, above 0; 15 as published for SD1.5.
        cross: read the text in the blocks' cross-attention; None takes the model's.

    >>> import emag
    >>> emag.SCFG(7.5, layers=(11, 12)).cost
    'none; reads the attention maps of some blocks, at the price of their fused attention'
    """

    scale: Scale | None = None
    layers: tuple[int, ...] | None = None
    bos: int = 0
    low: float = 0.8
    high: float = 3.0
    limit: float = 15.0
    cross: bool | None = None

    name = "s-cfg"
    paper = "arXiv 2404.05384"
    equation = "u + w R (p - u), R = mean |D| on the foreground / mean |D| on the region"
    kind = "combining"
    cost = "none; reads the attention maps of some blocks, at the price of their fused attention"

    def __post_init__(self) -> None:
        check_scale(self.name, self.scale)
        if self.layers is not None:
            object.__setattr__(self, "layers", layers_of(self.name, self.layers))
        if not 0 <= self.low <= self.high < float("inf"):
            raise BadValue(f"s-cfg needs 0 <= low <= high, got {self.low} and {self.high}")
        if not 0 < self.limit < float("inf"):
            raise BadValue(f"s-cfg limit must be above 0 (15 as published), got {self.limit}")

    @property
    def observer(self) -> TokenMaps:
        """What reads the attention, once the layers are known."""
        assert self.layers is not None
        return TokenMaps(self.layers, self.bos, bool(self.cross))

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (OwnMaps(self.observer.layers), self.observer) if self.cross else (self.observer,)

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        blocks = [network.blocks[at] for at in self.observer.blocks]
        linear = self.cross and any(block.stack.linear for block in blocks)
        if linear or not all(block.has_text(bool(self.cross)) for block in blocks):
            raise Unsupported(NO_TEXT)

    def fits_run(self, start: RunStart) -> None:
        if start.tokens and len(start.tokens) != 2:
            raise Unsupported(NO_IMAGE)

    def reads_null(self, step: Step) -> bool:
        return known(self.scale, step) != 1

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if not self.reads_null(step):
            return pred
        wide = widened(pred)
        shift = unpack(wide - branches[UNCOND].to(wide.dtype), step)
        rate = self._rate(shift.norm(dim=1), step.seen[self.observer])
        strength = weight(self.scale, branches, step, state, rate) * rate
        # regions have hard edges, guidance must not
        strength = blur(strength.clamp(max=self.limit), GAUSSIAN)
        # u + w R D with u = p - D
        return (wide + pack((strength[:, None] - 1) * shift, step)).to(pred.dtype)

    def _rate(self, size: torch.Tensor, seen: Watcher) -> torch.Tensor:
        """R clipped to [low, high], for |D| [batch, height, width]."""
        if COND not in seen.found:
            raise NoEffect("s-cfg saw no attention in this step: something skips the blocks it watches (a cache?)")
        cells = seen.cells
        rows, columns = (at.to(size.dtype) for at in cells.members(size.shape[-2] // cells.rows, size.device))
        cond, uncond = seen.found[COND], seen.found.get(UNCOND, seen.found[COND])
        inside, own = foreground(uncond, self.bos).flatten(1), foreground(cond, self.bos).flatten(1)
        # the published foreground is that of the empty prompt's maps; where those show none, the prompt's
        inside = torch.where(inside.any(1, keepdim=True), inside, own)
        rate = rates((rows.T @ size @ columns).flatten(1), torch.outer(rows.sum(0), columns.sum(0)).flatten(),
                     regions(cond).flatten(1), inside)
        return rows @ rate.clamp(self.low, self.high).unflatten(1, (rows.shape[1], columns.shape[1])) @ columns.T


def regions(maps: list[torch.Tensor]) -> torch.Tensor:
    """For each place the text token with the largest map, from one [batch, text tokens, rows, columns] per block."""
    mean = torch.stack([_evened(m) for m in maps]).mean(0)
    return (mean >= (1 - TIE) * mean.amax(1, keepdim=True)).int().argmax(1)  # ties by a rounding error go to the first


def foreground(maps: list[torch.Tensor], bos: int) -> torch.Tensor:
    """True where the text tokens but `bos` have together a larger map than `bos` has, by more than TIE; [batch, rows,
    columns]."""
    check_bos(bos, maps[0].shape[1])
    start = [m[:, bos] for m in maps]
    words = [m.sum(1) - m[:, bos] for m in maps]
    return torch.stack([_evened(w) - _evened(s) for w, s in zip(words, start, strict=True)]).mean(0) > TIE


def rates(total: torch.Tensor, count: torch.Tensor, labels: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Mean of n on the foreground over its mean on each place's own region, [batch, places].

    total [batch, places]: sum of n over the pixels of each place; count [places]: how many they are; labels: regions;
    inside: the foreground. 1 where either mean is 0, and where there is no foreground.
    """
    tiny = torch.finfo(total.dtype).tiny
    mask = inside.to(total.dtype)
    level = (total * mask).sum(1, keepdim=True) / (count * mask).sum(1, keepdim=True).clamp(min=tiny)
    # [places, places]: which places share a region, so that a matrix product sums over each region
    same = (labels[:, :, None] == labels[:, None, :]).to(total.dtype)
    mean = (same @ total[..., None] / (same @ count[:, None])).squeeze(-1)
    return torch.where((level > 0) & (mean > 0), level / mean.clamp(min=tiny), 1.0)


def _evened(maps: torch.Tensor) -> torch.Tensor:
    """Maps divided by their mean over the image."""
    return maps / maps.mean((-2, -1), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
