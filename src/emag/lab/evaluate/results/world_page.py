"""Sections of the page for runs of a world whose truth is known, and what they say of cost."""

from ..metrics.bootstrap import Estimate
from .numbers import Results, Row
from .verdict import change, code

MAIN = ("correct", "residual")
"""What is asked of a method first: obedience, and artifacts."""

SAME = 0.005
"""Share of further evaluations up to which a recipe costs nothing."""


def answers(results: Results) -> list[str]:
    """The questions that the runs were made for, each with the differences that answer it."""
    lines = [line for one in results.questions for line in
             (f"**{one.question}**", "", *(_answer(results, name, base, one.metrics) for name, base in one.pairs), "")]
    return ["## Questions\n", *lines] if lines else []


def _answer(results: Results, name: str, base: str, metrics: tuple[str, ...]) -> str:
    row = next((one for one in results.rows if one.name == name), None)
    found = results.differences(row, base) if row else {}
    parts = [f"{metric} {change(found[metric])}, {_word(results, row, base, metric)}" for metric in metrics
             if row and metric in found]
    return f"- {code(name)} against {code(base)}: {'; '.join(parts) if parts else 'not measured'}."


def _word(results: Results, row: Row, base: str, metric: str) -> str:
    """Better, worse, or neither told."""
    if not results.clear(row, base, metric):
        return "no clear difference"
    return "**better**" if (row.minus[base][metric].value > 0) == results.metrics[metric].higher else "**worse**"


def equal_cost(results: Results) -> list[str]:
    """Each recipe against the pipeline's own guidance with about as many evaluations."""
    names = [name for name in MAIN if name in results.metrics]
    rows = [(row, base) for row in results.compared for base in [results.as_costly(row)] if base]
    if not rows or not names:
        return []
    said = ("What the evaluations of a method bring if they are spent on more steps instead: each recipe minus the\n"
            "pipeline's own guidance with the number of steps that comes nearest to its evaluations. Bold: clear.\n")
    lines = [f"| {code(row.name)} | {row.evaluations:g} | {code(base.name)} ({base.evaluations:g}) | "
             + " | ".join(_gap(results, row, base.name, name) for name in names) + " |" for row, base in rows]
    head = f"| recipe | block evaluations | own guidance | {' | '.join(names)} |"
    return ["## The same evaluations, spent on steps\n", said, head, "|---" * (3 + len(names)) + "|", *lines, ""]


def _gap(results: Results, row: Row, base: str, metric: str) -> str:
    one: Estimate | None = results.differences(row, base).get(metric)
    if one is None:
        return "0, by definition" if row.name == base else "not measured"
    text = change(one)
    return f"**{text}**" if results.clear(row, base, metric) else text


def gains(results: Results) -> list[str]:
    """What each evaluation brings, best first."""
    base = results.base
    if "correct" not in results.metrics or not base.evaluations:
        return []
    found = [(row, one, (row.evaluations or 0) / base.evaluations - 1) for row in results.compared
             for one in [results.differences(row, results.against).get("correct")] if one]
    free = sorted((each for each in found if -0.2 < each[2] <= SAME), key=lambda each: -each[1].value)
    paid = sorted((each for each in found if each[2] > SAME), key=lambda each: -each[1].value / each[2])
    free_lines = [f"- {code(row.name)}: correct {change(one)}, {more:+.0%} evaluations" for row, one, more in free]
    paid_lines = [f"- {code(row.name)}: {10 * one.value / more:+.2f} points of correct for 10 % more evaluations "
                  f"(correct {change(one)}, {more:+.0%})" for row, one, more in paid]
    return ["## Gain for each evaluation\n", f"Against {code(results.against)}, best first.\n",
            *(["Without further evaluations:\n", *free_lines, ""] if free else []),
            *(["With further evaluations:\n", *paid_lines, ""] if paid else [])]


PAPER = {"FID, SD3 on COCO (the paper) ↓": ("22.877", "22.890", "23.530"),
         "HPS, SD3 (the paper) ↑": ("29.22", "29.76", "29.64")}
"""What arXiv 2512.17303 reports of CFG, EMAG and EMAG-Q."""


def beside_paper(results: Results) -> list[str]:
    """The paper's own numbers, and what is most like them here."""
    rows = {row.name: row for row in results.compared}
    names = [results.against, "emag-map", "emag"]
    if not all(name in rows for name in names):
        return []
    ours = {f"{metric}, here {'↑' if results.metrics[metric].higher else '↓'}":
            [_beside(results, rows[name], metric) for name in names if metric in rows[name].values]
            for metric in ("fd", "realism", "discriminator", *MAIN) if metric in results.metrics}
    said = ("The paper's numbers (arXiv 2512.17303) beside the measures here that ask the same: how far a set lies from\n"
            "real ones, and how good single images are. In the paper EMAG does not lower the distance (FID), and its\n"
            "images are liked more by a model of what people prefer (HPS); nothing here is such a model. In words: against\n"
            f"{code(results.against)}.\n")
    lines = [f"| {name} | {' | '.join(values)} |" for name, values in {**PAPER, **ours}.items() if len(values) == 3]
    return ["## Beside the paper\n", said, "| measure | CFG | EMAG (maps) | EMAG-Q (queries) |", "|---|---|---|---|",
            *lines, ""]


def _beside(results: Results, row: Row, metric: str) -> str:
    """A value, and whether it is told from the base's."""
    text = f"{row.values[metric].value:.4g}"
    held = row.name != results.against and metric in results.differences(row, results.against)
    return f"{text}, {_word(results, row, results.against, metric)}" if held else text


def diversity(results: Results) -> list[str]:
    """Right images against true scenes of the same prompts."""
    rows = [row for row in results.compared if row.world]
    if not rows:
        return []
    said = ("Of the images that are right, the object named first and the background against true scenes of the same\n"
            "prompts. Spread below 1: diversity is lost. Precision, recall: shares within the other set's neighbourhoods.\n"
            "Differs: parameters that an exact test (random swaps within pairs) tells from the truth. Holm's correction is\n"
            "over the parameters of one recipe: of 20 recipes like the truth one would have a mark.\n")
    lines = [f"| {code(row.name)} | {w.right} | {' | '.join(f'{x:.2f}' for x in w.spread)} | {w.frechet:.2f} | "
             f"{w.precision:.2f} | {w.recall:.2f} | {', '.join(w.differ) or 'none'} |"
             for row in rows for w in [row.world] if w]
    head = "| recipe | right | spread of x | of y | of radius | Frechet ↓ | precision ↑ | recall ↑ | differs |"
    return ["## Diversity\n", said, head, "|---" * 9 + "|", *lines, ""]


def changed(results: Results, name: str) -> list[str]:
    """The picture of images that a recipe mended and broke."""
    one = results.changed
    if one is None:
        return []
    shown = " and ".join(f"{len(numbers)} {word}" for numbers, word in zip(one.shown, ("mended", "broken")))
    return ["## Mended and broken\n",
            f"Of {results.images} images {code(one.recipe)} mends {one.mended} that {code(one.base)} has wrong, and breaks "
            f"{one.broken} that it has right. Shown are {shown}: the first by number, none picked.\n",
            f"![Images of {one.base} and {one.recipe}]({name}-changed.png)\n"]
