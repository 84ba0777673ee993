"""The rules in order on predictions of tokens, some of which may be excluded."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from ..core import COND, Rule, Step, combine, with_null
from ..methods.tokens.base import Scored


def guided_by(rules: Sequence[Rule], branches: Mapping[Hashable, torch.Tensor], step: Step,
              states: Sequence[dict[str, Any]]) -> torch.Tensor:
    """What `rules` make of `branches`, each [rows, size]. What a branch excludes (-inf) keeps what the prompt says of it."""
    cond = branches[COND]
    # inf - inf is NaN and 0 times inf too: rules that combine see 0 in all branches where one excludes a token
    predicted = {name: p for name, p in branches.items() if not isinstance(name, Scored)}
    excluded = torch.stack([p.isinf() for p in predicted.values()]).any(0)
    seen = {**branches, **{name: p.masked_fill(excluded, 0.0) for name, p in predicted.items()}}
    first = next((i for i, rule in enumerate(rules) if rule.kind == "after"), len(rules))
    seen = dict(with_null(rules, seen, step, states))
    pred = combine(rules[:first], seen[COND], seen, step, states[:first])
    pred = torch.where(excluded, cond, pred)
    return combine(rules[first:], pred, branches, step, states[first:])
