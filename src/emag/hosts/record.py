"""The record of one pipeline call: model, rules, arguments, seeds and versions, enough to make its images again.

Keys: model (name, dtype, revision, lora), pipeline (its class), rules (a recipe), call (arguments), seeds, conditions
(further ones), state (scheduler, a hash of each network), device, versions, and `unrecorded`: what had a part in the image
and cannot be written down. A record in a PNG has its image's `row` too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..core import Rule, weak_branches
from ..errors import BadValue
from ..families import Host
from ..methods.common.other_model import LOAD
from ..records import fingerprint, recipe
from ..records.fingerprint import is_data
from ..records.record import versions
from .lookup import denoisers
from .second import second

_LEFT_OUT = {"output_type", "return_dict", "generator", "callback_on_step_end_tensor_inputs", "callback_steps", "kwargs"}
_SOURCE = ("model", "dtype", "revision", "lora")


def record(pipe: Any, host: Host, rules: Sequence[Rule], arguments: dict[str, Any],
           conditions: Mapping[str, Any] | None = None, handed: Iterable[str] = ()) -> dict[str, Any]:
    """JSON-ready record of a call with the bound `arguments`, and the further conditions it was given.

    handed: names of what else was handed in and cannot be written down (masks, models, ...).

    `unrecorded` names what cannot be written down (tensors, a callback, a generator that was already used, an adapter
    added to a network, ...); a call with such parts can be read but not made again.
    """
    given = {**arguments, **arguments.get("kwargs", {})}
    kept = {k: v for k, v in given.items() if k not in _LEFT_OUT and v is not None}
    call = {k: v for k, v in kept.items() if is_data(v)}
    seeds, named = _seeds(arguments.get("generator")), dict(conditions or {})
    texts = {name: value for name, value in named.items() if is_data(value)}
    lost = sorted((set(kept) - set(call)) | (set(named) - set(texts)) | set(handed))
    lost += [] if seeds is not None else ["generator"]
    try:
        data = recipe.to_data(rules)
    except BadValue:
        data, lost = [], [*lost, "rules"]
    model, state = _model(pipe), _state(pipe, host, rules)
    return {"model": model, "pipeline": type(pipe).__name__, "rules": data, "call": call, "seeds": seeds,
            **({"conditions": texts} if texts else {}), "state": state, "device": device(pipe),
            "unrecorded": [*lost, *_unknown(pipe, model, state)], "versions": versions()}


def device(pipe: Any) -> str:
    """What a pipeline runs on: the name of the accelerator, or the kind of device."""
    place = torch.device(getattr(pipe, "_execution_device", "cpu"))
    return torch.cuda.get_device_name(place) if place.type == "cuda" else place.type


def _state(pipe: Any, host: Host, rules: Sequence[Rule]) -> dict[str, Any]:
    """The scheduler and the networks as they are at this call, second networks that rules name by their place too."""
    named = {branch.model for branch in weak_branches([rule for rule in rules if not rule.neutral]) if branch.model}
    others = {name: fingerprint.network(second(pipe, denoisers(pipe, host)[0], name))
              for name in sorted(named) if name.startswith(LOAD)}
    loaded = getattr(pipe, "emag_loaded", {})  # of weights that are not at hand now
    own = {name: now or loaded.get(name) for name, now in fingerprint.networks(pipe).items()}
    return {"scheduler": fingerprint.scheduler(pipe), "networks": {**own, **others}}


def _unknown(pipe: Any, model: dict[str, Any], state: dict[str, Any]) -> list[str]:
    """What is not as loading the model again would give it, and is written down nowhere."""
    loaded = getattr(pipe, "emag_loaded", None)
    if loaded is None:
        changed = [f"adapters of {name}" for name in fingerprint.adapted(pipe)]
    else:
        changed = [f"changes of {name}" for name, now in state["networks"].items()
                   if loaded.get(name, now) != now]
    return [*([] if model["model"] else ["model"]), *([] if state["scheduler"] else ["scheduler"]), *changed,
            *(f"code in {name}" for name in fingerprint.patched(pipe))]


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
