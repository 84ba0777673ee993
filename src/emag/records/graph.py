"""Guidances in ComfyUI's graphs: what the widgets of our nodes mean as rules, and what a graph in a picture holds of ours.

ComfyUI writes the graph that made a picture into its PNG, every widget included: that is the record. The nodes, `emag show`
and the page read it by the same functions. A graph may come from a stranger: what is not as expected is passed over.
"""

import json
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
RECIPE = "EmagRecipe"
"""Our node that puts the rules of a model out as text."""
MODELS = ("model", "model1")
"""Inputs through which a node that hands a model on got it; of a merge, the model that keeps what it carries."""
FARTHEST = 32
"""Nodes that are gone through behind a link, and nodes of ours on one model."""
Nodes = dict[str, dict[str, Any]]
"""The inputs of a graph's nodes, widgets and links [node, output], by their ids."""


def emag_rules(scale: float = 1.5, variant: str = "query", blocks: str = AUTO, window: str = AUTO, beta: float = 0.988,
               every: int = 1) -> tuple[Rule, ...]:
    """The rule of an EMAG node. blocks: "auto", or block numbers as "6-8", "6+7+8" or "6, 7, 8"; window: "auto", or as in
    "progress:0:0.2:0.8". Raises `BadValue`."""
    given = {"variant": variant, "layers": blocks, "window": window, "beta": beta, "every": every}
    plain = {key: "".join(str(value).split()) for key, value in given.items()}
    plain["layers"] = plain["layers"].replace(",", "+")
    own = [f"{key}={value}" for key, value in plain.items() if value.lower() != AUTO]
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


def guidance_of(graph: Mapping[str, Any], key: str) -> tuple[Rule, ...]:
    """The rules of our nodes on the model of one node that samples, whatever other nodes are between them.

    Raises `BadValue` for widgets that mean no rule.
    """
    return _Links(graph).rules_before(key)


def guidances(graph: Mapping[str, Any]) -> list[tuple[Rule, ...]]:
    """The guidances of a graph in ComfyUI's API form, each the rules of our nodes one after the other.

    Raises `BadValue` for widgets that mean no rule.
    """
    links = _Links(graph)
    before = {links.source(key) for key in links.ours}
    last = [key for key in links.ours if key not in before]
    return [(*links.rules_before(key), *links.rules_of(key)) for key in last]


def told(graph: Mapping[str, Any]) -> dict[str, Any]:
    """What a graph says of how a picture was made, as JSON-ready data: guidances, samplers' settings, texts.

    "unread": why guidances cannot be given back, where they cannot.
    """
    widgets = [widgets_of(own) for own in nodes_of(graph).values()]
    try:
        found: dict[str, Any] = {"guidances": [to_data(rules) for rules in guidances(graph)]}
    except BadValue as error:
        found = {"guidances": [], "unread": str(error)}
    return {**found, "samplers": [own for own in widgets if "steps" in own or "sampler_name" in own],
            "texts": [own["text"] for own in widgets if isinstance(own.get("text"), str)]}


class _Links:
    """Our nodes in a graph, and what leads to them."""

    def __init__(self, graph: Mapping[str, Any]):
        self.nodes = nodes_of(graph)
        self.kinds = {key: graph[key].get("class_type") for key in self.nodes}
        self.ours = {key: kind for key, kind in self.kinds.items() if kind in list(NODES)}

    def source(self, key: str) -> str | None:
        """The nearest node of ours that a node gets its model from, through nodes that hand a model on."""
        for _ in range(FARTHEST):
            link = next((self.nodes[key][name] for name in MODELS if name in self.nodes[key]), None)
            if not isinstance(link, list) or not link or str(link[0]) not in self.nodes:
                return None
            key = str(link[0])
            if key in self.ours:
                return key
        return None

    def rules_before(self, key: str, nested: bool = False) -> tuple[Rule, ...]:
        """The rules on the model that a node gets. nested: another node's text waits for them. Raises `BadValue`."""
        chain: list[str] = []
        at = self.source(key)
        while at is not None and at not in chain:
            chain.insert(0, at)
            at = self.source(at)
            if len(chain) > FARTHEST:
                raise BadValue(f"more than {FARTHEST} nodes of ours are on one model")
        return tuple(rule for one in chain for rule in self.rules_of(one, nested))

    def rules_of(self, key: str, nested: bool = False) -> tuple[Rule, ...]:
        """The rules of one node of ours. Raises `BadValue`."""
        values = {name: self._held(name, value, nested) if isinstance(value, list) else value
                  for name, value in self.nodes[key].items() if name not in (*MODELS, OTHER)}
        return rules_of_node(self.ours[key], values)

    def _held(self, name: str, link: list[Any], nested: bool) -> Any:
        """What comes through a link in the place of a widget: a value that a node holds, or the text of a recipe.

        Recipes of recipes are not followed: a graph may come from a stranger, and each could double what the last one says.
        """
        key = str(link[0]) if link else ""
        value = self.nodes.get(key, {}).get("value")
        if self.kinds.get(key) == RECIPE and not nested:
            return json.dumps({"rules": to_data(self.rules_before(key, nested=True))})
        if isinstance(value, (str, int, float)):
            return value
        raise BadValue(f"{name} of a node came from another node ({self.kinds.get(key)}), and the graph does not say what "
                       "it was")


def nodes_of(graph: Mapping[str, Any]) -> Nodes:
    """The nodes of a graph that have inputs."""
    return {key: node["inputs"] for key, node in graph.items()
            if isinstance(node, dict) and isinstance(node.get("inputs"), dict)}


def widgets_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What of a node's inputs stands in it."""
    return {name: value for name, value in inputs.items() if isinstance(value, (str, int, float))}


def rules_of_node(kind: str, widgets: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of a node by its id and widgets. Raises `BadValue`, also for widgets it does not have."""
    try:
        return NODES[kind](**widgets)
    except (TypeError, AttributeError) as error:
        raise BadValue(f"{kind} in this graph is of another version of the nodes: {error}") from None
