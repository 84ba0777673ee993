"""The record of one guided text: model, rules, prompts, settings and versions, enough to make it again."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..records.fingerprint import is_data, network
from ..records.recipe import values_of
from ..records.record import versions
from .host import GuidedTokens


def text_record(run: GuidedTokens, model: Any, prompts: Sequence[str], call: Mapping[str, Any]) -> dict[str, Any]:
    """JSON-ready record of a call of `generate` with `prompts` and the settings `call`.

    `unrecorded` names what had a part in the text and cannot be written down: a null or a condition that is no text,
    scorers.
    """
    asked = run.asked
    named = {"null": asked.null, **asked.conditions}
    texts = {name: value for name, value in named.items() if is_data(value)}
    settings = {name: value for name, value in call.items() if is_data(value)}
    lost = [*(name for name in named if name not in texts), *asked.scorers, *(name for name in call if name not in settings)]
    source = {"model": getattr(model, "name_or_path", None), "class": type(model).__name__, "dtype": str(model.dtype)}
    return {"model": source, "rules": values_of(asked.rules), "space": asked.space, "prompts": list(prompts), **texts,
            "call": settings, "device": str(model.device),
            "network": network(model), "unrecorded": lost, "versions": versions()}
