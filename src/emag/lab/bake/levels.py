"""A guidance at a share of its strength: what an adapter for a range of scales is taught with."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core import Rule
from ...errors import BadValue
from ...hosts.lookup import host_of
from ...objectives import is_off


def weakened(rules: Sequence[Rule], share: float) -> tuple[Rule, ...]:
    """Rules of strengths 1 + share (s - 1): at share 0 all are off. Raises `BadValue` for one that does not go off so."""
    if share == 1:
        return tuple(rules)
    strengths = [_strength(rule) for rule in rules]
    return tuple(replace(rule, **{"scale": 1 + share * (s - 1)}) for rule, s in zip(rules, strengths))


def _strength(rule: Rule) -> float:
    scale = getattr(rule, "scale", None)
    if not isinstance(scale, (int, float)) or not is_off(replace(rule, **{"scale": 1.0})):
        raise BadValue(f"{rule.name} has no scale, a number, at 1 of which it is off: a range of scales cannot hold it")
    return scale


def weaker_call(pipe: Any, call: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Arguments of a pipeline with its own guidance at a share of its strength."""
    own, host = own_scale(pipe, call) if share != 1 else None, host_of(pipe)
    return {**call, **({str(host.scale): host.off + share * (own - host.off)} if own is not None else {})}


def own_scale(pipe: Any, call: Mapping[str, Any]) -> float | None:
    """The scale of the pipeline's own guidance in a call; None where it has none."""
    host, bound = host_of(pipe), inspect.signature(type(pipe).__call__).bind(pipe, **call)
    bound.apply_defaults()
    return float(bound.arguments[host.scale]) if host.scale and host.guides(bound.arguments) else None
