"""What the user hands a guidance beside its rules: further conditions, masks, and facts about attention arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..core import Rule, Score, condition_names, weak_branches
from ..engine.network import Network
from ..errors import BadValue, EmagError, Unsupported
from ..families import Host
from ..families.records import Tensors
from ..maths.masks import not_given
from ..methods.common.other_model import LOAD
from ..scores import named
from .companions import COMPANIONS, UNBATCHED, whole_text
from .pictures import IMAGE_PROMPT, image_prompt
from .second import companion

Condition = str | int | Sequence[str | int] | Mapping[str, Any]
"""A prompt or class label, one for each image; or network arguments by name, each [1 or images, ...]. Among those "prompt"
is such a prompt, and "image_prompt" what `image_prompt` takes; without a text the branch keeps that of its rows."""

PROMPT = "prompt:"


@dataclass(frozen=True)
class Given:
    """Arguments of one `emag.guide` beside the rules."""

    conditions: dict[str, Condition] = field(default_factory=dict)
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    models: dict[str, Callable[..., Any]] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    per_row: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def handed(self) -> tuple[str, ...]:
        """Names of what no record can hold."""
        return (*self.masks, *self.models, *self.scores, *self.per_row, *self.shared)

    def encoded(self, rules: Sequence[Rule], host: Host, pipe: Any, network: Network,
                arguments: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        """Network arguments of every condition that `rules` name, on the pipeline's device and in the network's dtype.

        `arguments` are the call's, which tell the number of images. Raises `BadValue` for a condition or mask that a rule
        names and the user did not give, and for one with a wrong number of rows; `Unsupported` where nothing can encode it.
        """
        self.check_names(rules)
        count = images(host, arguments or {})
        found = {name: encode_condition(self._value(name), host, pipe, network) for name in condition_names(rules)}
        for name, tensors in found.items():
            _check_rows(name, tensors, count, network.backbone.image_prompt)
        return found

    def check_names(self, rules: Sequence[Rule]) -> None:
        """Raise `BadValue` for a mask, condition, model or score that a rule names and the user did not give."""
        scores_of(rules, self.scores)
        absent = [name for rule in rules for name in getattr(rule, "masks", ()) if name not in self.masks]
        if absent:
            raise BadValue(not_given(absent[0]))
        for name in condition_names(rules):
            self._value(name)
        for branch in weak_branches(rules):
            if branch.model is not None and branch.model not in self.models and not branch.model.startswith(LOAD):
                raise BadValue(f"a rule names the model {branch.model!r}, which was not given: say emag.guide(..., models="
                               f"{{{branch.model!r}: a network of the pipeline's class}}), or name it 'load:a folder or hub "
                               "id' in the rule")

    def networks(self, rules: Sequence[Rule], host: Host, pipe: Any, network: Network,
                 arguments: Mapping[str, Any] | None = None) -> dict[str, Callable[..., Any]]:
        """The networks that `rules` name beside `network`. Raises `BadValue` for one that cannot be loaded.

        `arguments` are the call's, for a network that reads the prompts in words of its own.
        """
        names = dict.fromkeys(branch.model for branch in weak_branches(rules) if branch.model)
        return {name: _by_name(self.models[name], network) if name in self.models
                else companion(pipe, network, name, rules, host, arguments or {}) for name in names}

    def _value(self, name: str) -> Condition:
        if name in self.conditions:
            return self.conditions[name]
        if name.startswith(PROMPT):
            return name.removeprefix(PROMPT)
        raise BadValue(f"a rule names the condition {name!r}, which was not given: say emag.guide(..., conditions="
                       f"{{{name!r}: 'a prompt'}}), or name it 'prompt:a prompt' in the rule")


def scores_of(rules: Sequence[Rule], given: Mapping[str, Score]) -> dict[str, Score]:
    """The scores that `rules` name: those given, and those that a name says in full. Raises `BadValue` for others."""
    return {name: given.get(name) or named(name) for rule in rules for name in rule.scores if isinstance(name, str)}


def _by_name(other: Callable[..., Any], network: Network) -> Callable[..., Any]:
    """A further network, called as the pipeline's own; a function in its place gets all arguments by name."""
    if isinstance(other, torch.nn.Module):
        return other
    return lambda *args, **kwargs: other(**network.signature.bind(*args, **kwargs).arguments)


@torch.no_grad()
def encode_condition(value: Condition, host: Host, pipe: Any, network: Network) -> Tensors:
    """The network arguments of one condition, one batch row for each prompt.

    Raises `BadValue` for what is no condition, or cannot be encoded here, and `Unsupported` for a network of which this
    package does not know how its prompts are encoded.
    """
    found = _parts(value if isinstance(value, Mapping) else {"prompt": value}, host, pipe, network)
    states = found.get("encoder_hidden_states")
    for name, made in COMPANIONS.items():
        if states is not None and name in network.signature.parameters and name not in found:
            found[name] = made(states, network.backbone)
    if states is not None and network.backbone.joint_mask:
        found.setdefault(network.backbone.joint_mask, whole_text(states, network.backbone))
    dtype, device = network.module.dtype, pipe._execution_device
    return {name: _placed(value, device, dtype) for name, value in found.items()}


def _parts(value: Mapping[str, Any], host: Host, pipe: Any, network: Network) -> Tensors:
    """The network arguments of a condition of several parts: a prompt, an image prompt, and arguments as they are."""
    given = dict(value)
    found = _encoded(_texts(given.pop("prompt")), host, pipe, network) if "prompt" in given else {}
    if IMAGE_PROMPT in given:
        found |= image_prompt(given.pop(IMAGE_PROMPT), pipe, network)
    return {**found, **_tensors(given, network)} if given or not found else found


def _placed(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_placed(one, device, dtype) for one in value]
    return value.to(device, dtype if value.is_floating_point() else value.dtype)


def images(host: Host, arguments: Mapping[str, Any]) -> int | None:
    """Images of one call of the pipeline; None where its arguments do not tell."""
    given = arguments.get(host.prompt)
    if given is None:
        given = arguments.get("prompt_embeds")
    if given is None:
        return None
    count = given if host.prompt == "batch_size" else 1 if isinstance(given, (str, int)) else len(given)
    return count * (arguments.get("num_images_per_prompt") or arguments.get("num_videos_per_prompt") or 1)


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, (str, int)) else list(value) if isinstance(value, Sequence) else []
    if not texts or not all(type(text) in (str, int) for text in texts):
        raise BadValue(f"a condition is a prompt, a list of prompts or {{argument: tensor}}, got {type(value).__name__}"
                       + (" without any" if isinstance(value, Sequence) and not texts else ""))
    return [str(text) for text in texts]


def _tensors(value: Mapping[str, Any], network: Network) -> Tensors:
    """Network arguments as the user gave them, their names checked."""
    backbone = network.backbone
    known = [name for name in (*backbone.per_row, *COMPANIONS) if name in network.signature.parameters
             and name not in (backbone.sample, backbone.timestep)]
    known += [name for name in backbone.condition if "." in name]
    unknown = [name for name in value if name not in known]
    if unknown or not value:
        raise BadValue(f"{backbone.name} has no condition argument {', '.join(unknown) or '(none given)'}; it has "
                       f"{', '.join(known)}")
    odd = [name for name, given in value.items() for tensor in (given if name in backbone.lists else [given])
           if not isinstance(tensor, torch.Tensor) or tensor.ndim == 0]
    if odd:
        raise BadValue(f"the condition argument {odd[0]} must be a tensor [1 or images, ...], got "
                       f"{type(value[odd[0]]).__name__}")
    return dict(value)


def _encoded(texts: list[str], host: Host, pipe: Any, network: Network) -> Tensors:
    instead = f"{{{', '.join(f'{argument!r}: ...' for argument in _arguments(network))}}}"
    encode = network.backbone.encode
    if encode is None:
        raise Unsupported(f"how {host.name} encodes prompts is not known here: give conditions as tensors, {instead}")
    if host.pictured:
        raise Unsupported(f"{host.name} encodes prompts together with a picture, and a condition has none: give conditions "
                          f"as tensors, {instead}")
    try:
        return encode(pipe, texts)
    except (EmagError, torch.OutOfMemoryError):
        raise
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadValue(f"{host.name} could not encode {texts[0]!r} ({reason}): give the condition as tensors, {instead}"
                       ) from error


def _arguments(network: Network) -> tuple[str, ...]:
    """Names of the arguments that hold the condition."""
    return network.backbone.condition or (network.backbone.text or "class_labels",)


def _check_rows(name: str, tensors: Tensors, count: int | None, pictured: str | None) -> None:
    # a list that is no image prompt has an entry for each row
    parts = [(argument, part) for argument, value in tensors.items() if argument not in UNBATCHED
             for part in (value if argument == pictured and isinstance(value, list) else [value])]
    rows = {argument: len(part) for argument, part in parts if len(part) != 1}
    wanted = count or next(iter(rows.values()), 1)
    wrong = [f"{argument} {number}" for argument, number in rows.items() if number != wanted]
    if wrong:
        images = f"{wanted} image{'s' * (wanted != 1)}" if count else "the others"
        raise BadValue(f"the condition {name!r} has a wrong number of rows for {images}: {', '.join(wrong)}; give 1"
                       + (f" or {wanted}" if wanted != 1 else ""))
