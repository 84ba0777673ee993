"""How many passes a guidance of tokens will take, before it is run."""

import torch

from ..core import UNCOND, TokenStep, reads_null
from ..maths.streams import Streams
from ..methods.tokens.base import Scored
from .run import TokenGuidance


def planned(asked: TokenGuidance, count: int) -> dict[str, int]:
    """The most passes of each branch over `count` tokens, beside the one a token that decoding takes.

    Schedules are followed. What the text itself decides (MTI's entropy, AG's agreement) can only spare some of them: the
    counts of a run are then at most these, and else they are these.
    """
    found: dict[str, int] = {}
    for index in range(count):
        step = _step(asked, index, count)
        names = {branch.condition or UNCOND for rule in asked.rules for branch in rule.branches(step)
                 if not isinstance(branch, Scored)}
        null = {UNCOND} if asked.combines and reads_null(asked.rules, step) else set()
        for name in names | null:
            found[name] = found.get(name, 0) + 1
    return {name: found[name] for name in sorted(found)}


def _step(asked: TokenGuidance, index: int, count: int) -> TokenStep:
    nothing = torch.empty(0)
    none = (float("nan"),) * count
    return TokenStep(index, none, none, 1.0, asked.space, nothing, Streams.of(nothing), cond=nothing, live=nothing)
