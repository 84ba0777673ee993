"""Everything about one call of a pipeline that can be refused before it starts."""

import logging
from collections.abc import Collection, Sequence
from typing import Any

from ..core import LATE, Look, Rule, check_finite, weak_before, weak_branches
from ..engine.network import Network
from ..engine.plan import departs, plan, unfed
from ..engine.swaps import lora_layers
from ..engine.trajectory import Trajectory
from ..errors import BadValue, Unsupported
from ..families import Host
from ..records.ranges import warn_of_scales
from .around import check_around
from .hooks import check_hooks, check_text_cache

log = logging.getLogger("emag")

def check_pipeline_call(rules: Sequence[Rule], host: Host, networks: Sequence[Network], arguments: dict[str, Any],
          named: Collection[str] = ()) -> None:
    """Refuse what cannot work. Raises `BadValue` and `Unsupported`.

    named: arguments that the caller gave; says so where the host's scale is among them and is ignored.
    """
    branches, network = weak_branches(rules), networks[0]
    if any(other.depth != network.depth for other in networks):
        depths = " and ".join(str(one.depth) for one in networks)
        raise Unsupported(f"the networks of this {host.name} have {depths} blocks: they must have as many, for layers to "
                          "mean the same in both")
    for name, value in arguments.items():
        check_finite(name, value)
    for name, reason in host.refused:
        if arguments.get(name) is not None and arguments[name] is not False:
            raise Unsupported(f"{name} in a guided {host.name}: {reason}; leave it out")
    _check_own(host, arguments)
    if host.guides(arguments):
        _check_values(host, host.only, arguments)
    for branch in branches:
        network.check_layers((*branch.blocks, *branch.changes))
        network.check_text(branch.blocks if branch.reads_text else ())
    _check_combiner(rules, host, arguments, named)
    needy = [rule.name for rule in rules if any(branch.needs_uncond or branch.null for branch in rule.weak)]
    if needy and (not host.doubled or not host.guides(arguments)):
        raise Unsupported(f"{needy[0]} with these settings needs conditional and unconditional rows in one network call, "
                          f"and {host.name} has none here: use a pipeline that makes one doubled call (SD3, PixArt, DiT), "
                          "with its guidance on, or name the negative in the rule where it takes one")
    _check_readers(rules, host, arguments)
    if any(branch.lora_scale is not None for branch in branches):
        for one in networks:
            lora_layers(one.module)
    _check_conditions(rules, network)
    _check_paired(rules, network)
    _check_between(rules, host, arguments)
    _check_models(rules, network)
    _check_window(rules, host, network, arguments)
    for one in networks:
        check_text_cache(one, rules)
    if branches or departs(rules):
        for one in networks:
            check_hooks(one, branches, looks=any(rule.looks_further for rule in rules))


def _check_values(host: Host, only: Sequence[tuple[str, tuple[Any, ...], str]], arguments: dict[str, Any]) -> None:
    for name, values, reason in only:
        if arguments.get(name) is not None and arguments[name] not in values:
            raise Unsupported(f"{name}={arguments[name]} in a guided {host.name}: {reason}")


def _check_conditions(rules: Sequence[Rule], network: Network) -> None:
    """Rules on the condition need one tensor of it."""
    backbone = network.backbone
    rule = next((rule.name for rule in rules if rule.kind == "condition"), None)
    if rule and not (backbone.condition or backbone.condition_modules):
        raise Unsupported(f"{rule} changes the condition as one tensor, and {backbone.name} takes a list of texts of "
                          "different lengths: leave it out")


def _check_paired(rules: Sequence[Rule], network: Network) -> None:
    """Rules that spare the unconditional evaluation would take it from what else the network makes."""
    saver = next((rule.name for rule in rules if type(rule).spares_null is not Rule.spares_null), None)
    if saver and network.backbone.paired:
        raise Unsupported(f"{saver} spares unconditional evaluations, and {network.backbone.name} makes a sound with the "
                          "video, whose unconditional prediction comes of the same ones: leave it out")


def _check_between(rules: Sequence[Rule], host: Host, arguments: dict[str, Any]) -> None:
    """Rows with a picture and without the text are the host's to weigh: nothing of ours gives or moves them."""
    if not host.between or not host.guides(arguments):
        return
    looking = next((rule.name for rule in rules if rule.looks_further), None)
    saver = next((rule.name for rule in rules if type(rule).spares_null is not Rule.spares_null), None)
    if looking or (saver and not any(rule.kind == "combining" for rule in rules)):
        raise Unsupported(f"{looking or saver} knows conditional and unconditional rows, and {host.name} weighs a picture "
                          "by rows of its own: leave it out" + ("" if looking else ", or name a combining rule as well"))


def _check_own(host: Host, arguments: dict[str, Any]) -> None:
    """Refuse guidance of the host's own that makes further calls of the network."""
    asked = next((name for name, off in host.own if arguments.get(name) not in (None, off)), None)
    if asked:
        raise Unsupported(f"{asked}={arguments[asked]:g} is guidance of {host.name}'s own, which calls the network once "
                          f"more: say {', '.join(f'{name}={off:g}' for name, off in host.own)}, and name rules in its place")


def _check_models(rules: Sequence[Rule], network: Network) -> None:
    """What works inside the pipeline's network does not reach another one."""
    other = next((rule.name for rule in rules if any(branch.model for branch in rule.weak)), None)
    inside = next((rule.name for rule in rules if rule.kind == "attention"
                   or (rule.kind == "condition" and network.backbone.condition_modules)), None)
    if other and inside:
        raise Unsupported(f"{inside} works inside the pipeline's network and would not reach the other one of {other}: "
                          "use one of the two")


def check_rules(rules: Sequence[Rule], networks: Sequence[Network]) -> None:
    """All that rules and networks tell without a call. Raises `BadValue` and `Unsupported`."""
    check_order(rules)
    check_looks(rules)
    check_around(rules)
    for network in networks:
        for rule in rules:
            rule.fits_network(network)


def check_order(rules: Sequence[Rule]) -> None:
    """Raise `BadValue` for two combining rules, and for one that comes after a rule on the combined prediction.

    Says which rules have a scale that nothing useful comes of.
    """
    warn_of_scales(rules)
    combining = [rule.name for rule in rules if rule.kind == "combining"]
    if len(combining) > 1:
        raise BadValue(f"{' and '.join(combining)} both combine the conditional with the unconditional prediction; keep one")
    _check_nulls([rule for rule in rules if rule.kind == "null"])
    late = next((at for at, rule in enumerate(rules) if rule.kind in LATE), len(rules))
    if any(rule.kind == "combining" for rule in rules[late:]):
        raise BadValue(f"{rules[late].name} works on the combined prediction: name {combining[0]} before it")


def check_looks(rules: Sequence[Rule]) -> None:
    """Raise `Unsupported` for a guided estimate at a later level where weak branches are in it.

    At another x of the same step they are made of what its clean pass showed; a later one has shown nothing yet.
    """
    for at, rule in enumerate(rules):
        looks = [look for step in Trajectory.even(28).places() for look in rule.looks(step)]
        _check_uncond_look(rules, looks, rule.name)
        if not any(look.of == "guided" and look.ahead for look in looks):
            continue
        weak = weak_before(rules, at)
        if weak:
            owner = next(one.name for one in rules if weak[0] in one.weak)
            other = ", or steps=1" if hasattr(rule, "steps") else ""
            raise Unsupported(f"{rule.name} with these settings evaluates the guided prediction at later steps, of which "
                              f"the weak branch of {owner} has seen nothing yet: say of=cond{other}")


def _check_uncond_look(rules: Sequence[Rule], looks: Sequence[Look], name: str) -> None:
    saver = next((one.name for one in rules if type(one).spares_null is not Rule.spares_null), None)
    if saver and any(look.of == "uncond" for look in looks):
        raise Unsupported(f"{name} evaluates the unconditional prediction at another x, and {saver} spares it: "
                          "say of=guided")


def _check_nulls(rules: Sequence[Rule]) -> None:
    """Rules that give the unconditional prediction, at most one, come before those that rewrite it."""
    gives = [type(rule).spares_null is not Rule.spares_null for rule in rules]
    if sum(gives) > 1:
        raise BadValue(f"{' and '.join(r.name for r, g in zip(rules, gives) if g)} both give the unconditional prediction; "
                       "keep one")
    if any(gives) and gives.index(True) > 0:
        late = rules[gives.index(True)].name
        raise BadValue(f"{rules[0].name} rewrites the unconditional prediction that {late} gives: name {late} before it")


def _check_combiner(rules: Sequence[Rule], host: Host, arguments: dict[str, Any], named: Collection[str]) -> None:
    combiner = next((rule.name for rule in rules if rule.kind == "combining"), None)
    if combiner is None:
        _check_uncombined(rules, host, arguments)
        return
    if not host.guides(arguments) and unfed(rules, Trajectory.even(host.steps(arguments) or 28)):
        raise BadValue(f"{combiner} combines conditional and unconditional predictions, but this call has no "
                       f"unconditional rows: {_way_out(host)}")
    if host.third_asked and arguments.get(host.third_asked) is not None:
        raise Unsupported(f"{host.third_asked} adds to the result of {combiner}; use one of the two")
    _check_values(host, host.combined, arguments)
    if host.scale is not None and host.scale in named:
        log.warning("emag: %s combines; the pipeline's %s=%s is ignored", combiner, host.scale, arguments[host.scale])


def _check_readers(rules: Sequence[Rule], host: Host, arguments: dict[str, Any]) -> None:
    """Schedules that measure, and what else reads the unconditional prediction without combining it."""
    reader = None if host.guides(arguments) else unfed(rules, Trajectory.even(host.steps(arguments) or 28))
    if reader:
        raise BadValue(f"{reader} with these settings reads the unconditional prediction, and this call has none: "
                       f"{_way_out(host)}")


def _way_out(host: Host) -> str:
    """How a call gets unconditional rows."""
    if host.scale is None:
        return f"{host.name} evaluates none; leave this rule out"
    if host.guider:
        return f"give its {host.guider} a {host.scale} above 1"
    extra = f" and a {host.negative[0][0]}" if host.negative else ""
    return f"give the pipeline a {host.scale} above {host.least:g}{extra}"


def _check_uncombined(rules: Sequence[Rule], host: Host, arguments: dict[str, Any]) -> None:
    """What rules need that goes with a combining rule, or with unconditional rows, where there is none."""
    guides = host.guides(arguments)
    after = next((rule.name for rule in rules if rule.kind in LATE), None)
    if after and guides and host.scale is not None:
        raise BadValue(f"{after} works on the combined prediction, and here the pipeline combines: name a combining rule "
                       f"before it, e.g. cfg={host.as_cfg(arguments[host.scale]):g}")
    null = next((rule.name for rule in rules if rule.kind == "null" or rule.of_null), None)
    if null and not guides:
        raise BadValue(f"{null} is about the unconditional prediction, and this call has none: {_way_out(host)}")


def _check_window(rules: Sequence[Rule], host: Host, network: Network, arguments: dict[str, Any]) -> None:
    count = host.steps(arguments)
    if not count or any(arguments.get(name) is not None for name in ("sigmas", "timesteps")):
        return
    early = [rule for rule in rules if getattr(getattr(rule, "window", None), "unit", "sigma") != "sigma"]
    plan(early, network.depth, Trajectory.even(count), host.guides(arguments))
