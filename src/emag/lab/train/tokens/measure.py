"""What guidance does to the texts of a model whose rule is known: how many keep it, and how much they still differ."""

from dataclasses import dataclass
from typing import Any

import torch

from ....methods.combining.cfg import CFG
from ...evaluate.metrics.jackknife import wilson
from ..digits import SCALES, named
from .host import Kind

ENOUGH = 0.8
"""A text keeps its rule where so many of its tokens do."""
COUNT = 360
"""Texts of each strength, of all prompts alike."""


@dataclass(frozen=True)
class Kept:
    """Texts at one strength.

    texts: the share that keeps the rule, with the ends of Wilson's 95 % interval; tokens: the mean share of tokens that do;
    differ: the share of tokens in which two texts of one prompt differ, and half of the 95 % interval of that mean over
    pairs that share no text; passes, planned: of the null.
    """

    texts: float
    low: float
    high: float
    tokens: float
    differ: float
    half: float
    passes: int
    planned: int

    def __str__(self) -> str:
        return (f"{self.texts:.1%} ({self.low:.1%} to {self.high:.1%}) | {self.tokens:.1%} | "
                f"{self.differ:.1%} ± {self.half:.1%} | {self.passes}")


def measured(kind: Kind, model: Any, scale: float, count: int = COUNT, seed: int = 1) -> Kept:
    """Sample about `count` texts under CFG with `scale`, as many of each prompt, and count."""
    prompts = torch.arange(kind.language.prompts).repeat(2 * (count // (2 * kind.language.prompts)))
    made = kind.make(model, () if scale == 1 else (CFG(scale),), prompts, seed)
    share = kind.language.kept(prompts, made.tokens).double().mean(1)
    texts = float((share >= ENOUGH).double().mean())
    # texts of one prompt are a whole round of prompts apart
    one, other = made.tokens.view(-1, 2, kind.language.prompts, made.tokens.shape[1]).unbind(1)
    differ = (one != other).double().mean(-1).flatten()
    half = 1.96 * float(differ.std()) / len(differ)**0.5
    low, high = wilson(texts, len(share))
    return Kept(texts, low, high, float(share.mean()), float(differ.mean()), half, made.passes, made.planned)


TOLD = "| guidance | texts that keep the rule | tokens that do | tokens in which two texts differ | null passes |"


def rows(kind: Kind, model: Any, count: int = COUNT) -> list[str]:
    """A table of Markdown over `SCALES`, line by line."""
    lines = [TOLD, "|---|---|---|---|---|"]
    for scale in SCALES:
        lines.append(f"| {named(scale)} | {measured(kind, model, scale, count)} |")
    return lines
