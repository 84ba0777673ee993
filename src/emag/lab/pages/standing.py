"""Where every class of the installed diffusers stands: served, refused and why, or nothing to guide."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import diffusers
import torch

from ...families import BACKBONES, HOSTS
from ...families.unserved import NOTHING, reason

Status = Literal["yes", "refused", "nothing to guide", "unknown"]
BY_PLACE = {"autoencoders": "encodes and decodes pictures, videos or sounds",
            "controlnets": "answers for the blocks of another network"}
"""Why there is nothing to guide in all classes of a module."""


@dataclass(frozen=True)
class Standing:
    """One class. kind: "network" or "pipeline". reason: "" where it is served."""

    name: str
    kind: str
    status: Status
    reason: str = ""


def standing() -> Iterator[Standing]:
    """Every network and every pipeline that diffusers exports, by name; those too that want a package that is not here."""
    for name in sorted(dir(diffusers)):
        kind = _kind(name, getattr(diffusers, name, None))
        if kind:
            yield _standing(name, kind, getattr(diffusers, name))


def _kind(name: str, cls: Any) -> str | None:
    if not inspect.isclass(cls) or cls is diffusers.DiffusionPipeline:
        return None
    if issubclass(cls, diffusers.DiffusionPipeline):
        return "pipeline"
    if issubclass(cls, torch.nn.Module):
        return "network"
    # what stands in for a class that wants another package
    return "pipeline" if "dummy" in cls.__module__ and "Pipeline" in name else None


def _standing(name: str, kind: str, cls: Any) -> Standing:
    if name in (BACKBONES if kind == "network" else HOSTS):
        return Standing(name, kind, "yes")
    place = next((why for part, why in BY_PLACE.items() if part in cls.__module__ and kind == "network"), None)
    why = reason(name) or place
    if why is None:
        return Standing(name, kind, "unknown", "no family has it, and nothing is written of it")
    return Standing(name, kind, "nothing to guide" if why in NOTHING or why == place else "refused", why)
