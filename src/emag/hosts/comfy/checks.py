"""What can be refused before a ComfyUI run, in words."""

import logging
import re
from collections.abc import Collection, Sequence
from typing import Any

from ...core import LATE, Perturbation, Rule
from ...engine.network import Network
from ...errors import BadValue, Unsupported
from ...families.comfy import ComfyNetwork
from ...methods.null.icg import ICG
from ...records.graph import OTHER
from ...samplers.base import Corrector
from ...samplers.first_order import needy
from ..checks import check_rules
from ..defaults import resolved
from ..function_checks import check_types

SLOT = "sampler_cfg_function"
PLAIN = "leave one of the two out"
READERS = SLOT, "sampler_pre_cfg_function", "sampler_post_cfg_function"
"""Where other nodes read a step's predictions, and may make of them what they like."""
log = logging.getLogger("emag")


def concrete(rules: Sequence[Rule], network: Network, entry: ComfyNetwork, like: str) -> tuple[Rule, ...]:
    """The rules with their defaults filled in, those that are off left out. Raises `BadValue` and `Unsupported`."""
    for rule in rules:
        if isinstance(rule, Corrector):
            raise Unsupported(f"{rule.name} evaluates the network between two steps, a moment that a ComfyUI sampler does "
                              "not give: use emag.sample in Python")
    check_types(rules)
    active = tuple(rule for rule in resolved(rules, (like,), network) if not rule.neutral)
    for rule in active:
        _check_rule(rule, network, entry)
    check_rules(active, [network])
    return active


def _check_rule(rule: Rule, network: Network, entry: ComfyNetwork) -> None:
    """Refuse what this host cannot give."""
    network.check_layers(tuple(at for branch in rule.weak for at in (*branch.blocks, *branch.changes)))
    network.check_text(tuple(at for branch in rule.weak if branch.reads_text for at in branch.blocks))
    if rule.looks_further:
        raise Unsupported(f"{rule.name} looks at a score of the decoded image, and ComfyUI's sampler shows no "
                          "decoder: use emag.guide around a diffusers pipeline")
    if rule.named:
        raise Unsupported(f"{rule.name} reads a further condition's tensors, which is not built for ComfyUI: use emag.guide "
                          "around a diffusers pipeline")
    if rule.kind == "condition" and not entry.condition:
        raise Unsupported(f"{rule.name} changes the condition's tensors, and {entry.family} has several texts: leave it out")
    if any(branch.strong for branch in rule.weak) and getattr(rule, "negative", "") is None:
        raise Unsupported(f"{rule.name} reads a negative text, and ComfyUI gives it none in the call of the positive one: "
                          f"connect it to the Guidance node as a further condition, and say {rule.name}=...,negative=other")
    if isinstance(rule, ICG) and rule.form != "given":
        raise Unsupported(f"{rule.name}={rule.form} draws a condition among the network's arguments, which ComfyUI keeps to "
                          f"itself: connect one to the Guidance node, and say {rule.name}=given,conditions={OTHER}")
    for mask in getattr(rule, "masks", ()):
        raise Unsupported(f"{rule.name} names the mask {mask!r}, and ComfyUI's nodes give none: use emag.guide "
                          "around a diffusers pipeline")
    for branch in rule.weak:
        if branch.model or branch.lora_scale is not None:
            raise Unsupported(f"{rule.name} needs another network, or LoRA layers of its own, which a ComfyUI model does "
                              "not show: use emag.guide around a diffusers pipeline")
        if branch.all_rows or branch.needs_uncond or branch.null:
            raise Unsupported(f"{rule.name} with these settings needs the unconditional rows in a weak pass, and here weak "
                              "passes are of the conditional rows alone: use other settings, or emag.guide")
        _check_branch(rule.name, branch)


def _check_branch(name: str, branch: Perturbation) -> None:
    """Refuse what needs more of the network's classes than is known of ComfyUI's."""
    instead = "use emag.guide around a diffusers pipeline"
    if branch.sees_early:
        raise Unsupported(f"{name} reads an intermediate head, which is not known for ComfyUI's classes: {instead}")
    if branch.modules or branch.noisier:
        raise Unsupported(f"{name} changes what the network is told of the timestep, or how it embeds it, which is not "
                          f"known for ComfyUI's classes: {instead}")
    if branch.around:
        raise Unsupported(f"{name} works around attention modules, which ComfyUI's classes call in ways of their own: "
                          f"{instead}")
    if branch.strong and branch.changes:
        raise Unsupported(f"{name} changes what enters blocks in every pass, which is not built for ComfyUI's classes: "
                          f"{instead}")
    if branch.strong and branch.sees_null:
        raise Unsupported(f"{name} changes the unconditional rows alone, and ComfyUI batches its conditions as it likes: "
                          f"{instead}")
    if branch.copies > 1:
        raise Unsupported(f"{name} evaluates parts of the latent as images of their own, which ComfyUI's conditions do not "
                          f"fit: {instead}")


def check_host(rules: Sequence[Rule], options: dict[str, Any], uncond: bool, further: Collection[str]) -> None:
    """Refuse what the sampler's settings or other nodes make impossible. uncond: there are negative conditions."""
    combiner = next((rule.name for rule in rules if rule.kind == "combining"), None)
    cache = next((key for kind in options.get("transformer_options", {}).get("wrappers", {}).values()
                  for key in kind if key and "cache" in key.lower()), None)
    if cache:
        raise Unsupported(f"{cache} gives answers of earlier steps, against which a weak pass of now would be held: {PLAIN}")
    for name in ("context_handler", "sampler_calc_cond_batch_function", "multigpu_clones"):
        if name in options:
            raise in_parts(name)
    if combiner and options.get(SLOT):
        raise Unsupported(f"{combiner} combines, and so does {_owner(options[SLOT])}, another node in the same place "
                          f"({SLOT}): {PLAIN}")
    others = options.get("sampler_pre_cfg_function") or []
    if combiner and others:
        raise Unsupported(f"{combiner} combines the network's own predictions, and would pass over {_owner(others[0])}, "
                          f"another node that changes them before CFG: {PLAIN}")
    _check_uncond(rules, combiner, uncond)
    for owner, condition in [(rule.name, branch.condition) for rule in rules for branch in rule.weak]:
        if condition is not None and condition not in further:
            raise BadValue(f"{owner} names the condition {condition!r}, and none of that name is there: connect one to the "
                           f"Guidance node, whose input is called {OTHER}, and name it so in the rule")


def in_parts(how: str) -> Unsupported:
    """The error for a network that is evaluated in parts, whose answers another node joins."""
    return Unsupported(f"another node evaluates the network in parts ({how}); weak passes cannot follow: {PLAIN}")


def _check_uncond(rules: Sequence[Rule], combiner: str | None, uncond: bool) -> None:
    if combiner and not uncond:
        raise BadValue(f"{combiner} combines the positive with a negative condition, and this guider has no negative one: "
                       "use a KSampler or a CFGGuider")
    after = next((rule.name for rule in rules if rule.kind in LATE), None)
    if after and not combiner:
        raise BadValue(f"{after} works on the combined prediction, and here ComfyUI combines: name a combining rule before "
                       "it, e.g. cfg=4.5")
    about = _about_null(rules)
    if about and not uncond:
        raise BadValue(f"{about} is about the unconditional prediction, and this guider has no negative condition")


def check_cfg(rules: Sequence[Rule], options: dict[str, Any], cfg: float) -> None:
    """Refuse a rule about the positive prediction where a cfg of 0 drops it; say where ours takes the place of cfg."""
    combiner = next((rule.name for rule in rules if rule.kind == "combining"), None)
    about = next((rule.name for rule in rules if rule.kind in ("weak", "condition") and not rule.of_null), None)
    if combiner and cfg not in (0, 1):
        log.warning("emag: %s combines; the sampler's cfg=%g is ignored", combiner, cfg)
    if about and not combiner and cfg == 0 and not any(options.get(reader) for reader in READERS):
        raise BadValue(f"{about} would change nothing: at cfg 0 the sampler's result is the negative prediction alone. "
                       "Without CFG is cfg 1")


def check_steps(rules: Sequence[Rule], sampler: Any) -> None:
    """Refuse a scale that is exact for Euler's steps (CFG++) under another sampler of ComfyUI's. Its ddim is its euler."""
    found, steps = needy(rules), getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
    if found and (steps != "sample_euler" or getattr(sampler, "extra_options", {}).get("s_churn")):
        raise Unsupported(f"{found} is exact for first-order deterministic samplers only, and this run's is "
                          f"{steps.removeprefix('sample_')}{' with churn' if steps == 'sample_euler' else ''}: choose euler "
                          "or ddim, or take another scale")


def check_read(rules: Sequence[Rule], uncond: bool) -> None:
    """Refuse a rule about what nobody reads. uncond: ComfyUI evaluates the negative conditions; at cfg 1 it leaves them out,
    unless a rule combines."""
    about = _about_null(rules)
    if about and not uncond:
        raise BadValue(f"{about} is about the unconditional prediction, which the sampler does not read at cfg 1: raise its "
                       "cfg, or name a combining rule, e.g. cfg=4.5")


def _about_null(rules: Sequence[Rule]) -> str | None:
    return next((rule.name for rule in rules if rule.kind == "null" or rule.of_null), None)


def _owner(function: Any) -> str:
    """Who put a function in, as well as its name tells. ComfyUI's name of a node's module is the path of its file."""
    inner = getattr(function, "__func__", function)
    name = getattr(inner, "__qualname__", type(inner).__name__).replace(".<locals>", "")
    module = re.split(r"[/\\]", getattr(inner, "__module__", "?"))[-1]
    return f"{module}.{name}"


def check_call(entry: ComfyNetwork, arguments: dict[str, Any]) -> None:
    """Refuse arguments of a network's call that are declared as not served."""
    for name, reason in entry.refused:
        if arguments.get(name) is not None:
            raise Unsupported(f"{name} in a guided {entry.backbone.name}: {reason}; leave it out")
