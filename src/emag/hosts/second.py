"""Second networks that a rule names by where they are ("load:examples/guide"): loaded once for each pipeline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..core import Rule, weak_branches
from ..engine.network import Network
from ..engine.reading import unwrapped
from ..errors import BadValue
from ..families import Host
from ..methods.common.other_model import LOAD
from .lookup import denoisers, host_of

INPUTS = ("in_channels", "joint_attention_dim", "pooled_projection_dim", "cross_attention_dim", "caption_channels",
          "num_embeds_ada_norm")


@dataclass(frozen=True)
class Second:
    """A second network, and what encodes prompts for it where its words are its own; None where they are ours."""

    network: torch.nn.Module
    words: Any = None


_LOADED: WeakKeyDictionary[Any, dict[str, Second]] = WeakKeyDictionary()


def second(pipe: Any, own: torch.nn.Module, name: str) -> torch.nn.Module:
    """The network at "load:a folder, hub id or embedded model", in the dtype of the pipeline's `own`, on its device.

    Kept as long as the pipeline is. Raises `BadValue` where it cannot be loaded, or cannot be called with the arguments of
    the pipeline's own.
    """
    return _second(pipe, own, name).network.to(pipe._execution_device)


def companion(pipe: Any, network: Network, name: str, rules: Sequence[Rule], host: Host,
          arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """`second` as a run calls it: where its words are its own, with the call's prompts in them.

    Raises `BadValue` as `second` does, and where such a network would have to be asked something else than those prompts.
    """
    found, module = _second(pipe, network.module, name), second(pipe, network.module, name)
    if found.words is None:
        return module
    _check_prompted(name, rules)
    prompts = arguments.get(host.prompt)
    if prompts is None:
        raise BadValue(f"{name} has words of its own and is asked the prompt itself: call the pipeline with a prompt")
    assert network.backbone.encode is not None  # known of every small model
    states = network.backbone.encode(found.words, [prompts] if isinstance(prompts, str) else list(prompts))
    return _in_words(module, network, {key: value.to(pipe._execution_device, module.dtype) for key, value in states.items()})


def _check_prompted(name: str, rules: Sequence[Rule]) -> None:
    """Raise `BadValue` where a network with words of its own is asked anything but the prompt as it is."""
    asking = next((rule.name for rule in rules for branch in weak_branches([rule]) if branch.model == name
                   and (getattr(branch, "null", False) or branch.condition)), None)
    if asking:
        raise BadValue(f"{asking} asks {name} another condition than the prompt, and its words are its own: train it with "
                       "--words and this model")
    changing = next((rule.name for rule in rules if rule.kind == "condition"), None)
    if changing:
        raise BadValue(f"{changing} changes the condition, and {name} has words of its own, which it would not reach: leave "
                       "one out")


def _in_words(module: torch.nn.Module, network: Network, states: Mapping[str, torch.Tensor]) -> Callable[..., Any]:
    """The network called with the condition `states` in the place of those it is given, as many rows."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        values = network.signature.bind(*args, **kwargs).arguments
        rows = len(values[network.backbone.sample])
        own = {key: value.repeat_interleave(rows // len(value), 0) for key, value in states.items()}
        return module(**{**values, **own})

    return forward


def _second(pipe: Any, own: torch.nn.Module, name: str) -> Second:
    held = _LOADED.setdefault(pipe, {})
    if name not in held:
        held[name] = _loaded(name.removeprefix(LOAD), pipe, own)
    return held[name]


def _loaded(source: str, pipe: Any, own: Any) -> Second:
    from .load import load

    other = load(source, device="cpu", dtype=own.dtype)
    network: torch.nn.Module = unwrapped(denoisers(other, host_of(other))[0])
    reason = _unfit(own, network) or _foreign(pipe, other)
    if reason:
        raise BadValue(f"{source} cannot be called as the network of this {type(pipe).__name__} is: {reason}")
    return Second(network, None if _same_words(pipe, other) else other)


def _unfit(own: Any, network: Any) -> str:
    """In what the inputs of two networks differ; "" where in nothing."""
    if type(network) is not type(own):
        return f"it is a {type(network).__name__}, not a {type(own).__name__}"
    differing = [f"{key} is {network.config.get(key)}, not {own.config.get(key)}" for key in INPUTS
                 if network.config.get(key) != own.config.get(key)]
    return ", ".join(differing)


def _small(pipe: Any, other: Any) -> bool:
    """True for two small models, whose parts are known here; others are taken to share them."""
    from ..models.pipeline import SmallPipeline

    return isinstance(pipe, SmallPipeline) and isinstance(other, SmallPipeline)


def _foreign(pipe: Any, other: Any) -> str:
    """What else a small model must share: the words that there are, and how pixels are scaled or encoded."""
    if not _small(pipe, other):
        return ""
    if pipe.vae.config.scaling_factor != other.vae.config.scaling_factor:
        return f"its pixels are scaled by {other.vae.config.scaling_factor}, not {pipe.vae.config.scaling_factor}"
    if pipe.text_encoder_3.facts != other.text_encoder_3.facts:
        return "it knows other words"
    return "" if _equal(pipe.vae, other.vae, "white") else "its latents are another autoencoder's"


def _same_words(pipe: Any, other: Any) -> bool:
    return not _small(pipe, other) or _equal(pipe.text_encoder_3, other.text_encoder_3)


def _equal(ours: torch.nn.Module, theirs: torch.nn.Module, start: str = "") -> bool:
    """Whether two modules of one class have the same weights, those whose names begin with `start`."""
    left, right = (module.state_dict() for module in (ours, theirs))
    return all(name in right and torch.equal(value.cpu(), right[name].to(value.dtype)) for name, value in left.items()
               if name.startswith(start))
