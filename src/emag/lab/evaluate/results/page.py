"""docs/results.md from the numbers: tables, sentences, what made them."""

from collections.abc import Iterable, Sequence

from ..metrics.bootstrap import Estimate
from .numbers import Results, Row, over_reference
from .picture import pairs
from .verdict import about_emag, about_others, code, digits, on_front, sentences
from .world_page import answers, beside_paper, changed, diversity, equal_cost, gains

INTRO = """# Results: {name}

Made by `emag results` from the numbers in [{name}.json]({name}.json); no number or verdict here is written by hand.
"""
OVER_IMAGES = "Brackets are 95 % intervals, by bootstrap over images. "
HELD = """Those of recall and coverage draw reference images and
hold the images made, so they are too narrow to speak for other seeds. """
INTERVALS = """Differences are paired: the same images are drawn for
both recipes. A difference is **clear** where its interval leaves out 0 and its p is below .05 after Holm's correction for
all differences to the same recipe, in all metrics: were there none, a table of differences would show a clear one in fewer
than 5 of 100 such pages. The p of shares is McNemar's exact one, that of other means a paired t-test's, else that of the
interval."""
COSTS = """Block evaluations are counted, not estimated. Seconds are wall-clock time, the median over batches, with its
interval; they hold whatever else the machine did."""


def markdown(results: Results, name: str = "results") -> str:
    """The page; its numbers and picture lie beside it under the same name."""
    parts = [INTRO.format(name=name), facts(results),
             "## What comes out\n", *conclusions(results),
             *answers(results), "## Quality\n", quality(results),
             f"## Differences to {code(results.against)}\n", gaps(results), *equal_cost(results),
             *gains(results), *diversity(results), *changed(results, name), *beside_paper(results),
             "## Settings and cost\n", COSTS + "\n", costs(results), *appearance(results), *fronts(results, name),
             *trials(results), *left_out(results), "## What measured it\n", versions(results), *again(results, name)]
    return "\n".join(parts).rstrip("\n") + "\n"


def facts(results: Results) -> str:
    """What was run, on what."""
    run, machine = dict(results.run), dict(results.machine)
    model = dict(run["model"])
    kinds = ", ".join(f"{key} {value}" for key, value in model.items() if key != "id")
    classes = run.get("classes")
    shown = f"{run['prompts']} {'classes' if classes else 'prompts'} in turn"
    most = max(row.wanted for row in results.rows)
    count = f"{results.images} images" + ("" if results.images == most else f" (of {most} asked for)")
    lines = [f"- **Run**: model `{model['id']}`" + (f" ({kinds})" if kinds else "") +
             f", {len(results.compared)} recipes, {count} each, {run.get('steps') or 'the default'} steps, "
             f"seed {run['seed']}, {shown}. Image number i has the same prompt and the same starting noise in every recipe.",
             f"- **Machine**: {machine.pop('cpu')}, {machine.pop('cores')} cores, {machine.pop('system')}; "
             f"{', '.join(f'{name} {version}' for name, version in machine.items())}.", *_chosen(results)]
    return "\n".join(lines) + "\n"


def conclusions(results: Results) -> list[str]:
    """Sentences, and how far they can be trusted."""
    count = sum(len([name for name in results.differences(row, results.against) if name in results.judged])
                for row in results.compared)
    parts = {"### EMAG\n": about_emag(results), "### Others, against another recipe\n": about_others(results)}
    said = OVER_IMAGES + (HELD if over_reference(results) else "") + INTERVALS
    return [*([said + "\n"] if count else []), *sentences(results), "",
            *(line for head, lines in parts.items() if lines for line in (head, *lines, ""))]


def quality(results: Results) -> str:
    """Values with intervals."""
    return _values(results, results.judged, [f"{name} {_arrow(results, name)}" for name in results.judged])


def gaps(results: Results) -> str:
    """Differences to the base; clear ones in bold, with a word."""
    names, base = results.judged, results.against
    found = {row.name: results.differences(row, base) for row in results.compared if row.name != base}
    names = [name for name in names if any(name in one for one in found.values())]
    places = {name: digits([one[name] for one in found.values() if name in one]) for name in names}
    held = {row.name: row for row in results.compared}
    rows = ([code(row), *(_gap(results, held[row], name, one.get(name), places[name]) for name in names)]
            for row, one in found.items())
    return _table(["recipe", *(f"{name} {_arrow(results, name)}" for name in names)], rows)


def costs(results: Results) -> str:
    """Setting, block evaluations and seconds of each recipe."""
    base, rows = results.base, []
    for row in results.compared:
        ratio = f"{row.evaluations / base.evaluations:.2f}" if row.evaluations and base.evaluations else ""
        seconds = _cell(row.seconds, digits([row.seconds]) if row.seconds else 0)
        star = " *" if row.best is False else ""
        rows.append([code(row.name), code(row.setting) + star, f"{row.evaluations or 0:g}", ratio, seconds])
    head = ["recipe", "setting", "block evaluations an image", f"of {code(results.against)}", "seconds an image"]
    odd = any(row.best is False for row in results.compared)
    return _table(head, rows) + ("\n\\* not the setting that the sweep chose.\n" if odd else "")


def appearance(results: Results) -> list[str]:
    """Metrics that describe."""
    names = [name for name in results.metrics if name not in results.judged]
    said = "No direction of these is the better one.\n"
    return ["## How the images look\n", said, _values(results, names, names)] if names else []


def fronts(results: Results, name: str) -> list[str]:
    """The picture, and who is on which front."""
    found = pairs(results)
    if not found:
        return []
    lines = [f"- {x} and {y}: {', '.join(map(code, on_front(results, (x, y))))}" for x, y in found]
    said = "No other recipe has better values of both metrics (by the values; intervals may overlap):\n"
    return ["## Fronts\n", said, *lines, "", f"![Recipes over pairs of metrics]({name}.png)\n",
            f"Black: {code(results.against)}. Red: with EMAG. Lines: 95 % intervals; grey: the front.\n"]


def trials(results: Results) -> list[str]:
    """What the sweep tried."""
    if not results.sweep or not any(row.tried for row in results.rows):
        return []
    select = results.sweep["select"]
    best = max if results.metrics[select].higher else min
    lines = []
    for row in results.rows:
        top = best((value for _, value in row.tried), default=None)
        marks = (f"{code(name)} {'**' if value == top else ''}{value:.4g}{'**' if value == top else ''}"
                 for name, value in row.tried)
        lines.append([code(row.name), "; ".join(marks)])
    said = f"{select} of every setting, the best in bold. Where that is the end of a grid, a better one may lie beyond.\n"
    return ["## Settings tried\n", said, _table(["recipe", select], lines)]


def left_out(results: Results) -> list[str]:
    """Recipes that are not finished."""
    rows = [f"- {code(row.name)}: {row.images} of {row.wanted} images finished, {row.measured} measured"
            for row in results.left_out]
    said = f"All above is over {results.images} images of each recipe. These have another number:\n"
    return ["## Not compared\n", said, *rows, ""] if rows else []


def versions(results: Results) -> str:
    """The versions of the metrics."""
    return "\n".join(f"- {name}: {one.version}" for name, one in results.metrics.items()) + "\n"


def again(results: Results, name: str) -> list[str]:
    """How to make it all again."""
    lines = [*results.again, f"emag results {name}.json --out {name}.md  # this page from its numbers alone"]
    return ["## Again\n", "```sh", *lines, "```"]


def _chosen(results: Results) -> list[str]:
    sweep = results.sweep
    if not sweep:
        return []
    same = " These are the first images of the run too." if sweep["seed"] == results.run["seed"] else ""
    return [f"- **Settings**: a {sweep['method']} sweep, {sweep['trials']} setting(s) of each recipe on {sweep['images']} "
            f"images, the one with the best {sweep['select']} taken. Other settings than those tried may be better.{same}"]


def _values(results: Results, names: Sequence[str], head: Sequence[str]) -> str:
    places = {name: digits([row.values[name] for row in results.compared if name in row.values]) for name in names}
    rows = ([code(row.name), *(_cell(row.values.get(name), places[name]) for name in names)] for row in results.compared)
    return _table(["recipe", *head], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) + "\n"


def _cell(one: Estimate | None, places: int) -> str:
    """A value and its interval; the value alone where nothing is known of its spread."""
    if one is None:
        return ""
    return f"{one.value:.{places}f}" + (f" [{one.low:.{places}f}, {one.high:.{places}f}]" if one.low < one.high else "")


def _gap(results: Results, row: Row, name: str, one: Estimate | None, places: int) -> str:
    if one is None:
        return ""
    text = f"{one.value:+.{places}f} [{one.low:+.{places}f}, {one.high:+.{places}f}]"
    better = (one.value > 0) == results.metrics[name].higher
    return f"**{text} {'better' if better else 'worse'}**" if results.clear(row, results.against, name) else text


def _arrow(results: Results, name: str) -> str:
    return "↑" if results.metrics[name].higher else "↓"

