"""Importance-based token merging: fewer image tokens in the attention, those that the prompt acts on least."""

from dataclasses import dataclass
from typing import Any

import torch

from ...core import COND, UNCOND, Branches, Perturbation, Rule, RunStart, Step
from ...errors import BadValue, Unsupported
from ...maths.layout import planes
from ...maths.merging import RATIO, Likeness
from ...maths.vectors import widened
from ..common.merged_tokens import Early, Merged
from ..common.push import layers_of


@dataclass(frozen=True)
class TokenMerge(Rule):
    """Importance-based token merging: attention over fewer image tokens, unimportant ones merged first.

    A token's importance is |c - u| of the step before, the mean over channels: what the prompt does there. The most
    important tokens are a pool, a quarter of all tokens, drawn from the pool, are destinations. Every other token is
    matched with the destination it is most like. `ratio` of the tokens are merged into theirs (the mean), those outside
    the pool before all others, and get a copy of its attention output behind it. Both conditions share importance and
    destinations; weak passes of a step take the matching of its clean pass. In the first `start` steps tokens are
    dropped rather than averaged (`early`).

    It works in the self-attention of blocks that see image tokens as a set: U-Nets, PixArt, DiT, SD3, AuraFlow. Where
    positions are turned into the attention (rotary), as in Flux, it is refused. A method that looks into the attention
    of the same blocks is refused, too: name other layers for one of them. Draws are per sample, where the authors use
    torch's global generator. On PixArt the same tokens are merged as the queries of the cross-attention, as the authors do.

    Args:
        ratio: share of the tokens that is merged, in [0, 0.75]; 0 is off. The authors': 0.7 on SD2, 0.5 on PixArt. None
            takes the model's.
        pool: size of the pool, in units of the tokens that are left, at least 1; at 1 exactly the least important
            tokens are merged. The authors': 1.4 on SD2, 1 on PixArt. None takes the model's.
        start: the step, from 1 on, at which merging by importance begins; the authors': 2 on SD2, 4 of 20 on PixArt.
            None takes the model's.
        early: before that, drop tokens by ToMe's cells of 2 x 2 ("cells", from the first step on, the authors' on SD2),
            by importance ("map", from the second step on, on PixArt), or not ("whole").
        likeness: of the tokens that enter the block, the cosine of "features" or the nearness of "positions". None
            takes the model's.
        layers: blocks, by number; None takes the model's, "auto" all.
        downsample: leave blocks alone whose grid is more than so many times coarser along a side than that of the first
            of `layers`, which in U-Nets is the finest; 1 published on Stable Diffusion.
        cross: merge the queries of the cross-attention of the same blocks, by the same matching; the text's keys stay.
            On networks that keep it apart. None takes the model's: True on PixArt, elsewhere False.

    >>> import emag
    >>> emag.TokenMerge(0.0).neutral
    True
    """

    ratio: float | None = None
    pool: float | None = None
    start: int | None = None
    early: Early | None = None
    likeness: Likeness | None = None
    layers: tuple[int, ...] | None = None
    downsample: int = 1
    cross: bool | None = None

    name = "token-merge"
    paper = "arXiv 2411.16720"
    equation = "unmerge(attention(merge(x))), tokens of least |c - u| merged first"
    kind = "attention"
    cost = "saves: attention over 1 - ratio of the image tokens in its blocks; no further evaluation"

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", layers_of(self.name, self.layers))
        if self.ratio is not None and not 0 <= self.ratio <= RATIO:
            raise BadValue(f"token-merge ratio must lie in [0, {RATIO:g}] (0 is off), got {self.ratio}")
        if (self.pool is not None and self.pool < 1) or (self.start is not None and self.start < 1) or self.downsample < 1:
            raise BadValue("token-merge needs pool, start and downsample of at least 1, got "
                           f"{self.pool}, {self.start}, {self.downsample}")

    @property
    def neutral(self) -> bool:
        return self.ratio == 0

    def automatic_layers(self, depth: int) -> tuple[int, ...]:
        """Every block."""
        return tuple(range(depth))

    def fits_network(self, network: Any) -> None:
        super().fits_network(network)
        if not network.backbone.unordered:
            raise Unsupported(f"{self.name} merges image tokens in front of the attention, and that of "
                              f"{network.backbone.name} is told where each token is, or is not known to see them as a set: "
                              "it is for U-Nets, PixArt, DiT, SD3 and AuraFlow")
        # a first attention to the text (some U-Nets), or one stream that holds the text as well (AuraFlow's last blocks)
        mixed = [at for at in self.layers or () if network.blocks[at].merged
                 or getattr(network.blocks[at].attention, "is_cross_attention", False)]
        if mixed:
            raise Unsupported(f"{self.name} merges image tokens in an attention to the image, and that of blocks {mixed} of "
                              f"this {network.backbone.name} is to the text, or has both in one stream: name other layers")
        without = [at for at in self.layers or () if self.cross and network.blocks[at].cross is None]
        if without:
            raise Unsupported(f"{self.name} cross=true merges the queries of a cross-attention, and blocks {without} of "
                              f"{network.backbone.name} have none of their own: leave cross out, or name other layers")

    def fits_run(self, start: RunStart) -> None:
        if start.tokens and len(start.tokens) != 2:
            raise Unsupported("token-merge is for images; this run has latents of another kind")

    def reads_null(self, step: Step) -> bool:
        # the first map is that of the step before the first merging; later ones are taken where the step has one
        first = 0 if self.early == "map" else (self.start or 1) - 1
        return step.index == first

    @property
    def perturbation(self) -> Merged:
        assert self.layers is not None
        assert self.ratio is not None and self.pool is not None and self.start is not None
        assert self.early is not None and self.likeness is not None
        return Merged(self.layers, self.ratio, self.pool, self.start, self.early, self.likeness, self.downsample,
                      bool(self.cross))

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return (self.perturbation,)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        if UNCOND in branches:
            apart = widened(branches[COND]) - branches[UNCOND]
            step.seen[self.perturbation].importance = planes(apart, step).abs().mean(1).float()
        return pred
