"""What a pipeline is at the moment of a call: its scheduler, and a short hash of every network, weights and settings.

Two pipelines of one name draw different pictures where somebody added an adapter, changed weights in place or set another
scheduler. These are no arguments of the call, so a record looks at them here.
"""

import functools
import hashlib
import inspect
import json
import math
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch

COLUMNS = 61  # a prime, so that rows of a matrix that change places change the sums of columns
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_KNOWN = {"accelerate", "diffusers", "emag", "peft", "torch", "transformers"}
_PLAIN, _HARMLESS = {bool, int, float, str}, {"gradient_checkpointing"}
_CALLED = (FunctionType, MethodType, functools.partial)
_EACH_RUN = {"timesteps", "sigmas"}  # what a scheduler is set to by every run


def networks(pipe: Any) -> dict[str, str | None]:
    """A hash of every network of a pipeline by name; None where weights are not at hand (offloaded in parts, quantised)."""
    parts = {name: part for name, part in sorted(pipe.components.items()) if isinstance(part, torch.nn.Module)}
    return {name: network(part) for name, part in parts.items()}


def network(module: torch.nn.Module) -> str | None:
    """A hash of one network: every bit of its weights, its adapters and their scales, and its settings."""
    module = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    facts = [type(module).__qualname__, _settings(module), *_parts(module)]
    try:
        named = list(module.state_dict().items())
        sums = [sum_ for _, tensor in named for sum_ in _sums(tensor)]
        facts += [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in named]
        numbers = torch.cat([one.cpu() for one in _by_device(sums)]).numpy().tobytes() if sums else b""
    except (RuntimeError, NotImplementedError, AttributeError, KeyError):
        return None
    return hashlib.sha256(json.dumps(facts, default=str).encode() + numbers).hexdigest()[:16]


def _sums(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The bits of a tensor as whole numbers, summed by columns: exact, so the same on every device."""
    if tensor.is_meta:
        raise NotImplementedError("no numbers here")
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).reshape(-1)
    words = flat.view(_WORDS[flat.element_size()])
    whole = len(words) // COLUMNS * COLUMNS
    summed = [words[:whole].view(-1, COLUMNS).sum(0, dtype=torch.int64)] if whole else []
    return [*summed, words[whole:].long()]


def _by_device(sums: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """One tensor for each stretch on one device: one wait for it, not one for each weight."""
    start = 0
    for end in range(1, len(sums) + 1):
        if end == len(sums) or sums[end].device != sums[start].device:
            yield torch.cat(sums[start:end])
            start = end


def _settings(module: torch.nn.Module) -> Any:
    config = getattr(module, "config", None)
    return {key: value for key, value in config.items() if not key.startswith("_")} if isinstance(config, Mapping) else None


def _parts(module: torch.nn.Module) -> Iterator[tuple[Any, ...]]:
    """What parts of a network hold beside weights: numbers and switches (dropout, tiling, ...), adapters, processors."""
    for name, part in module.named_modules():
        held: dict[str, Any] = {key: value for key, value in vars(part).items() if type(value) in _PLAIN or _scales(value)}
        for key in [key for key in held if key.startswith("_") or key in _HARMLESS]:
            del held[key]
        if hasattr(part, "_active_adapter"):
            held["adapters"] = [part._active_adapter, getattr(part, "_disable_adapters", None),
                                getattr(part, "merged_adapters", None)]
        processor = vars(part).get("processor")
        if processor is not None:
            held["processor"] = [type(processor).__qualname__, str(getattr(processor, "_attention_backend", None))]
        yield name, sorted(held.items())


def _scales(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(type(one) is float for one in value.values())


def adapted(pipe: Any) -> list[str]:
    """Names of the networks that hold adapters."""
    parts = ((name, part) for name, part in sorted(pipe.components.items()) if isinstance(part, torch.nn.Module))
    return [name for name, part in parts if any(hasattr(one, "_active_adapter") for one in part.modules())]


def patched(pipe: Any) -> list[str]:
    """Names of parts that run code of the user's: hooks, replaced methods, processors, caches."""
    parts = [("pipeline", pipe), *sorted(pipe.components.items())]
    return [name for name, part in parts if part is not None and _foreign(part)]


def _foreign(part: Any) -> bool:
    modules = list(part.modules()) if isinstance(part, torch.nn.Module) else [part]
    return any(not _is_known(code) for one in modules for code in _code(one))


def _code(part: Any) -> Iterator[Any]:
    held = getattr(part, "__dict__", {})  # a part that is not there may be a pair of names
    yield from (value for value in held.values() if isinstance(value, _CALLED))
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        yield from (held.get(hooks) or {}).values()
    if held.get("processor") is not None:
        yield type(held["processor"])
    if "_diffusers_hook" in held:  # of these, offload changes no picture, and a cache does
        yield from (name for name in held["_diffusers_hook"].hooks if "offload" not in name and "track" not in name)


def _is_known(code: Any) -> bool:
    while isinstance(code, functools.partial):
        code = code.func
    return str(getattr(code, "__module__", None) or "").partition(".")[0] in _KNOWN


def scheduler(pipe: Any) -> dict[str, Any] | None:
    """A scheduler as plain data, {"class": name, "config": what differs from its defaults}; None where it is not that."""
    import diffusers

    held = getattr(pipe, "scheduler", None)
    cls = type(held)
    if held is None or getattr(diffusers, cls.__name__, None) is not cls:
        return None
    usual = {name: one.default for name, one in inspect.signature(cls.__init__).parameters.items()}
    config = {key: value for key, value in held.config.items()
              if key in usual and not key.startswith("_") and not _equal(value, usual[key])}
    return {"class": cls.__name__, "config": config} if is_data(config) and not _turned(held, cls, config) else None


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def _turned(held: Any, cls: Any, config: dict[str, Any]) -> bool:
    """True where numbers of a scheduler were changed after it was made, so that its configuration does not tell them."""
    fresh = {name: value for name, value in vars(cls(**config)).items() if name not in _EACH_RUN}
    return any(not _same(value, getattr(held, name, None)) for name, value in fresh.items())


def _same(fresh: Any, held: Any) -> bool:
    if isinstance(fresh, torch.Tensor):
        return isinstance(held, torch.Tensor) and torch.equal(fresh, held.to(fresh))
    return type(fresh) is not float or fresh == held


def is_data(value: Any) -> bool:
    """True for what JSON can hold and give back as it was."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_data(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_data(v) for v in value)
    if isinstance(value, str):
        return not any("\ud800" <= one <= "\udfff" for one in value)  # bytes of a command line that were no text
    return isinstance(value, int) or value is None or (isinstance(value, float) and math.isfinite(value))
