"""`emag models` and `emag methods`: what there is."""

from typing import Annotated, Any

import typer
from rich.table import Table

from ...errors import BadValue
from ...families import BACKBONES, HOSTS
from ..pages import models as supported
from ..pages.catalogue import KINDS, catalogue, markdown, recipe_rows, values
from . import common as shared
from .common import app, out


@app.command()
def models(
    as_json: shared.Json = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/models.md.")] = False,
) -> None:
    """List the embedded models, the supported pipelines and the supported networks."""
    from ...hosts.load import MODELS

    if as_markdown:
        print(supported.markdown(), end="")
        return
    found = {"embedded": dict(MODELS), "pipelines": list(HOSTS), "networks": list(BACKBONES)}
    if as_json:
        shared.show_json(found)
        return
    table = Table("name", "what", box=None)
    for name, text in MODELS.items():
        table.add_row(name, text)
    out.print(table)
    out.print("\nany local folder or hub id of a " + ", ".join(HOSTS), highlight=False)
    out.print("with one of the networks " + ", ".join(BACKBONES), highlight=False)


@app.command()
def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Show these in full; none lists all.")] = None,
    as_json: shared.Json = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/methods.md.")] = False,
) -> None:
    """List the methods by kind, or show some in full: parameters, defaults by model and their source, paper and equation."""
    if as_markdown:
        print(markdown(), end="")
        return
    found = [method for method in catalogue() if not names or method["name"] in names]
    missing = set(names or []) - {method["name"] for method in found}
    if missing:
        raise BadValue(f"there is no method {', '.join(sorted(missing))}; `emag methods` lists all")
    if as_json:
        shared.show_json(found)
    elif names:
        for method in found:
            _full(method)
    else:
        _overview(found)


def _overview(found: list[dict[str, Any]]) -> None:
    for kind, title in KINDS.items():
        table = Table("name", "formula", "paper", "parameters", box=None, pad_edge=False)
        for method in found:
            if method["kind"] == kind:
                table.add_row(method["name"], method["equation"], method["paper"], values(method["parameters"]))
        out.print(f"\n[bold]{title}[/bold]", highlight=False)
        out.print(table)
    table = Table("name", "rules", "source", box=None, pad_edge=False)
    for row in recipe_rows():
        table.add_row(row["name"], row["rules"], row["source"])
    out.print("\n[bold]Recipes, by --recipe NAME[/bold]", highlight=False)
    out.print(table)


def _full(method: dict[str, Any]) -> None:
    out.print(f"[bold]{method['name']}[/bold]  {method['paper']}  {method['equation']}", highlight=False)
    out.print(method["about"], highlight=False, markup=False)
    table = Table("model", "defaults", "source", box=None)
    table.add_row("all", values(method["parameters"]), "")
    for row in method["defaults"]:
        table.add_row(row["model"], values(row["values"]), row["source"])
    out.print(table, "")
