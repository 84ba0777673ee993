"""Everything about a guided denoiser function that can be refused before its run."""

from collections.abc import Sequence
from typing import Any

import torch

from ..core import COND, UNCOND, Rule, condition_names
from ..engine.network import Network
from ..engine.plan import unfed
from ..engine.trajectory import Trajectory
from ..errors import BadValue, Unsupported
from ..samplers.base import Corrector
from .checks import check_looks, check_order


def check_types(rules: Sequence[Any]) -> None:
    """Raise `BadValue` for what is no rule."""
    for rule in rules:
        if isinstance(rule, Corrector):
            raise BadValue(f"{rule.name} is a corrector: give it to the loop, emag.sample(model, x, corrector)")
        if not isinstance(rule, Rule):
            raise BadValue(f"a guidance is made of rules such as emag.CFG(4.0), got {rule!r}")


def check_given(rules: Sequence[Rule], conditions: dict[str, Any], trajectory: Trajectory, inside: bool) -> None:
    """Refuse rules that lack a condition; or, where the network inside is not known, look into it."""
    check_order(rules)
    check_looks(rules)
    combining = next((rule.name for rule in rules if rule.kind == "combining"), None)
    if combining and UNCOND not in conditions:
        raise BadValue(f"{combining} needs the unconditional prediction: give conditions={{'cond': ..., 'uncond': ...}}")
    reader = None if UNCOND in conditions else unfed(rules, trajectory)
    if reader:
        raise BadValue(f"{reader} with these settings reads the unconditional prediction: give conditions={{'cond': ..., "
                       "'uncond': ...}")
    null = next((rule.name for rule in rules if rule.kind == "null" or rule.of_null), None)
    if null and not combining:
        raise BadValue(f"{null} is about the unconditional prediction, which nothing reads here: add a combining rule, e.g. "
                       "CFG(4.0)")
    for rule in rules if not inside else ():
        if looks_inside(rule):
            raise _unseen(rule)
    for name in condition_names(rules):
        if name not in conditions:
            raise BadValue(f"a rule names the condition {name!r}, which was not given: give conditions={{{name!r}: ...}}")
    noisy = next((rule.name for rule in rules if rule.kind == "condition"), None)
    if noisy and not _tensors(conditions[COND]):
        raise BadValue(f"{noisy} changes the condition, which must be a tensor or a dict of tensors [batch, ...]")


def check_outside(rules: Sequence[Rule]) -> None:
    """Refuse rules that name blocks of a network, before defaults are looked for, which a plain function has none of."""
    for rule in rules:
        if hasattr(rule, "layers") and not rule.neutral:
            raise _unseen(rule)


def _unseen(rule: Rule) -> Unsupported:
    return Unsupported(f"{rule.name} looks into the network, or needs another one, and a plain function shows none: say "
                       "emag.guided(..., backbone=network), or use emag.guide around a pipeline")


def looks_inside(rule: Rule) -> bool:
    """True where a rule needs more of a network than its predictions."""
    return any(branch.condition is None or branch.model or branch.lora_scale is not None for branch in rule.weak)


def _tensors(condition: Any) -> bool:
    values = condition.values() if isinstance(condition, dict) else [condition]
    return all(isinstance(value, torch.Tensor) for value in values)


def check_inside(rules: Sequence[Rule], network: Network) -> None:
    """Refuse rules that need more than one call of `network` for one condition."""
    for rule in rules:
        network.check_layers(tuple(at for branch in rule.weak for at in (*branch.blocks, *branch.changes)))
        network.check_text(tuple(at for branch in rule.weak if branch.reads_text for at in branch.blocks))
        if any(branch.model for branch in rule.weak):
            raise Unsupported(f"{rule.name} needs another network, and a function has one: use emag.guide around a pipeline")
        if any(branch.noisier for branch in rule.weak):
            raise Unsupported(f"{rule.name} moves the time by a share of the training schedule, which a function does not "
                              "tell: use emag.guide around a pipeline, or sg-prev")
        if any(branch.copies > 1 for branch in rule.weak):
            raise Unsupported(f"{rule.name} evaluates parts of x as images of their own, and a function's x has one size: "
                              "use emag.guide around a pipeline")
        if any(branch.needs_uncond or branch.all_rows for branch in rule.weak):
            raise Unsupported(f"{rule.name} with these settings needs conditional and unconditional rows in one network "
                              "call, and a function evaluates one condition at a time: name the negative in the rule where "
                              "it takes one, or use emag.guide around a pipeline that makes one doubled call (SD3, PixArt)")
