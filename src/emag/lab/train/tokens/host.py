"""What all kinds of host have in common: a language, a model of it that is trained here, and texts under a guidance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ....core import Rule


@dataclass(frozen=True)
class Language:
    """Texts and their rule.

    prompts: how many there are; a prompt of this number names nothing. draw: (count, random) -> prompts [count] and tokens
    [count, length] of texts to train on, of which some have the prompt that names nothing. kept: (prompts, tokens) -> which
    tokens keep the rule, bool, [count, places].
    """

    prompts: int
    draw: Callable[[int, torch.Generator], tuple[torch.Tensor, torch.Tensor]]
    kept: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Sampled:
    """Texts that were made: tokens [count, length], the passes of the null, and those that were planned."""

    tokens: torch.Tensor
    passes: int
    planned: int

    @classmethod
    def of(cls, made: torch.Tensor, run: Any, rules: Sequence[Rule], count: int) -> "Sampled":
        """Texts of `count` tokens that `generate` made in the block of `run`, under `rules`."""
        passes = run.stats.passes.get("uncond", 0) if rules else 0  # without rules nothing is counted
        return cls(made, passes, run.plan(count).get("uncond", 0))


@dataclass(frozen=True)
class Kind:
    """A kind of host.

    name, title: the word of the command; the class and what it says. build: an untrained model. loss: (model, prompts,
    tokens, random) -> the mean cross entropy. make: (model, rules, prompts, seed) -> texts, sampled at temperature 1.
    load: the model of a folder. updates, rate, batch: of its training.
    """

    name: str
    title: str
    language: Language
    build: Callable[[], Any]
    loss: Callable[[Any, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
    make: Callable[[Any, Sequence[Rule], torch.Tensor, int], Sampled]
    load: Callable[[Any], Any]
    updates: int = 800
    rate: float = 5e-3
    batch: int = 64


def trained(kind: Kind, updates: int | None = None, seed: int = 0) -> Any:
    """A model that has learned the kind's language as far as `updates` of it teach; None: as many as the kind needs."""
    count = kind.updates if updates is None else updates
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.build()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=kind.rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, kind.rate, total_steps=count, pct_start=0.1)
    model.train()
    for _ in range(count):
        loss = kind.loss(model, *kind.language.draw(kind.batch, random), random)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()
