"""The record of one pipeline call: model, rules, arguments, seeds and versions, enough to make its images again."""

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..core import Rule
from ..errors import BadValue
from ..families import Host
from . import recipe

_LEFT_OUT = {"output_type", "return_dict", "generator", "callback_on_step_end", "callback_on_step_end_tensor_inputs",
             "callback", "callback_steps", "kwargs"}
_VERSIONED = ("emag", "torch", "diffusers", "transformers")


def record(pipe: Any, host: Host, rules: Sequence[Rule], arguments: dict[str, Any],
           conditions: Mapping[str, Any] | None = None, handed: Iterable[str] = ()) -> dict[str, Any]:
    """JSON-ready record of a call with the bound `arguments`, and the further conditions it was given.

    handed: names of what else was handed in and cannot be written down (masks, models, ...).

    `unrecorded` names what cannot be written down (tensors, a generator that was already used, ...); a call with such
    arguments can be read but not made again.
    """
    kept = {k: v for k, v in arguments.items() if k not in _LEFT_OUT and v is not None}
    call = {k: v for k, v in kept.items() if _is_data(v)}
    seeds, named = _seeds(arguments.get("generator")), dict(conditions or {})
    texts = {name: value for name, value in named.items() if _is_data(value)}
    lost = sorted((set(kept) - set(call)) | (set(named) - set(texts)) | set(handed))
    lost += [] if seeds is not None else ["generator"]
    try:
        data = recipe.to_data(rules)
    except BadValue:
        data, lost = [], [*lost, "rules"]
    return {"model": _model(pipe), "pipeline": type(pipe).__name__, "rules": data, "call": call, "seeds": seeds,
            **({"conditions": texts} if texts else {}), "unrecorded": lost, "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of the packages that an image depends on."""
    return {name: importlib.metadata.version(name) for name in _VERSIONED}


def _model(pipe: Any) -> dict[str, Any]:
    return getattr(pipe, "emag_source", None) or {"model": str(getattr(pipe, "name_or_path", "") or ""),
                                                  "dtype": str(pipe.dtype).removeprefix("torch.")}


def _seeds(generator: Any) -> int | list[int] | None:
    """Seed(s) of unused CPU generators; None where they cannot be told."""
    if isinstance(generator, (list, tuple)):
        seeds = [_seeds(one) for one in generator]
        return seeds if all(isinstance(seed, int) for seed in seeds) else None  # type: ignore[return-value]
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        return None
    seed = generator.initial_seed()
    unused = torch.equal(generator.get_state(), torch.Generator().manual_seed(seed).get_state())
    return seed if unused else None


def _is_data(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_data(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_data(v) for v in value)
    return isinstance(value, (str, int, float, bool))
