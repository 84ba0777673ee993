"""Everything there is, as data: the rules, schedules, correctors and solvers with their papers, parameters and defaults."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from ...core.docs import body_of, example_of, fields_of, summary_of
from ...families import DEFAULTS
from ...methods import METHODS
from ...methods.common.values import hints_of, to_plain, type_name
from ...methods.tokens import TOKEN_METHODS
from ...methods.tokens.base import TokenRule
from ...records.named import recipes
from ...samplers import CORRECTORS, SOLVERS
from ...schedules import SCHEDULES, Window

SHARED = tuple(name for name, method in TOKEN_METHODS.items() if not issubclass(method, TokenRule))
"""Methods for images that work on the logits of tokens, too."""

KINDS = {
    "condition": "Condition rules: change the condition, once for all branches of a step",
    "attention": "Inside the attention: in every pass of the network, no evaluation",
    "weak": "Weak branches: push away from a prediction made worse",
    "null": "Unconditional branch: give it, spare it or rewrite it; whatever combines sees the new one",
    "combining": "Combining rules: join the conditional and the unconditional prediction, instead of the pipeline's CFG",
    "after": "After combining: work on the combined prediction",
    "energy": "Energies: move the combined prediction to where a score of the image is higher",
    "token": "Rules for tokens alone: in `emag.tokens` and `emag text`, on log-probabilities of the next token; there "
             f"{', '.join(SHARED)} work too",
    "schedule": "Schedules: usable as the scale of any rule",
    "corrector": "Correctors: move x between two steps of our own loop (`emag.sample`, `emag generate`); what they evaluate "
                 "themselves are clean branches, where rules neither act nor learn",
    "solver": "Solvers: steps of our own loop (`emag.sample`, `emag generate`)",
}


ALONE = {name: method for name, method in TOKEN_METHODS.items() if name not in SHARED}


def catalogue() -> list[dict[str, Any]]:
    """Every method as JSON-ready data, in the order of KINDS."""
    registries: tuple[Mapping[str, type], ...] = (METHODS, ALONE, SCHEDULES, CORRECTORS, SOLVERS)
    found = [_of_tokens(one) if registry is ALONE else one for registry in registries
             for one in map(describe, registry.values())]
    return sorted(found, key=lambda method: list(KINDS).index(method["kind"]))


def describe(method: Any) -> dict[str, Any]:
    """One method as data."""
    hints = hints_of(method)
    rows = [{"model": model, "values": {k: to_plain(v) for k, v in entries[method.name].values.items()},
             "source": entries[method.name].source} for model, entries in DEFAULTS.items() if method.name in entries]
    return {"name": method.name, "kind": method.kind, "paper": method.paper, "equation": method.equation,
            "space": getattr(method, "space", None) or "any", "cost": method.cost,
            "class": method.__name__, "summary": summary_of(method), "example": example_of(method),
            "about": "\n\n".join(filter(None, (summary_of(method), body_of(method)))), "fields": fields_of(method),
            "parameters": {f.name: _default(f) for f in fields(method)},
            "types": {f.name: type_name(hints[f.name]) for f in fields(method)}, "defaults": rows}


def _of_tokens(method: dict[str, Any]) -> dict[str, Any]:
    """A rule for tokens alone: whether it combines or comes after is said by its text, and its class lives in `tokens`."""
    return {**method, "kind": "token", "class": f"tokens.{method['class']}"}


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return None if callable(field.default) else to_plain(field.default)
    return to_plain(field.default_factory()) if field.default_factory is not MISSING else None


def recipe_rows() -> list[dict[str, str]]:
    """The recipes by name as data."""
    return [{"name": name, "rules": " ".join(_short_rule(rule) for rule in found.data), "source": found.source,
             "note": found.note} for name, found in recipes.items()]


def _short_rule(rule: dict[str, dict[str, Any]]) -> str:
    return "; ".join(f"{name} ({values(given)})" if given else name for name, given in rule.items())


def grouped(rows: list[dict[str, Any]]) -> list[tuple[list[str], dict[str, Any]]]:
    """Rows of the table of defaults, models that have the same together."""
    found: list[tuple[list[str], dict[str, Any]]] = []
    for row in rows:
        same = next((models for models, other in found
                     if (other["values"], other["source"]) == (row["values"], row["source"])), None)
        if same is None:
            found.append(([row["model"]], row))
        else:
            same.append(row["model"])
    return found


def values(found: dict[str, Any]) -> str:
    """Parameters in short form."""
    return ", ".join(f"{key}={short(value)}" for key, value in found.items() if value is not None)


def short(value: Any) -> str:
    """One value in short form."""
    if value is None:
        return "the model's"
    if isinstance(value, dict) and "schedule" in value:
        return f"{value['schedule']}({values({k: v for k, v in value.items() if k != 'schedule'})})"
    if isinstance(value, dict) and "unit" in value:
        base = value.get("base", Window.base)
        rest = (f":base={base}" if base != Window.base else "") + (":hold" if value.get("hold") else "")
        return f"{value['unit']}:{value['start']:g}:{value['delta']:g}:{value['stop']:g}{rest}"
    if isinstance(value, list):
        return "[" + " ".join(f"{v:.2f}" if isinstance(v, float) else short(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
