"""FreCaS's map fusion: where each word was in the smaller image, kept by the attention of the larger one."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...core import Perturbation, Rows, Sdpa, Side, State, Step
from ...errors import BadValue, Unsupported
from ...maths.attention import Attention
from ...maths.streams import Streams
from ...maths.vectors import widened
from ..common.inside import Inside, Strong, has_moved, put_rows, text_keys
from ..common.sides import sides
from ..common.token_maps import share

NAME = "map-fusion"


@dataclass(frozen=True)
class FusedText(Strong):
    """The text's part of the attention, blended with what maps of an earlier stage take of it."""

    weight: float

    def start(self, sigmas: tuple[float, ...], streams: Streams) -> State:
        return FusedState(self.weight, len(sigmas) - 1)


class FusedState(State):
    """Blends where the run was given maps; at its last step it takes down maps for the next one."""

    proves = True

    def __init__(self, weight: float, last: int):
        super().__init__()
        self.weight, self.last = weight, last
        self.given: dict[Side, torch.Tensor] = {}
        self.taken: dict[Side, dict[int, torch.Tensor]] = {}

    def reach(self, step: Step) -> None:
        super().reach(step)
        names: tuple[Side, Side] = ("cond", "uncond")
        self.given = {side: step.masks[f"{NAME}:{side}"] for side in names if f"{NAME}:{side}" in step.masks}

    def strengthen(self, block: int, call: Attention, sdpa: Sdpa, rows: Rows) -> torch.Tensor:
        live = sdpa(call.q)
        for side, part in sides(rows):
            mine = call.rows(part)
            if self.now and self.now.index == self.last and block not in self.taken.setdefault(side, {}):
                self.taken[side][block] = self._map_of(mine)
                self.note(torch.ones((), dtype=torch.bool, device=live.device))
            if side in self.given:
                old = widened(live[part, :, call.image])
                new = old + self.weight * self._towards(mine, self._fitting(side, mine), old)
                self.note(has_moved(new, old))
                live = put_rows(live, part, call.image, new)
        return live

    def maps(self) -> dict[str, torch.Tensor]:
        """Masks for the next stage by name, each [batch, text tokens, rows, columns]: the mean over blocks, those of one
        grid first."""
        return {f"{NAME}:{side}": _joined(list(found.values())) for side, found in self.taken.items()}

    def _map_of(self, call: Attention) -> torch.Tensor:
        """What each image token takes of each text token, of what it takes of the text: [batch, text tokens, grid]."""
        text = text_keys(call, NAME)
        found = torch.cat([share(call.weights(chunk)[..., text]) for chunk in call.chunks()], 1)
        return found.mT.unflatten(2, self._grid(found.shape[1]))

    def _fitting(self, side: Side, call: Attention) -> torch.Tensor:
        """The given maps at the grid of a block, [batch, 1, image tokens, text tokens]."""
        maps, text = self.given[side], text_keys(call, NAME)
        if maps.shape[:2] != (len(call.q), text.stop - text.start):
            raise Unsupported(f"{NAME} was given maps of {maps.shape[0]} images and {maps.shape[1]} text tokens, and this "
                              f"stage has {len(call.q)} and {text.stop - text.start}")
        grid = self._grid(call.image.stop - call.image.start)
        # bilinear weights sum to 1, so rows over the text still do
        return _resized(maps.to(call.q.device), grid).flatten(2).mT[:, None]

    def _towards(self, call: Attention, maps: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        """From the text's part of the attention to that of the maps, [B, H, image tokens, d]; how much is text stays."""
        text = text_keys(call, NAME)
        values = call.values()[:, :, text]
        if call.cross:
            return maps @ values - live
        found = [weights @ values - weights.sum(-1, keepdim=True) * (maps[:, :, chunk] @ values)
                 for chunk in call.chunks() for weights in (call.weights(chunk)[..., text],)]
        return -torch.cat(found, 2)

    def _grid(self, tokens: int) -> tuple[int, ...]:
        grid = self.grid_of(tokens)
        if len(grid) != 2 or grid[0] * grid[1] != tokens:
            raise Unsupported(f"{NAME} found {tokens} image tokens where the latents have {self.grid}: it is for single "
                              "images")
        return grid


def _joined(maps: list[torch.Tensor]) -> torch.Tensor:
    """The mean of maps of one grid, then over grids, at the largest of them."""
    by_grid: dict[torch.Size, list[torch.Tensor]] = {}
    for one in maps:
        by_grid.setdefault(one.shape[2:], []).append(one)
    size = max(by_grid, key=lambda grid: grid[0] * grid[1])
    means = [torch.stack(found).mean(0) for found in by_grid.values()]
    return torch.stack([_resized(mean, tuple(size)) for mean in means]).mean(0)


def _resized(maps: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class MapFusion(Inside):
    """FreCaS's fusion of attention maps, arXiv 2410.18410, for the stages of `emag.hosts.cascade`.

    In its last step a stage takes down which text each image token looks at, over heads, blocks and grids. The next stages
    blend it in: (1 - weight) A V + weight A' V, A' brought to their size. Each condition has its own. Beside image
    keys in one attention (SD3, Flux), it is the part of the text that is blended, and how much of the attention is text
    stays; the published form there has a factor 154 / 4096 in its place, and is said to be broken.

    weight: in [0, 1]; 0 is off; the authors': 0.6 on SD2.1 and SDXL (0.8 in their readme), 0.5 on SD3. layers: blocks, by
    number; None and "auto" take all, as published. cross: the blocks' cross-attention; None takes the model's.
    """

    weight: float = 0.6
    layers: tuple[int, ...] | None = None
    cross: bool | None = None

    name = NAME
    paper = "arXiv 2410.18410"
    equation = "(1 - w) A V + w A' V, A' the maps of the smaller stage"
    defaults_of = "pladis"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight <= 1:
            raise BadValue(f"{NAME} weight lies in [0, 1] (0 is off, 0.6 as published), got {self.weight}")

    @property
    def neutral(self) -> bool:
        return self.weight == 0

    @property
    def perturbation(self) -> Perturbation:
        assert self.layers is not None
        return FusedText(self.layers, bool(self.cross), self.weight)
