"""What is refused before any image is made: prompts that the model cannot draw, and recipes that it cannot serve."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...engine.reading import unwrapped
from ...errors import BadValue, Unsupported
from ...families.encode import label_of
from ...hosts.lookup import denoisers, host_of
from ...models.words import TEMPLATE, class_of
from ...records.record import versions
from ..draw.columns import Column, rehearse
from ..draw.sampling import Job
from .prompts import Prompt, of_classes
from .spec import RunSpec


def prepared(spec: RunSpec, pipe: Any) -> RunSpec:
    """The spec with its prompts as this pipeline takes them. Raises `BadValue` and `Unsupported` for what it cannot make."""
    by_number = host_of(pipe).prompt == "class_labels"
    prompts: Sequence[Prompt] = of_classes(_all_classes(pipe, by_number)) if spec.classes == "all" else spec.prompts
    if by_number:
        found = [replace(one, label=str(label_of(pipe, one.text))) for one in prompts]
    else:
        found = _named(prompts, getattr(pipe, "classes", None), bool(spec.classes))
    ready = spec.with_prompts(found)
    for column in ready.recipes:
        _check(ready, column, pipe)
    return ready


def facts(spec: RunSpec, pipe: Any) -> dict[str, Any]:
    """What run.json says beside the spec. `run` is a mark of all that decides an image, in every PNG."""
    config = unwrapped(denoisers(pipe, host_of(pipe))[0]).config
    model = _hash({key: value for key, value in dict(config).items() if not key.startswith("_")})
    prompts = prompts_hash(spec.prompts)
    held = {key: value for key, value in spec.as_data().items() if key not in ("images", "recipes", "prompts", "classes")}
    return {"run": _hash([held, prompts, model])[:16], "prompts_sha256": prompts, "model_config_sha256": model,
            "versions": versions()}


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of a list of prompts."""
    return _hash([(one.text, one.category, one.label) for one in prompts])


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def _all_classes(pipe: Any, by_number: bool) -> list[str]:
    if by_number:
        return [str(number) for number in range(pipe.transformer.config.num_embeds_ada_norm)]
    if getattr(pipe, "classes", None) is None:
        raise BadValue(f"{type(pipe).__name__} is asked by prompts and has no list of classes: give prompts")
    return list(pipe.classes)


def _named(prompts: Sequence[Prompt], classes: Sequence[str] | None, declared: bool) -> list[Prompt]:
    """Prompts with the class that each names, for a model of classes; classes themselves become prompts."""
    if classes is None:
        return list(prompts)
    labels = [class_of(one.text, classes) for one in prompts]
    start = " ".join(TEMPLATE)
    return [replace(one, label=label, text=f"{start} {label}" if declared else one.text)
            for one, label in zip(prompts, labels)]


def _check(spec: RunSpec, column: Column, pipe: Any) -> None:
    """All of one recipe that can be told before the network is evaluated."""
    try:
        if column.joint:
            together = next(part.name for part in column.correctors if part.joint)
            raise Unsupported(f"{together} draws all images of a prompt together, and a run makes each by its number alone: "
                              "use emag compare, or emag.samplers.sample")
        rehearse(pipe, column, Job(spec.prompts[0].text, spec.negative, spec.seed), spec.settings)
    except (BadValue, Unsupported) as error:
        raise type(error)(f"recipe {column.label}: {error}") from None
