"""Hooks of diffusers in a network beside further passes of ours: caches, offload by groups, work split over processes."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..core import Perturbation, Rule, weak_branches
from ..engine.foreign import cache
from ..engine.network import Network
from ..engine.split import unsplit
from ..errors import Unsupported

SPLIT = {
    "context_parallel": "context parallelism gives each process a part of the tokens, or all tokens of some heads, and what "
                        "looks into it may need the whole: turn it off, or keep to EMAG on queries and rules that combine",
    "tensor_parallel": "tensor parallelism gives each process some heads, and what looks into attention needs all: turn it "
                       "off, or keep to rules that only combine (CFG, APG, ...)"}
"""Hooks that split what blocks compute over processes, and what to say of them."""
BY_FIRST = ("where it finds that little has changed, no block behind the first is evaluated: there is then no attention to "
            "average or to change, and no stream to go on from")
CHANGES = {
    "first_block_cache": BY_FIRST,
    "sea_cache": BY_FIRST,
    "mag_cache": "it leaves blocks out by a list of ratios, one for each call it counts, and a weak pass would count as a "
                 "step; in a step without blocks there is no attention to average or to change",
    "taylorseer_cache": "it extrapolates what modules answered in the calls before, and the answers of a weak pass would be "
                        "among them",
    "pyramid_attention_broadcast": "it hands out what an attention answered some calls before, so a weak pass would be "
                                   "given the clean one's, and the clean one the weak one's",
    "faster_cache": "it mixes what an attention answered in its last two calls, of which one would be the weak pass's, and "
                    "estimates the unconditional rows of some steps",
    "layer_skip": "it is a weak branch of diffusers' own, in every pass: name emag's slg in its place",
    "smoothed_energy_guidance_utils": "it is a weak branch of diffusers' own, in every pass: name emag's seg in its place",
}
"""Why a hook and a further pass cannot both be right, by the module of diffusers that it is from."""
HARMLESS_HOOKS = ("hooks", "layerwise_casting", "group_offloading", "text_kv_cache")


def check_hooks(network: Network, branches: Sequence[Perturbation], looks: bool = False) -> None:
    """Refuse caches, what splits a network over processes where it cannot be looked into, and offloading by groups whose
    weights a skipped block would leave where they are. looks: a rule evaluates the network at other x."""
    resumed = any(branch.resume or branch.skipped for branch in branches)
    alone = "this evaluates the network at another x" if looks else unsplit(network, branches)
    found = cache(network.module)
    if found:
        raise Unsupported(f"a cache is at work in the network: {found[1]} is the forward of {found[0] or 'the whole'}. It "
                          "would serve one pass of a step what it kept from another: switch it off")
    for module, hook in _hooks(network):
        _check_hook(hook, resumed and module is not network.module, alone)


def check_text_cache(network: Network, rules: Sequence[Rule]) -> None:
    """Refuse the cache of a text's keys where there is another text from pass to pass: it tells texts by their address."""
    kept = any(_from(hook) == ("diffusers.hooks", "text_kv_cache") for _, hook in _hooks(network))
    rule = next((rule.name for rule in rules if rule.kind == "condition"
                 or any(branch.condition or branch.copies > 1 for branch in weak_branches([rule]))), None)
    if kept and rule:
        raise Unsupported(f"the cache of the text's keys tells texts by where they are in memory, and {rule} makes others "
                          "in their place: switch it off, e.g. by transformer.disable_cache()")


def _hooks(network: Network) -> Iterator[tuple[Any, Any]]:
    """Each module of a network with a hook of diffusers on it."""
    for module in network.module.modules():
        registry = getattr(module, "_diffusers_hook", None)
        yield from ((module, hook) for hook in registry.hooks.values()) if registry is not None else ()


def _from(hook: Any) -> tuple[str, str]:
    """Package and module of a hook's class."""
    package, _, kind = type(hook).__module__.rpartition(".")
    return package, kind


def _check_hook(hook: Any, skippable: bool, unsplit: str) -> None:
    package, kind = _from(hook)
    if package == "diffusers.hooks" and kind == "context_parallel" and not unsplit:
        return
    if package == "diffusers.hooks" and kind in SPLIT:
        raise Unsupported(SPLIT[kind] + (f"; {unsplit}" if kind == "context_parallel" else ""))
    if package == "diffusers.hooks" and kind not in HARMLESS_HOOKS:
        why = CHANGES.get(kind, "it may change what blocks compute")
        raise Unsupported(f"{type(hook).__name__} ({kind}) is at work in the network: {why}. Switch it off, e.g. by "
                          "transformer.disable_cache()")
    if kind == "group_offloading" and skippable and not _serves_itself(hook):
        raise Unsupported("group offload moves the weights of several blocks, or the next one's, as blocks are reached, and "
                          "a weak pass skips some: use num_blocks_per_group=1 or offload_type='leaf_level', without a "
                          "stream; or enable_model_cpu_offload(); or full weak passes, e.g. EMAG(compat={'resume': False})")


def _serves_itself(hook: Any) -> bool:
    """True where an offload hook moves the weights of its own module, when that is called, and no others."""
    group = getattr(hook, "group", None)
    return group is not None and group.stream is None and len(group.modules) <= 1
