"""Settings read from a PNG of ours, of ComfyUI or of AUTOMATIC1111, as far as they can be; nothing of it is run or loaded.

A PNG comes from a stranger: its size is bounded, its texts are read as data, and what it names is said, not fetched.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import BadValue
from ...files import parsed
from ...records import png
from ...records import record as records
from ...records.seeds import is_seed
from ..draw import remake
from .stack import text_of

LONGEST = 1 << 20
"""Characters of a text that is read."""
FARTHEST = 32
"""Nodes between a sampler and the text of its condition."""
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
    """The graph of ComfyUI: the first node that samples, and the texts that lead to it."""
    try:
        graph = parsed(text)
    except ValueError as error:
        raise BadValue(f"the graph in {name} is no JSON: {error}") from None
    nodes = {key: node["inputs"] for key, node in graph.items()
             if isinstance(node, dict) and isinstance(node.get("inputs"), dict)} if isinstance(graph, dict) else {}
    sampler = next((one for one in nodes.values() if "steps" in one and "positive" in one), None)
    if sampler is None:
        raise BadValue(f"the graph in {name} has no node that samples with steps and a positive condition")
    model = next((one["ckpt_name"] for one in nodes.values() if isinstance(one.get("ckpt_name"), str)), None)
    notes = tuple(f"not taken over: {key} {sampler[key]}" for key in ("sampler_name", "scheduler", "denoise")
                  if key in sampler)
    texts = _words(nodes, sampler["positive"]), _words(nodes, sampler.get("negative")) or None
    return Found("ComfyUI", *texts, _seed(sampler.get("seed", sampler.get("noise_seed"))), _count(sampler["steps"]),
                 _number(sampler.get("cfg")), "", model, notes)


def _words(nodes: Mapping[str, dict[str, Any]], link: Any) -> str | None:
    """The text behind a link [node, output], through nodes that hand a condition on."""
    for _ in range(FARTHEST):
        if not isinstance(link, list) or not link or str(link[0]) not in nodes:
            return None
        inputs = nodes[str(link[0])]
        text = inputs.get("text")
        if isinstance(text, str):
            return text
        link = next((inputs[key] for key in ("text", "conditioning", "positive", "conditioning_1") if key in inputs), None)
    return None
