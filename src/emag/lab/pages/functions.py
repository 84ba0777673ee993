"""What papers gave beside methods by name: functions, and classes that are no plain data. docs/methods/functions.md."""

import inspect
import re
from importlib import import_module
from typing import Any

from ...methods.energy.presets import PRESETS
from ...objectives import OBJECTIVES, RESIDUALS
from .methods import MADE, cell

NUMBER = re.compile(r"\b\d\d(?:0[1-9]|1[0-2])\.\d{5}\b")  # year, month, number
"""A number of arXiv."""
MODULES = ("methods.combining.compositional", "schedules.feedback", "maths.logits", "maths.mixtures", "maths.analysis",
           "maths.entmax", "maths.projections", "tokens.predictions", "objectives.guided_targets", "objectives.implicit",
           "objectives.likelihood", "objectives.generators", "objectives.preferences", "objectives.further",
           "objectives.residuals", "scores.classes", "scores.calibrated", "samplers.searches", "samplers.anchored",
           "samplers.inversion", "hosts.history", "hosts.driven", "hosts.stream", "hosts.cascade",
           "methods.attention.map_fusion")


def rows() -> list[tuple[str, str, list[str]]]:
    """(name below emag, first line, arXiv numbers) of everything public in `MODULES` whose text names a paper."""
    found = [(f"emag.{name}.{key}", inspect.getdoc(value) or "") for name in MODULES for key, value in _public(name)]
    return [(name, text.partition("\n")[0], numbers) for name, text in found if (numbers := numbers_in(text))]


def numbers_in(text: str) -> list[str]:
    """arXiv numbers in a text, each once."""
    return list(dict.fromkeys(NUMBER.findall(text)))


def _public(name: str) -> list[tuple[str, Any]]:
    module = import_module(f"emag.{name}")
    return [(key, value) for key, value in vars(module).items() if key[0] != "_" and callable(value)
            and getattr(value, "__module__", "") == module.__name__]


def listed() -> dict[str, list[tuple[str, str]]]:
    """What stands beside the methods by name, as `emag methods` lists it: {title: [(name, what it is, with its papers)]}."""
    return {
        "Presets of energy, by energy=SCORE,preset=NAME": [
            (name, f"{one.equation} ({one.paper})") for name, one in PRESETS.items()],
        "Functions and classes, in Python": [
            (name, f"{text} (arXiv {', '.join(numbers)})") for name, text, numbers in rows()],
        "Objectives of training: emag.objectives.OBJECTIVES": [
            (row.name, f"{row.equation} ({row.paper})") for row in OBJECTIVES.values()],
        "Residuals of score distillation: emag.objectives.RESIDUALS": [(row.name, row.paper) for row in RESIDUALS.values()],
    }


def page() -> str:
    """The functions as a page."""
    lines = ["# Functions", "", MADE, "", "What papers gave and is no method by name: ways to write a combination, guidance "
             "of language models on logits, of mixtures, scores, searches, what takes a function of yours, and guidance in "
             "training: objectives and residuals of score distillation. All are ordinary Python.", "",
             "| name | what it does | paper |", "|---|---|---|"]
    lines += [f"| `{name}` | {cell(text)} | {', '.join(_link(number) for number in numbers)} |"
              for name, text, numbers in rows()]
    return "\n".join([*lines, *_objectives(), *_residuals()]) + "\n"


def _objectives() -> list[str]:
    """The table of objectives, and what each bakes in."""
    lines = ["", "## Objectives of training", "", "`emag.objectives.OBJECTIVES`; w of u + w (c - u), 1 is off. See "
             "[baking](../baking.md).", "", "| name | loss | paper | baked in at the optimum |", "|---|---|---|---|"]
    return lines + [f"| `{row.name}` | `{row.function.__name__}`: {_plain(row.equation)} | {_linked(row.paper)} | "
                    f"{cell(row.said)} |" for row in OBJECTIVES.values()]


def _plain(equation: str) -> str:
    """An equation of letters inside a table, whose stars are no emphasis."""
    return cell(equation.replace("*", "\\*"))


def _residuals() -> list[str]:
    """The table of residuals."""
    lines = ["", "## Residuals of score distillation", "", "`emag.objectives.RESIDUALS`, rows of `score_residual`.", "",
             "| name | paper |", "|---|---|"]
    return lines + [f"| `{row.name}` | {_linked(row.paper)} |" for row in RESIDUALS.values()]


def _linked(paper: str) -> str:
    return re.sub(r"arXiv (\S+\d)", lambda found: _link(found[1]), cell(paper))


def _link(number: str) -> str:
    return f"[arXiv {number}](https://arxiv.org/abs/{number})"
