"""The recipes of a run: each a guidance scale, steps, rules and, where our own loop draws it, a sampler."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import BadValue
from ...methods import method
from ...methods.common.values import checked, make_value
from ...records import recipe
from ...records.named import recipes
from ...samplers import CORRECTORS, SOLVERS, Solver
from ..draw.columns import Column
from .unknown import refuse_unknown

NAME = re.compile(r"[A-Za-z0-9][\w.+=-]*")
KEYS = ("guidance_scale", "steps", "rules", "sampler")
SAMPLERS: dict[str, Any] = {**CORRECTORS, **SOLVERS}


def read_recipes(data: Any) -> tuple[Column, ...]:
    """Recipes from a mapping of names to recipes; a name is that of a folder. Raises `BadValue`."""
    if not isinstance(data, Mapping):
        raise BadValue("recipes are a mapping of names to recipes, e.g. {emag: {guidance_scale: 2.5, "
                       f"rules: [{{emag: {{scale: 1.5}}}}]}}}}, got {data!r}")
    for name in data:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise BadValue(f"recipe {name!r} names a folder: use letters, digits and . + = - _, a letter or digit first")
    return tuple(read_recipe(name, value) for name, value in data.items())


def read_recipe(name: str, data: Any) -> Column:
    """One recipe: a mapping, a short form ("scale=2.5 emag=1.5") or a named combination ("emag+apg")."""
    data = {} if data is None else {"rules": data} if isinstance(data, str) else data
    refuse_unknown(f"recipe {name}", data, KEYS)
    scale = data.get("guidance_scale")
    scale = None if scale is None else checked(f"recipe {name} guidance_scale", scale, float)
    steps = None if data.get("steps") is None else checked(f"recipe {name} steps", data["steps"], int)
    try:
        column = _column(name, data.get("rules") or [])
        parts = [_sampler(item) for item in _items("sampler", data.get("sampler") or [])]
    except BadValue as error:
        raise BadValue(f"recipe {name}: {error}") from None
    steps = _once(name, "steps", steps, column.steps)
    return _joined(name, replace(column, steps=steps), _once(name, "guidance_scale", scale, column.scale), parts)


def recipe_data(column: Column) -> dict[str, Any]:
    """A recipe as JSON-ready data."""
    scale = {} if column.scale is None else {"guidance_scale": column.scale}
    sampler = [*column.correctors, *([column.solver] if column.solver else [])]
    steps = {} if column.steps is None else {"steps": column.steps}
    return {**scale, **steps, "rules": recipe.to_data(column.rules),
            **({"sampler": recipe.values_of(sampler)} if sampler else {})}


def _column(name: str, rules: Any) -> Column:
    if isinstance(rules, str):
        return Column(name, recipes[rules].rules) if rules in recipes else Column.parse(rules)
    return Column(name, tuple(recipe.parse(item) if isinstance(item, str) else recipe.from_data([item])[0]
                              for item in _items("rules", rules)))


def _items(what: str, items: Any) -> list[Any]:
    """A list of short forms and one-key mappings; `emag:` in YAML is a rule without parameters."""
    if not isinstance(items, list):
        raise BadValue(f"{what} is a list such as [{{emag: {{scale: 1.5}}}}], got {items!r}")
    return [{key: {} if value is None else value for key, value in item.items()} if isinstance(item, dict) else item
            for item in items]


def _sampler(item: Any) -> Any:
    if isinstance(item, str):
        return recipe.parse(item, SAMPLERS)
    if not isinstance(item, dict) or len(item) != 1:
        raise BadValue(f"a sampler is a one-key mapping such as {{pcg: {{}}}}, got {item!r}")
    [(name, values)] = item.items()
    return make_value(name, method(name, SAMPLERS), values)


def _once(name: str, key: str, own: Any, short: Any) -> Any:
    """What a recipe says by its key or within its short form. Raises `BadValue` where both say it."""
    if own is not None and short is not None:
        raise BadValue(f"recipe {name} has {key} and a {key.removeprefix('guidance_')} in its rules; keep one")
    return short if own is None else own


def _joined(name: str, column: Column, scale: float | None, parts: list[Any]) -> Column:
    solvers = [part for part in (column.solver, *parts) if isinstance(part, Solver)]
    if len(solvers) > 1:
        raise BadValue(f"recipe {name} names {len(solvers)} solvers; keep one")
    correctors = (*column.correctors, *(part for part in parts if not isinstance(part, Solver)))
    return replace(column, label=name, scale=scale, correctors=correctors,
                   solver=next(iter(solvers), None))
