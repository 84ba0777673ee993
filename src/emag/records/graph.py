"""Guidances in ComfyUI's graphs: what the widgets of our nodes mean as rules, and what a graph in a picture holds of ours.

ComfyUI writes the graph that made a picture into its PNG, every widget included: that is the record. The nodes and
`emag show` read it by the same functions.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..core import Rule
from ..errors import BadValue
from ..files import parsed
from .named import recipes
from .recipe import from_data, parse_all, to_data

AUTO = "auto"
NO_RECIPE = "none"
OTHER = "other"
"""What rules call the condition that is connected to the Guidance node."""


def emag_rules(scale: float = 1.5, variant: str = "query", blocks: str = AUTO, window: str = AUTO, beta: float = 0.988,
               every: int = 1) -> tuple[Rule, ...]:
    """The rule of an EMAG node. blocks: "auto", or block numbers as "6-8" or "6+7+8"; window: "auto", or as in
    "progress:0:0.2:0.8". Raises `BadValue`."""
    given = {"variant": variant, "layers": blocks, "window": window, "beta": beta, "every": every}
    own = [f"{key}={value}" for key, value in given.items() if str(value).strip() != AUTO]
    return parse_all(",".join((f"emag={scale}", *own)))


def guidance_rules(rules: str = "", recipe: str = NO_RECIPE) -> tuple[Rule, ...]:
    """The rules of a Guidance node: a recipe's by name, then those of the text, which may be a recipe as JSON.

    Raises `BadValue`.
    """
    named = recipes[recipe].rules if recipe != NO_RECIPE else ()
    text = rules.strip()
    if not text.startswith(("{", "[")):
        own = parse_all(text)
    else:
        try:
            own = from_data(parsed(text))
        except ValueError as error:
            raise BadValue(f"the recipe in the text is not valid: {error}") from None
    if not named and not own:
        raise BadValue("name a recipe, or write rules, e.g. emag=1.5 apg=4; `emag methods` lists them")
    return (*named, *own)


NODES: dict[str, Callable[..., tuple[Rule, ...]]] = {"EmagEMAG": emag_rules, "EmagGuidance": guidance_rules}
"""What a node of each kind, by its id in a graph, makes of its widgets."""


def guidances(graph: Mapping[str, Any]) -> list[tuple[Rule, ...]]:
    """The guidances of a graph in ComfyUI's API form, each the rules of our nodes one after the other.

    Raises `BadValue` for widgets that mean no rule.
    """
    ours = {key: node for key, node in graph.items() if isinstance(node, dict) and node.get("class_type") in NODES}
    before = {key: _source(node) for key, node in ours.items()}
    last = [key for key in ours if key not in before.values()]
    return [tuple(rule for at in _chain(key, before, ours) for rule in _rules(ours[at])) for key in last]


def told(graph: Mapping[str, Any]) -> dict[str, Any]:
    """What a graph says of how a picture was made, as JSON-ready data: guidances, samplers' settings, texts.

    Raises `BadValue`.
    """
    nodes = [node for node in graph.values() if isinstance(node, dict) and isinstance(node.get("inputs"), dict)]
    widgets = [{name: value for name, value in node["inputs"].items() if isinstance(value, (str, int, float))}
               for node in nodes]
    return {"guidances": [to_data(rules) for rules in guidances(graph)],
            "samplers": [own for own in widgets if "steps" in own or "sampler_name" in own],
            "texts": [own["text"] for own in widgets if isinstance(own.get("text"), str)]}


def _chain(key: str, before: Mapping[str, str], ours: Mapping[str, Any]) -> list[str]:
    """A node of ours and those before it, first one first; other nodes between them are not looked through."""
    chain: list[str] = []
    while key in ours and key not in chain:
        chain.insert(0, key)
        key = before[key]
    return chain


def _source(node: Mapping[str, Any]) -> str:
    """The node that a node of ours gets its model from."""
    link = node.get("inputs", {}).get("model")
    return str(link[0]) if isinstance(link, list) and link else ""


def _rules(node: Mapping[str, Any]) -> tuple[Rule, ...]:
    widgets = {name: value for name, value in node.get("inputs", {}).items() if not isinstance(value, list)}
    return rules_of_node(str(node["class_type"]), widgets)


def rules_of_node(kind: str, widgets: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of a node by its id and widgets. Raises `BadValue`, also for widgets it does not have."""
    try:
        return NODES[kind](**widgets)
    except TypeError as error:
        raise BadValue(f"{kind} in this graph is of another version of the nodes: {error}") from None
