"""docs/worth.md from stored results: which guidance to use, by what it gives for what it takes."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from ..metrics.bootstrap import Estimate
from .numbers import Results
from .verdict import code, digits
from .worth import Gain, asked, by_model, free, gains_of, model_of, on_front, saves

INTRO = """# Worth it?

What each method gives over plain CFG, against the block evaluations it takes beyond it. Every recipe stands at the best of a
sweep of equal budget, chosen on other seeds than those counted here. Made by `emag worth` from the numbers of the pages of
[results](results.md); no sentence here is written by hand.

Gains are paired differences to the base with 95 % intervals, signed so that more is better. **Bold** is told from none after
the correction for all recipes of a page; the rest may be chance. What a small model shows need not hold on a large one: take
the order in which to try things from here, and look at your own images.
"""

LEGEND = """Red: with EMAG. Blue: told from none. Grey: neither, and not named. Lines: 95 % intervals; the step: the most
that evaluations buy. What loses far more than the others, or takes
four times the evaluations and more, is in the table alone.
"""


def markdown(found: Mapping[str, Results], pictures: Mapping[str, str]) -> str:
    """The page. found: results by the address of their page; pictures: file names by the same."""
    parts = [INTRO, "## In short\n", *(line for page, one in found.items() for line in short(one, page)), "",
             *(line for page, one in found.items() for line in _model(one, page, pictures.get(page))),
             *across(list(found.values()))]
    return "\n".join(parts).rstrip("\n") + "\n"


def short(results: Results, page: str) -> list[str]:
    """What to use, a line for each question: free, for more evaluations, for fewer, and EMAG."""
    gains, names = gains_of(results), asked(results)
    base = code(results.against)
    lines = {
        "Clearly better than {base} for no more evaluations": _winners([one for one in gains if free(one)], names),
        "Clearly better for more evaluations": _winners([one for one in gains if not free(one)], names),
        "Fewer evaluations, and not clearly worse": [f"{code(one.row.name)} ({one.more:+.0%})"
                                                     for one in gains if saves(one, names)],
        "Of those with EMAG": _grouped([one for one in gains if one.row.emag], names),
    }
    return [f"On `{model_of(results)}` ([{_title(page)}](#{_title(page)}), {results.images} images a recipe, by "
            f"{', '.join(names)}):\n",
            *(f"- **{head.format(base=base)}**: {'; '.join(said) or 'none'}." for head, said in lines.items()), ""]


def _title(page: str) -> str:
    """What a section is called: the page that it is made from."""
    return PurePosixPath(page).stem


def _winners(gains: Sequence[Gain], names: Sequence[str]) -> list[str]:
    """Recipes that are clearly better in some metric and clearly worse in none, with what they gain."""
    good = [one for one in gains if any(map(one.better, names)) and not any(map(one.worse, names))]
    return [f"{code(one.row.name)} ({', '.join(f'{name} {_gain(one.by[name])}' for name in names if one.better(name))}"
            f"{'' if free(one) else f'; {one.more:+.0%}'})" for one in good]


def _grouped(gains: Sequence[Gain], names: Sequence[str]) -> list[str]:
    """Recipes by what is told of them."""
    words = {code(f"{one.row.name} {one.more:+.0%}"): (any(map(one.better, names)), any(map(one.worse, names)))
             for one in gains}
    heads = {(True, False): "clearly better", (True, True): "better and worse", (False, False): "not told from the base",
             (False, True): "clearly worse"}
    found = {head: [name for name, told in words.items() if told == kind] for kind, head in heads.items()}
    return [f"{head}: {', '.join(who)}" for head, who in found.items() if who]


def _model(results: Results, page: str, picture: str | None) -> list[str]:
    gains, names = gains_of(results), asked(results)
    steps = results.run.get("steps") or "the default"
    fronts = [f"- {name}: {', '.join(_point(one, name) for one in on_front(gains, name)) or 'none gains'}" for name in names]
    places = {name: digits([one.by[name] for one in gains if name in one.by]) for name in names}
    rows = [_row([code(one.row.name), f"{one.more:+.0%}", *(_cell(one, name, places[name]) for name in names),
                  code(one.row.setting)]) for one in gains]
    shown = [f"![Gain over {results.against} against further evaluations]({picture})\n", LEGEND] if picture else []
    said = f"{results.images} images of each recipe, {steps} steps; all numbers: [{_title(page)}]({page}).\n"
    return [f"## {_title(page)}\n", said, *shown,
            "No other recipe gains more for as few evaluations (by the values; intervals may overlap):\n", *fronts, "",
            _row(["recipe", "evaluations", *(f"{name} gained" for name in names), "setting"]),
            "|---" * (3 + len(names)) + "|", *rows, ""]


def across(found: Sequence[Results]) -> list[str]:
    """Recipes that every model has: + clearly better, - clearly worse, ~ where neither is told."""
    models = by_model(found)
    first, *others = models.values()
    shared = [name for name in first if all(name in other for other in others)] if others else []
    if not shared:
        return []
    named = {model_of(results): asked(results) for results in found}
    columns = [(model, metric) for model, metrics in named.items() for metric in metrics]
    rows = [_row([code(name), *(_mark(models[model][name], metric) for model, metric in columns)]) for name in shared]
    said = "Recipes that all of these models have: **+** clearly better than the base, **-** clearly worse, ~ not told.\n"
    head = [f"{model}: {metric}" for model, metric in columns]
    return ["## On all models\n", said, _row(["recipe", *head]), "|---" * (1 + len(columns)) + "|", *rows, ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mark(one: Gain, metric: str) -> str:
    return "**+**" if one.better(metric) else "**-**" if one.worse(metric) else "~" if metric in one.by else ""


def _point(one: Gain, metric: str) -> str:
    return f"{code(one.row.name)} ({_gain(one.by[metric])}, {one.more:+.0%})"


def _gain(one: Estimate) -> str:
    return f"{one.value:+.{digits([one])}f}"


def _cell(one: Gain, metric: str, places: int) -> str:
    found = one.by.get(metric)
    if found is None:
        return ""
    text = f"{found.value:+.{places}f} [{found.low:+.{places}f}, {found.high:+.{places}f}]"
    return f"**{text}**" if metric in one.clear else text
