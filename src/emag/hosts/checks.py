"""Everything about one call of a pipeline that can be refused before it starts."""

import logging
from collections.abc import Sequence
from typing import Any

from ..backbones.read import Network
from ..engine.plan import plan, unfed, weak_branches
from ..engine.trajectory import Trajectory
from ..errors import BadValue, Unsupported
from ..guidance import Rule
from .entry import Host

log = logging.getLogger("emag")

HARMLESS_HOOKS = ("hooks", "layerwise_casting", "group_offloading")


def check(rules: Sequence[Rule], host: Host, network: Network, arguments: dict[str, Any]) -> None:
    """Refuse what cannot work. Raises `BadValue` and `Unsupported`; says so where the host's scale is ignored."""
    branches = weak_branches(rules)
    for name, reason in host.refused:
        if arguments.get(name) is not None:
            raise Unsupported(f"{name} in a guided {host.name}: {reason}; leave it out")
    for branch in branches:
        network.check_layers((*branch.blocks, *branch.changes))
    _check_combiner(rules, host, arguments)
    needy = [rule.name for rule in rules if any(branch.needs_uncond or branch.null for branch in rule.weak)]
    if needy and (not host.doubled or not host.guides(arguments)):
        raise Unsupported(f"{needy[0]} with these settings needs conditional and unconditional rows in one network call, "
                          f"and {host.name} has none here: use a pipeline that makes one doubled call (SD3, PixArt, DiT), "
                          "with its guidance on, or name the negative in the rule where it takes one")
    _check_models(rules, network)
    _check_window(rules, host, network, arguments)
    if branches:
        _check_hooks(network, resumed=any(branch.resume or branch.skipped for branch in branches))


def _check_models(rules: Sequence[Rule], network: Network) -> None:
    """What works inside the pipeline's network does not reach another one."""
    other = next((rule.name for rule in rules if any(branch.model for branch in rule.weak)), None)
    inside = next((rule.name for rule in rules if rule.kind == "attention"
                   or (rule.kind == "condition" and network.backbone.condition_modules)), None)
    if other and inside:
        raise Unsupported(f"{inside} works inside the pipeline's network and would not reach the other one of {other}: "
                          "use one of the two")


def check_order(rules: Sequence[Rule]) -> None:
    """Raise `BadValue` for two combining rules, and for one that comes after a rule on the combined prediction."""
    combining = [rule.name for rule in rules if rule.kind == "combining"]
    if len(combining) > 1:
        raise BadValue(f"{' and '.join(combining)} both combine the conditional with the unconditional prediction; keep one")
    _check_nulls([rule for rule in rules if rule.kind == "null"])
    kinds = [rule.kind for rule in rules]
    if "after" in kinds and "combining" in kinds[kinds.index("after"):]:
        late = rules[kinds.index("after")].name
        raise BadValue(f"{late} works on the combined prediction: name {combining[0]} before it")


def _check_nulls(rules: Sequence[Rule]) -> None:
    """Rules that give the unconditional prediction, at most one, come before those that rewrite it."""
    gives = [type(rule).spares_null is not Rule.spares_null for rule in rules]
    if sum(gives) > 1:
        raise BadValue(f"{' and '.join(r.name for r, g in zip(rules, gives) if g)} both give the unconditional prediction; "
                       "keep one")
    if any(gives) and gives.index(True) > 0:
        late = rules[gives.index(True)].name
        raise BadValue(f"{rules[0].name} rewrites the unconditional prediction that {late} gives: name {late} before it")


def _check_combiner(rules: Sequence[Rule], host: Host, arguments: dict[str, Any]) -> None:
    combiner = next((rule.name for rule in rules if rule.kind == "combining"), None)
    if combiner is None:
        _check_uncombined(rules, host, arguments)
        return
    if not host.guides(arguments) and unfed(rules, Trajectory.even(host.steps(arguments) or 28)):
        raise BadValue(f"{combiner} combines conditional and unconditional predictions, but this call has no "
                       f"unconditional rows: {_way_out(host)}")
    if host.third_asked and arguments.get(host.third_asked) is not None:
        raise Unsupported(f"{host.third_asked} adds to the result of {combiner}; use one of the two")
    if host.scale is not None:
        log.warning("emag: %s combines; the pipeline's %s=%s is ignored", combiner, host.scale, arguments[host.scale])


def _way_out(host: Host) -> str:
    """How a call gets unconditional rows."""
    if host.scale is None:
        return f"{host.name} evaluates none; leave this rule out"
    extra = f" and a {host.negative[0][0]}" if host.negative else ""
    return f"give the pipeline a {host.scale} above 1{extra}"


def _check_uncombined(rules: Sequence[Rule], host: Host, arguments: dict[str, Any]) -> None:
    """What rules need that goes with a combining rule, or with unconditional rows, where there is none."""
    guides = host.guides(arguments)
    after = next((rule.name for rule in rules if rule.kind == "after"), None)
    if after and guides and host.scale is not None:
        raise BadValue(f"{after} works on the combined prediction, and here the pipeline combines: name a combining rule "
                       f"before it, e.g. cfg={arguments[host.scale]:g}")
    null = next((rule.name for rule in rules if rule.kind == "null"), None)
    if null and not guides:
        raise BadValue(f"{null} is about the unconditional prediction, and this call has none: {_way_out(host)}")


def _check_window(rules: Sequence[Rule], host: Host, network: Network, arguments: dict[str, Any]) -> None:
    count = host.steps(arguments)
    if not count or any(arguments.get(name) is not None for name in ("sigmas", "timesteps")):
        return
    early = [rule for rule in rules if getattr(getattr(rule, "window", None), "unit", "sigma") != "sigma"]
    plan(early, network.depth, Trajectory.even(count), host.guides(arguments))


def _check_hooks(network: Network, resumed: bool) -> None:
    """Refuse diffusers' block caches, and offloading by groups of blocks where weak passes skip blocks."""
    registries = [getattr(module, "_diffusers_hook", None) for module in network.module.modules()]
    hooks = [type(hook) for registry in registries if registry is not None for hook in registry.hooks.values()]
    for hook in hooks:
        package, _, kind = hook.__module__.rpartition(".")
        if package == "diffusers.hooks" and kind not in HARMLESS_HOOKS:
            raise Unsupported(f"{hook.__name__} ({kind}) is at work in the network: a cache or another hook that changes "
                              "what blocks compute. Switch it off, e.g. by transformer.disable_cache()")
        if kind == "group_offloading" and resumed:
            raise Unsupported("group offload moves weights as blocks are reached, and a weak pass skips blocks: use "
                              "enable_model_cpu_offload(), or full weak passes, e.g. EMAG(compat={'resume': False})")
