"""Records as they are read back: checked before anything is made of them, and the versions that go into one."""

import functools
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from ..errors import BadValue
from .fingerprint import is_data
from .seeds import is_seed

_VERSIONED = ("emag", "torch", "diffusers", "transformers")
ORIGIN = ("base", "pipeline", "gguf", "variant")
"""Where the parts of a model come from, beside its name."""
SOURCE = ("model", "dtype", "revision", "lora", *ORIGIN)
"""All that a record says of a model."""


def versions() -> dict[str, str]:
    """Versions of the packages that an image depends on."""
    return {name: _version(name) for name in _VERSIONED}


@functools.cache  # read from files, and asked by every call of a pipeline
def _version(name: str) -> str:
    return importlib.metadata.version(name)


def checked_record(found: Any) -> dict[str, Any]:
    """A record that somebody handed in, every type looked at. Raises `BadValue` with what is wrong."""
    if not isinstance(found, dict):
        raise BadValue("it is no object")
    if not is_data(found):
        raise BadValue("some of its texts are none")
    for key, (fits, what) in _SHAPES.items():
        if key in found and not fits(found[key]):
            raise BadValue(f"{key} is no {what}")
    lacking = [key for key in ("model", "rules", "unrecorded", "row") if key not in found]
    lacking += [key for key in ("call", "seeds", "versions") if key not in found and not found.get("unrecorded")]
    if lacking:
        raise BadValue(f"it lacks {', '.join(lacking)}")
    return found


def images_of(found: Mapping[str, Any]) -> int:
    """Images of the call that a checked record remembers."""
    call = found["call"]
    prompts = next((call[key] for key in ("prompt", "class_labels") if key in call), "")
    each = call.get("num_images_per_prompt", 1)
    return (len(prompts) if isinstance(prompts, list) else 1) * (each if type(each) is int else 1)


def _is_source(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and isinstance(value.get("model"), str) and all(
        isinstance(value.get(key), str | None) for key in SOURCE))


def _is_state(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("networks"), dict):
        return False
    held = value.get("scheduler")
    return held is None or (isinstance(held, dict) and isinstance(held.get("class"), str) and isinstance(
        held.get("config"), dict))


def _is_rules(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(rule, dict) and len(rule) == 1 and all(
        isinstance(given, dict) for given in rule.values()) for rule in value)


def _is_seeds(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_seed, value))


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


_SHAPES: dict[str, tuple[Any, str]] = {
    "model": (_is_source, "model's name, dtype, revision and LoRA"), "pipeline": (lambda v: isinstance(v, str), "name"),
    "rules": (_is_rules, "list of rules"), "call": (lambda v: isinstance(v, dict), "object"),
    "seeds": (lambda v: v is None or is_seed(v) or _is_seeds(v), "list of seeds"),
    "conditions": (lambda v: isinstance(v, dict), "object"), "state": (_is_state, "state of a pipeline"),
    "device": (lambda v: isinstance(v, str), "name"), "row": (lambda v: type(v) is int and v >= 0, "row number"),
    "unrecorded": (lambda v: isinstance(v, list) and all(isinstance(one, str) for one in v), "list of names"),
    "versions": (_is_texts, "versions by name")}
