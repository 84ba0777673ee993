"""What a branch of tokens is evaluated under: what the model is told in the place of the prompt."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from transformers.modeling_outputs import BaseModelOutput

from ..errors import BadValue, Unsupported
from .codecs import codebooks, prefixed
from .suffix import Suffix

Inputs: TypeAlias = Mapping[str, Any]
"""Arguments of `generate` that say what a text is conditioned on: input_ids, attention_mask, pixel_values, ..."""

Null: TypeAlias = str | Sequence[str] | torch.Tensor | Inputs | Suffix | Callable[[Inputs], Any] | None
"""What a branch sees in the place of the prompt. None: its last token alone (decoder-only models), as in transformers.
Texts, one for all samples or one each, with a tokenizer. Token ids, [samples or 1, length]. Arguments of `generate` by name,
which replace those of the call; others of the call stay. `emag.tokens.suffix`: the text so far, and then that. A function of
the call's arguments that returns any of these but a suffix."""


@dataclass(frozen=True)
class Context:
    """What one branch is evaluated under, before anything is generated.

    ids, mask: tokens that the decoder reads before the generated ones, [rows, length], left-padded; of no length where an
    encoder reads the prompt. always: arguments of every pass. first: arguments of the first pass alone. heads: rows that
    share one prompt because a model predicts several codebooks. times: how often each sample is decoded, side by side.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    always: Inputs
    first: Inputs
    heads: int = 1
    times: int = 1

    @property
    def samples(self) -> int:
        return len(self.ids) // self.heads

    def repeated(self, rows: int) -> "Context":
        """For `rows` rows: each sample as often as it is decoded (beams, several sequences), side by side."""
        times, rest = divmod(rows, len(self.ids))
        if rest or not times:
            raise BadValue(f"a null of {self.samples} samples does not fit {rows // self.heads} rows")
        if times == 1:
            return self
        return replace(self, ids=_times(self.ids, times), mask=_times(self.mask, times), always=_times(self.always, times),
                       first=_times(self.first, times), times=times)


def zero(*names: str) -> Callable[[Inputs], Inputs]:
    """A null whose arguments `names` are those of the call times 0: zero("pixel_values") is an image of zeros.

    With "encoder_outputs" the hidden states of the prompt are; with "attention_mask" too, nothing is attended to (MusicGen).
    """
    def zeroed(inputs: Inputs) -> Inputs:
        absent = next((name for name in names if inputs.get(name) is None), None)
        if absent:
            raise BadValue(f"zero({absent!r}): the call has no {absent}; it has {', '.join(inputs)}")
        # zeros in the place of a prompt's ids are as long as they are, so that its mask stays
        kept = {"attention_mask": inputs["attention_mask"].clone()} if "input_ids" in names and _masked(inputs) else {}
        return {**kept, **{name: _map(inputs[name], torch.zeros_like) for name in names}}

    return zeroed


def _masked(inputs: Inputs) -> bool:
    return inputs.get("attention_mask") is not None


def inputs_of(null: Null, call: Inputs, model: Any, tokenizer: Any, name: str = "null") -> Inputs:
    """The arguments of a branch under `null`, in a call with the arguments `call`."""
    if callable(null):
        return inputs_of(null(call), call, model, tokenizer, name)
    if isinstance(null, Mapping):
        return _replaced(call, null)
    if null is None:
        return _dropped(call, model, name)
    if isinstance(null, torch.Tensor):
        return {"input_ids": null.unsqueeze(0) if null.ndim == 1 else null}
    return _encoded(null, model, tokenizer, name)


def read_context(model: Any, inputs: Inputs, samples: int, name: str = "null") -> Context:
    """What `inputs` are to a model: its prompt read by the encoder, or left to the decoder."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    rest = {key: value for key, value in inputs.items() if key not in ("input_ids", "attention_mask") and value is not None}
    if prefixed(model):
        return _prefix_context(model, {"input_ids": ids, "attention_mask": mask, **rest}, samples, name)
    if model.config.is_encoder_decoder:
        return _encoded_context(model, ids, mask, rest, samples, name)
    if ids is None or ids.ndim != 2 or not ids.shape[1]:
        raise BadValue(f"{name} must be token ids [samples, length] of at least one token")
    mask = torch.ones_like(ids) if mask is None else mask
    if mask.shape != ids.shape or not bool(mask[:, -1].all()):
        raise BadValue(f"{name} must be padded on the left, with an attention_mask of the shape of its input_ids "
                       f"{tuple(ids.shape)}")
    fit = {key: _samples(value, samples, name) for key, value in rest.items()}
    return Context(_samples(ids, samples, name), _samples(mask, samples, name), {}, fit)


def with_encoder(model: Any, inputs: Inputs) -> Inputs:
    """`inputs` with what the encoder makes of them, where a model has one and it is not there yet."""
    if isinstance(inputs.get("encoder_outputs"), tuple | list):  # as older code hands them on
        inputs = {**inputs, "encoder_outputs": BaseModelOutput(last_hidden_state=inputs["encoder_outputs"][0])}
    if not model.config.is_encoder_decoder or prefixed(model) or inputs.get("encoder_outputs") is not None:
        return inputs
    encoder = model.get_encoder()
    known = set(inspect.signature(encoder.forward).parameters)
    given = {key: value for key, value in inputs.items() if key in known and value is not None}
    with torch.no_grad():
        return {**inputs, "encoder_outputs": encoder(**given, return_dict=True)}


def _encoded_context(model: Any, ids: Any, mask: Any, rest: Inputs, samples: int, name: str) -> Context:
    found = with_encoder(model, {"input_ids": ids, "attention_mask": mask, **rest})
    states = found["encoder_outputs"].last_hidden_state
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    always = {"encoder_outputs": found["encoder_outputs"], "attention_mask": mask}
    none = _nothing(model, samples, states)
    return Context(none, none, {key: _samples(value, samples, name) for key, value in always.items()}, {}, codebooks(model))


def _prefix_context(model: Any, inputs: Inputs, samples: int, name: str) -> Context:
    """The model itself makes the prefix of the prompt, in its first pass."""
    given = {key: _samples(value, samples, name) for key, value in inputs.items() if value is not None}
    none = _nothing(model, samples, next(iter(given.values())))
    return Context(none, none, {}, given, codebooks(model))


def _nothing(model: Any, samples: int, like: torch.Tensor) -> torch.Tensor:
    """No tokens, in a row for each that the decoder predicts."""
    return torch.zeros(samples * codebooks(model), 0, dtype=torch.long, device=like.device)


def _replaced(call: Inputs, new: Inputs) -> Inputs:
    made = {**call, **new}
    if made.get("input_ids") is call.get("input_ids"):
        return made
    # other ids have another mask, all ones where none is said, and an encoder reads them anew
    stale = [name for name in ("attention_mask", "encoder_outputs") if made.get(name) is call.get(name)]
    return {name: value for name, value in made.items() if name not in stale}


def _dropped(call: Inputs, model: Any, name: str) -> Inputs:
    if model.config.is_encoder_decoder:
        silent = "attention_mask" if prefixed(model) else "encoder_outputs"
        raise BadValue(f"{name}: an encoder reads the prompt of {type(model).__name__}, and a prompt without tokens is not "
                       f"one: say null='a text' with a tokenizer, token ids, or emag.tokens.zero({silent!r})")
    ids = call.get("input_ids")
    if ids is None:
        raise BadValue(f"{name}: the last token of the prompt is meant, and the call has no input_ids: say null=ids")
    return {"input_ids": ids[:, -1:]}


def _encoded(texts: Any, model: Any, tokenizer: Any, name: str) -> Inputs:
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise BadValue(f"{name} is a text, texts, token ids, arguments by name, a function or None, got {texts!r}")
    if tokenizer is None:
        raise BadValue(f"{name} is a text, which needs a tokenizer: give tokenizer=..., or token ids")
    # a decoder goes on where its text ends; encoders are trained on padding behind the text
    side = "right" if model.config.is_encoder_decoder else "left"
    several = {"padding": True, "padding_side": side} if len(texts) > 1 else {}
    made = tokenizer(list(texts), return_tensors="pt", **several)
    return {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}


def _samples(value: Any, samples: int, name: str) -> Any:
    """One row for all samples, or one each."""
    rows = len(_first(value))
    if rows not in (1, samples):
        raise BadValue(f"{name} has {rows} rows for {samples} samples: give one, or one each")
    return value if rows == samples else _times(value, samples)


def _times(value: Any, times: int) -> Any:
    return _map(value, lambda tensor: tensor.repeat_interleave(times, dim=0))


def _map(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`change` made to the tensors of a tensor, a mapping or a model's output; other values stay."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if hasattr(value, "last_hidden_state"):  # an encoder's output: what decoders read of it
        return type(value)(last_hidden_state=change(value.last_hidden_state))
    if isinstance(value, Mapping):
        return {key: _map(one, change) for key, one in value.items()}
    return value


def _first(value: Any) -> torch.Tensor:
    found = getattr(value, "last_hidden_state", value)
    if not isinstance(found, torch.Tensor):
        raise Unsupported(f"an argument of a null must be a tensor with a row a sample, got {type(value).__name__}")
    return found
