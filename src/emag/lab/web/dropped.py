"""Settings read from a PNG of ours, of ComfyUI or of AUTOMATIC1111, as far as they can be; nothing of it is run or loaded.

A PNG comes from a stranger: its size is bounded, its texts are read as data, and what it names is said, not fetched.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import BadValue
from ...files import parsed
from ...records import graph as graphs
from ...records import png
from ...records import record as records
from ...records.graph_sampler import sampling
from ...records.recipe import to_data
from ...records.seeds import is_seed
from ..draw import remake
from .stack import parse, short, text_of

LONGEST = 1 << 20
"""Characters of a text that is read."""
LAST = re.compile(r"^Steps: \d+")
PAIR = re.compile(r"([A-Z][\w ]*): ([^,]+)")


@dataclass(frozen=True)
class Found:
    """What a picture says of how it was made; None where it does not. notes: what could not be taken over."""

    source: str
    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    steps: int | None = None
    scale: float | None = None
    guidance: str = ""
    model: str | None = None
    notes: tuple[str, ...] = ()


def read(data: bytes, name: str = "the picture", usual: Mapping[str, Any] | None = None) -> Found:
    """What a PNG says. Raises `BadValue` where it is none, is damaged, or says nothing that we can read.

    usual: arguments of a call that names none, of which nothing need be said.
    """
    texts = {key: text for key, text in getattr(png.read_image(data, name), "text", {}).items() if len(text) <= LONGEST}
    if png.KEY in texts:
        return _ours(texts[png.KEY], name, usual or {})
    if "parameters" in texts:
        return _lines(texts["parameters"])
    if "prompt" in texts:
        return _graph(texts["prompt"], name)
    raise BadValue(f"{name} says nothing of how it was made: it carries neither a record of emag, nor a text of ComfyUI or "
                   "AUTOMATIC1111")


def _ours(text: str, name: str, usual: Mapping[str, Any]) -> Found:
    try:
        record = records.checked_record(parsed(text))
        rules = remake.check(record)
    except ValueError as error:
        raise BadValue(f"the emag record in {name} is damaged: {error}") from None
    call, row = dict(record["call"]), record["row"]
    prompt = _own(call.pop("prompt", call.pop("class_labels", None)), row)
    negative, seeds = _own(call.pop("negative_prompt", None), row), record["seeds"]
    steps, scale = call.pop("num_inference_steps", None), call.pop("guidance_scale", None)
    notes = [f"{key}={value}" for key, value in call.items() if value is not None and usual.get(key) != value]
    said = (*(f"not taken over: {note}" for note in notes),
            *(f"it names {source}, loaded as you draw" for source in remake.sources(record)[1:]))
    return Found("emag", _text(prompt), _text(negative), _own(seeds, row), _count(steps), _number(scale), text_of(rules),
                 record["model"]["model"], said)


def _own(value: Any, row: int) -> Any:
    return value[min(row, len(value) - 1)] if isinstance(value, list) and value else value


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= remake.MOST_STEPS else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value <= 1000 else None


def _lines(text: str) -> Found:
    """The text of AUTOMATIC1111: a prompt, a negative one behind its name, and a last line of pairs."""
    lines = text.strip().split("\n")
    last = lines.pop() if LAST.match(lines[-1]) else ""
    body, _, negative = "\n".join(lines).partition("Negative prompt:")
    pairs = {key: value.strip() for key, value in PAIR.findall(last)}
    read_ = {"Steps", "Seed", "CFG scale", "Model"}
    notes = tuple(f"not taken over: {key} {value}" for key, value in pairs.items() if key not in read_)
    return Found("AUTOMATIC1111", body.strip(), negative.strip() or None, _seed(_whole(pairs.get("Seed"))),
                 _count(_whole(pairs.get("Steps"))), _number(_real(pairs.get("CFG scale"))), "", pairs.get("Model"), notes)


def _whole(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,20}", text) else None


def _real(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,6}(\.\d{1,12})?", text) else None


def _seed(value: Any) -> int | None:
    return value if is_seed(value) else None


def _graph(text: str, name: str) -> Found:
    """The graph of ComfyUI: its first node that samples, the texts that lead to it, the rules of our nodes on its model."""
    try:
        graph = parsed(text)
    except ValueError as error:
        raise BadValue(f"the graph in {name} is no JSON: {error}") from None
    found = sampling(graph) if isinstance(graph, dict) else None
    if found is None:
        raise BadValue(f"the graph in {name} has no node that samples with steps and a positive condition")
    own = found.settings
    notes = [f"not taken over: {key} {own[key]}" for key in ("sampler_name", "scheduler", "denoise") if key in own]
    guidance, more = _guidance(graph, found.key)
    return Found("ComfyUI", found.positive, found.negative, _seed(own.get("seed", own.get("noise_seed"))),
                 _count(own.get("steps")), _number(own.get("cfg")), guidance, found.model, (*notes, *more))


def _guidance(graph: Mapping[str, Any], sampler: str) -> tuple[str, list[str]]:
    """The rules of our nodes on a sampler's model as text, and what is to be said of them."""
    try:
        rules = graphs.guidance_of(graph, sampler)
        other = [rule for rule in rules if getattr(rule, "negative", None) == graphs.OTHER]
        guidance = text_of([rule for rule in rules if rule not in other])
        parse(guidance)
    except BadValue as error:
        return "", [f"not taken over: a guidance, for {error}"]
    return guidance, [*(f"not taken over: {short(rule)}, whose condition another node gives" for rule in other),
                      *(f"it names {one}, loaded as you draw" for one in remake.networks(to_data(rules)))]
