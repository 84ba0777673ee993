"""How a ComfyUI graph samples: the settings of its sampler, the texts that lead to it, the model below.

A sampler may be one node (KSampler), or one with nodes for its noise, guider, solver and noise levels
(SamplerCustomAdvanced). A graph may come from a stranger: what is not as expected is passed over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .graph import FARTHEST, Nodes, nodes_of, widgets_of

HANDED_ON = ("text", "conditioning", "positive", "conditioning_1")
"""Inputs through which a node that hands a condition on got it."""
PARTS = ("noise", "guider", "sampler", "sigmas")
"""Inputs of a sampler whose settings are nodes of their own."""
FILES = ("ckpt_name", "unet_name")
"""Widgets that name the file of a model."""


@dataclass(frozen=True)
class Sampling:
    """What a graph says of its first node that samples; None where it does not. settings: its widgets. model: the file of
    the first model that is loaded. key: of the node that its model is connected to."""

    settings: Mapping[str, Any]
    positive: str | None
    negative: str | None
    model: str | None
    key: str


def sampling(graph: Mapping[str, Any]) -> Sampling | None:
    """The first node of a graph with steps and a positive condition; None where there is none."""
    nodes = nodes_of(graph)
    found = next(((key, own) for key, own in _samplers(nodes) if "steps" in own and "positive" in own), None)
    if found is None:
        return None
    key, own = found
    model = next((one[name] for one in nodes.values() for name in FILES if isinstance(one.get(name), str)), None)
    negative = _words(nodes, own.get("negative")) or None
    return Sampling(widgets_of(own), _words(nodes, own["positive"]), negative, model, key)


def _samplers(nodes: Nodes) -> Iterator[tuple[str, dict[str, Any]]]:
    """What may sample: each node's inputs, those of a sampler in parts with what its parts say."""
    for key, own in nodes.items():
        parts = {name: at for name in PARTS if (at := _linked(nodes, own.get(name))) is not None}
        if {"sampler", "sigmas"} <= parts.keys():
            merged = {name: value for at in parts.values() for name, value in nodes[at].items()}
            one = {"positive": merged.get("conditioning")}  # of a guider without a negative one
            yield parts.get("guider", key), {**one, **merged, **_steps(nodes, parts["sigmas"]), **own}
        else:
            yield key, own


def _steps(nodes: Nodes, key: str) -> dict[str, Any]:
    """Inputs of the scheduler that noise levels come from, through nodes that split or change them."""
    for _ in range(FARTHEST):
        behind = _linked(nodes, nodes[key].get("sigmas"))
        if "steps" in nodes[key] or behind is None:
            break
        key = behind
    return widgets_of(nodes[key])


def _linked(nodes: Nodes, link: Any) -> str | None:
    """The node that a link [node, output] comes from."""
    found = str(link[0]) if isinstance(link, list) and link else None
    return found if found in nodes else None


def _words(nodes: Nodes, link: Any) -> str | None:
    """The text behind a link [node, output], through nodes that hand a condition on."""
    for _ in range(FARTHEST):
        at = _linked(nodes, link)
        if at is None:
            return None
        text = nodes[at].get("text")
        if isinstance(text, str):
            return text
        link = next((nodes[at][key] for key in HANDED_ON if key in nodes[at]), None)
    return None
