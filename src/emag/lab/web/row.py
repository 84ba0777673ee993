"""Several guidances, or several seeds, in one picture: a row over strengths, a grid of seeds."""

import threading
from dataclasses import fields, replace
from typing import Any

from PIL import Image

from ...core import Rule
from ...errors import BadValue
from .job import Ask, Tell, alone, draw
from .model import Model
from .stack import Rules, value_text
from .truth import judged_rows

PUSHES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the push that is asked for: none, mild, as asked, and on to broken."""
CELL = 192


def strengths(model: Model, rules: Rules) -> list[tuple[str, Rules]]:
    """`rules` with the first that pushes at several strengths, each with its label: w = 1 + k (its own w - 1).

    Raises `BadValue` where none pushes by a number.
    """
    at, scale = _pushing(model, rules)
    values = [1 + k * (scale - 1) for k in PUSHES]
    name = rules[at].name
    return [(f"{name}={value_text(round(value, 4))}", _with_scale(rules, at, value)) for value in values]


def _with_scale(rules: Rules, at: int, value: float) -> Rules:
    return (*rules[:at], replace(rules[at], scale=value), *rules[at + 1:])  # type: ignore[call-arg]


def _pushing(model: Model, rules: Rules) -> tuple[int, float]:
    for at, (rule, shown) in enumerate(zip(rules, model.resolved(rules))):
        scale = getattr(shown, "scale", None)
        if rule.kind in ("weak", "combining") and _has_scale(rule) and isinstance(scale, (int, float)) and scale != 1:
            return at, float(scale)
    raise BadValue("no rule here pushes by a number other than 1: add one, e.g. emag=1.5")


def _has_scale(rule: Rule) -> bool:
    return any(one.name == "scale" for one in fields(rule))


def strength_row(model: Model, ask: Ask, tell: Tell, stop: threading.Event) -> Image.Image:
    """A row of pictures of one seed, from no push to far too much."""
    asked = strengths(model, ask.rules)
    with alone(model, stop):
        made = [draw(model, ask, rules, label, tell, stop).images[0] for label, rules in asked]
    return judged_rows(model, ask.prompt, [made], [label for label, _ in asked], [""], CELL)


def seed_grid(model: Model, ask: Ask, tell: Tell, stop: threading.Event) -> Image.Image:
    """A column per seed: the pipeline alone above, guided below. A seed is drawn by itself, as it is elsewhere."""
    rows: list[list[Any]] = []
    with alone(model, stop):
        for what, rules in (("plain", ()), ("guided", ask.rules)):
            rows.append([draw(model, replace(ask, seeds=(seed,)), rules, f"{what}, seed {seed}", tell, stop).images[0]
                         for seed in ask.seeds])
    return judged_rows(model, ask.prompt, rows, [f"seed {seed}" for seed in ask.seeds], ["plain", "guided"], CELL)


