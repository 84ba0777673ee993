"""Who stands in for the forward of a network's parts: functions of tools and users, put on a module or on its class."""

import functools
from collections.abc import Iterator
from typing import Any

import torch

TRUSTED = ("torch", "accelerate", "diffusers", "transformers", "peft", "emag")


def stand_ins(network: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """(part of the network, full name of the function) for each forward that is not the part's own."""
    for name, part in network.named_modules():
        put = part.__dict__.get("forward")
        found = _source(put if put is not None else type(part).forward)
        home = type(part).__module__.partition(".")[0]
        if found.partition(".")[0] not in (*TRUSTED, home if put is None else ""):
            yield name, found


def cache(network: torch.nn.Module) -> tuple[str, str] | None:
    """The first stand-in that is a cache by its name (cache-dit, DeepCache, TeaCache, ...), if any."""
    named = ((part, function) for part, function in stand_ins(network) if "cache" in function.lower() or "tgate" in function)
    return next(named, None)


def _source(function: Any) -> str:
    """Module and name of a function. What wraps another may bear its name, but has globals of its own."""
    while isinstance(getattr(function, "__func__", function), functools.partial):
        function = getattr(function, "__func__", function).func
    function = getattr(function, "__func__", function)
    module = getattr(function, "__globals__", {}).get("__name__") or getattr(function, "__module__", None) or "unknown"
    code = getattr(function, "__code__", None)
    return f"{module}.{code.co_name if code else type(function).__name__}"
