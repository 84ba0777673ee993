"""A rule with its missing fields filled from the table."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from ..core import AUTO, Rule
from ..engine.network import Network
from ..errors import BadValue
from ..families import DEFAULTS, Default
from ..schedules import Schedule


def entry(rule: str, models: tuple[str, ...]) -> Default:
    """Defaults of a rule for the first of `models` that has some, then for any model."""
    for model in (*models, "*"):
        if rule in DEFAULTS.get(model, {}):
            return DEFAULTS[model][rule]
    return Default({}, "none")


def resolve(rule: Rule, models: tuple[str, ...], depth: int, middle: tuple[int, ...] = ()) -> Rule:
    """`rule` with every field left at None filled from the table, layers as block numbers of a `depth`-block network.

    Layers that no entry names, and "auto", are those of `Rule.automatic_layers`, by default the middle block, or `middle`
    where the network has such blocks.
    """
    values = {**entry(rule.defaults_of, models).values, **entry(rule.name, models).values}
    missing = {f.name: values[f.name] for f in fields(rule) if getattr(rule, f.name) is None and f.name in values}
    if "layers" in missing:
        missing["layers"] = blocks_at(missing["layers"], depth)
    given = getattr(rule, "scale", None)
    if isinstance(given, Schedule) and given.scale is None and "scale" in values:
        default = values["scale"]
        missing["scale"] = replace(given, scale=default.scale if isinstance(default, Schedule) else default)
    rule = replace(rule, **missing)
    if getattr(rule, "layers", 0) in (None, AUTO):
        own = type(rule).automatic_layers is not Rule.automatic_layers
        layers = rule.automatic_layers(depth) if own or not middle else middle
        rule = replace(rule, layers=layers)  # type: ignore[call-arg]
    scale = getattr(rule, "scale", 0)
    if scale is None or (isinstance(scale, Schedule) and scale.scale is None):
        raise BadValue(f"{rule.name} has no default scale on {models[0]}: give one, e.g. {rule.name}=1.5")
    return rule


def models_of(pipe: Any) -> tuple[str, ...]:
    """Names under which a pipeline has defaults of its own, before those of its network's class."""
    name = getattr(pipe, "emag_model", None)
    return (name,) if name else ()


def resolved(rules: Sequence[Rule], models: tuple[str, ...], network: Network) -> tuple[Rule, ...]:
    """`rules` with the defaults of `models`, then of the network's class.

    Raises `BadValue` for blocks it does not have, and for what a rule needs and nobody says.
    """
    names = (*models, network.backbone.name)
    concrete = tuple(resolve(rule, names, network.depth, network.middle) for rule in rules)
    for rule in concrete:
        network.check_layers(getattr(rule, "layers", None) or ())
        check_required(rule, names[-1])
    return concrete


def check_required(rule: Rule, where: str) -> None:
    """Raise `BadValue` for what the rule needs and nobody says. where: the network in words."""
    absent = next((name for name in rule.required if getattr(rule, name) is None), None)
    if absent:
        raise BadValue(f"{rule.name} has no default {absent} on {where}: give one, e.g. {rule.required[absent]}")


def blocks_at(layers: tuple[float, ...], depth: int) -> tuple[int, ...]:
    """Block numbers for fractions of the depth; whole numbers stay."""
    found = {at if isinstance(at, int) else min(depth - 1, round(at * depth)) for at in layers}
    return tuple(sorted(found))
