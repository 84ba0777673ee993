"""Guidances as plain data: JSON recipes, and the short form of the command line.

A recipe is `{"rules": [{"cads": {}}, {"emag": {"scale": 1.5, "variant": "map"}}, {"apg": {"scale": 4}}]}`; unknown methods
and keys are refused. The short form of a rule is `emag=1.5,variant=map,layers=2-4`: the first value is its scale. A
schedule is `{"schedule": "interval", "scale": 4, "high": 1.6}`, in short `cfg=interval:4:high=1.6`. A text with
commas or blanks stands between double quotation marks, `energy="clip:a red fox, at night",strength=2`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ..core import Rule
from ..errors import BadValue
from ..files import parsed
from ..methods import METHODS, method
from ..methods.common.quotes import parts, words
from ..methods.common.values import from_text, hints_of, make_value, refuse_odd, to_plain
from ..methods.tokens import TOKEN_METHODS


def to_data(rules: Sequence[Rule]) -> list[dict[str, dict[str, Any]]]:
    """Rules as JSON-ready data, without parameters at their defaults. Raises `BadValue` for what a recipe cannot hold."""
    strange = [rule.name for rule in rules if METHODS.get(rule.name) is not type(rule)]
    if strange:
        raise BadValue(f"{strange[0]} is not in the list of methods, so a recipe cannot name it: add it to METHODS")
    return values_of(rules)


def values_of(parts: Sequence[Any]) -> list[dict[str, dict[str, Any]]]:
    """Rules, or parts of a sampler, as JSON-ready data, without parameters at their defaults."""
    return [{part.name: {f.name: to_plain(getattr(part, f.name)) for f in fields(part)
                         if f.default is MISSING or getattr(part, f.name) != f.default}} for part in parts]


def from_data(data: Any, tokens_too: bool = False) -> tuple[Rule, ...]:
    """Rules from a recipe, or from its list of rules; tokens_too: rules of a text, those for tokens alone among them.

    Raises `BadValue` for anything it does not know.
    """
    if isinstance(data, dict):
        unknown = set(data) - {"rules"}
        if unknown or "rules" not in data:
            raise BadValue(f"a recipe is an object with the one key 'rules', got keys {sorted(data)}")
        data = data["rules"]
    if not isinstance(data, list) or not all(isinstance(item, dict) and len(item) == 1 for item in data):
        raise BadValue('the rules of a recipe are a list of one-key objects, e.g. [{"emag": {"scale": 1.5}}]')
    registry = TOKEN_METHODS if tokens_too else METHODS
    return tuple(make_value(name, method(name, registry), values) for item in data for name, values in item.items())


def read_rules(path: str | Path) -> tuple[Rule, ...]:
    """Rules from a JSON file."""
    try:
        data = parsed(Path(path).read_bytes())
    except OSError as error:
        raise BadValue(f"cannot read the recipe {path}: {error.strerror}") from None
    except ValueError as error:
        raise BadValue(f"the recipe {path} is not valid JSON: {error}") from None
    return from_data(data)


def parse(text: str, registry: Mapping[str, Any] = METHODS) -> Any:
    """A rule (or what else `registry` holds) from its short form. The value after its name is its first parameter."""
    head, *rest = (part.strip() for part in parts(text, ","))
    name, given, first = (part.strip() for part in head.partition("="))
    kind = method(name, registry)
    hints = hints_of(kind)
    pairs = [(next(iter(hints), "scale"), first)] if given else []
    for part in rest:
        key, given, value = (piece.strip() for piece in part.partition("="))
        if not given:
            raise BadValue(f"cannot read {part!r} in {text!r}; write a rule as name=scale,key=value,..., and a text with a "
                           'comma in it as key="a, b"')
        pairs.append((key, value))
    presets = [pair for pair in pairs if pair[0] == "preset" and hasattr(kind, "preset")]
    if len(presets) > 1:
        raise BadValue(f"{name} names preset twice")
    pairs = [pair for pair in pairs if pair not in presets]
    refuse_odd(name, [key for key, _ in pairs], kind)
    values = {key: from_text(key, value, hints[key]) for key, value in pairs}
    return kind.preset(presets[0][1], **values) if presets else kind(**values)


def parse_all(text: str) -> tuple[Any, ...]:
    """Rules from one text, in short form, one after the other: "emag=1.5,variant=map seg=1.2 apg=4", or each in its line."""
    return tuple(parse(word) for line in text.splitlines() for word in words(line))
