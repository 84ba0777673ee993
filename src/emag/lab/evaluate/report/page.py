"""The report of a run: one HTML page that needs nothing beside itself."""

import base64
import hashlib
import shlex
from collections.abc import Sequence
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from ....errors import BadValue
from ....near import choices
from ....shown import visible
from ..folder import RunFolder
from ..metrics.measure import Result
from . import plots
from .groups import breakdowns
from .picks import picks
from .sheets import sheet
from .stored import COSTS, baseline_of, costs, measured, page_facts
from .table import table
from .votes import tallies

PER_PAGE = 6
LOADER = jinja2.PackageLoader("emag.lab.evaluate.report", "templates")


def shown(value: Any) -> Any:
    """What a template writes: texts with their control characters made visible; `Markup` is our own."""
    return visible(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value


PAGES = jinja2.Environment(loader=LOADER, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                           lstrip_blocks=True, finalize=shown)


def page(run: RunFolder, baseline: str | None = None, rows: int = 24, cell: int = 128,
         asked: Sequence[tuple[str, str]] = ()) -> str:
    """The report as HTML. baseline: the recipe to hold others against; rows: image numbers shown; asked: plots, as metrics.

    Raises `BadValue` for a baseline or a metric that the run does not have.
    """
    stored = measured(run)
    base = baseline_of(stored, run.recipes(), baseline)
    results = [*stored, *costs(run, base)]
    known = {one.metric for one in results}
    unknown = next((name for pair in asked for name in pair if name not in known), None)
    if unknown:
        raise BadValue(f"the run has no metric {unknown!r} to plot; {choices(unknown, sorted(known), 'it has')}")
    return PAGES.get_template("page.html").render(
        name=_name(run), facts=page_facts(run), spec=_yaml(run), commands=_commands(run, stored, base), plain_costs=COSTS,
        unfinished=_unfinished(run), total=run.spec.total,
        table=table(results, run.recipes(), base), plots=_safe(plots.drawn(results, asked or plots.pairs(results))),
        breakdowns=breakdowns(run, stored), picks=_safe({one.text: plots.picks(one) for one in picks(run)}),
        recipes=run.recipes(), lines=sheet(run, rows, cell), per_page=PER_PAGE, tallies=tallies(run.storage),
        measured=bool(stored), **own_script("page.js"))


def own_script(name: str) -> dict[str, Any]:
    """A script of ours for a template, and the policy by which a browser runs it and no other, and fetches nothing."""
    text = LOADER.get_source(PAGES, name)[0]
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "script_hash": Markup(f"'sha256-{digest}'")}


def _safe(drawings: Any) -> dict[str, Markup]:
    """SVG as matplotlib wrote it, which escapes the texts in it."""
    return {words: Markup(svg) for words, svg in drawings.items()}


def _name(run: RunFolder) -> str:
    return run.url.rstrip("/").rpartition("/")[2] or run.url


def _unfinished(run: RunFolder) -> list[tuple[str, int]]:
    """Recipes that lack images, and how many they have."""
    counts = ((name, run.index(name).num_rows) for name in run.recipes())
    return [(name, count) for name, count in counts if count < run.spec.total]


def _yaml(run: RunFolder) -> str:
    """The spec as YAML that gives the same spec again: characters that the page would write out are YAML's own escapes."""
    text = yaml.safe_dump(run.run["spec"], sort_keys=False, allow_unicode=True)
    safe = visible(text, lines=True) == text
    return text if safe else yaml.safe_dump(run.run["spec"], sort_keys=False)


def _commands(run: RunFolder, stored: Sequence[Result], base: str) -> list[str]:
    """The commands that make the run, its metrics and this page again, from the spec on the page."""
    name = shlex.quote(_name(run))
    commands = [f"emag run spec.yaml --out {name}"]
    if stored:
        metrics = ",".join(dict.fromkeys(one.metric for one in stored))
        reference = " --reference REFERENCE.npz" if any(one.version.count(";") > 1 for one in stored) else ""
        commands.append(f"emag metrics {name} --metrics {metrics}{reference} --against {base}")
    return [*commands, f"emag report {name}"]
