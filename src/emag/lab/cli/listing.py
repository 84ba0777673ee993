"""`emag models` and `emag methods`: what there is."""

from typing import Annotated, Any

import typer

from ...errors import BadValue
from ...near import choices
from . import common as shared
from .app import flowing
from .common import command, out
from .common import table as folded
from .screen import styled


@command("emag models", "emag models --json", kept="nothing is kept or changed")
def models(as_json: shared.Json = False) -> None:
    """List the embedded models, the supported pipelines and the supported networks."""
    from ...families import BACKBONES, HOSTS
    from ...hosts.load import MODELS
    from ...tokens.load import EMBEDDED

    found = {"embedded": dict(MODELS), "texts": dict(EMBEDDED), "pipelines": list(HOSTS), "networks": list(BACKBONES)}
    if as_json:
        shared.show_json(found)
        return
    table = folded("name", "what")
    for name, text in MODELS.items():
        table.add_row(name, text)
    for name, text in EMBEDDED.items():
        table.add_row(name, f"{text}, for emag text")
    out.print(table)
    out.print("\nany local folder or hub id of a " + ", ".join(HOSTS))
    out.print("with one of the networks " + ", ".join(BACKBONES))


@command("emag methods", "emag methods emag apg", kept="nothing is kept or changed")
def methods(
    names: Annotated[list[str] | None, typer.Argument(autocompletion=shared.method_names,
                                                      help="Show these in full; none lists all.")] = None,
    as_json: shared.Json = False,
) -> None:
    """List the methods by kind, and what papers gave beside them; or show some in full: parameters, defaults by model and
    their source, paper and equation."""
    from ...methods import LISTED
    from ..pages.catalogue import catalogue

    found = [method for method in catalogue() if not names or method["name"] in names]
    missing = next((name for name in names or [] if name not in {method["name"] for method in found}), None)
    if missing is not None:
        names_known = [method["name"] for method in catalogue()]
        raise BadValue(f"there is no method {missing!r}; {choices(missing, names_known, listed=LISTED)}")
    if as_json:
        shared.show_json(found)
    elif names:
        for method in found:
            _full(method)
    else:
        _overview(found)


def _overview(found: list[dict[str, Any]]) -> None:
    from ..pages.catalogue import KINDS, recipe_rows, values
    from ..pages.functions import listed

    for kind, title in KINDS.items():
        _table(title, "formula (paper); parameters", [(method["name"], "\n".join(filter(None, [
            f"{method['equation']} ({method['paper']})", values(method["parameters"])])))
            for method in found if method["kind"] == kind])
    _table("Recipes, by --recipe NAME", "rules (source)",
           [(row["name"], f"{row['rules']} ({row['source']})") for row in recipe_rows()])
    for title, rows in listed().items():
        _table(title, "what it is (paper)", rows)


def _table(title: str, what: str, rows: list[tuple[str, str]]) -> None:
    """Names and what they are, under a title."""
    table = folded("name", what)
    for row in rows:
        table.add_row(*row)
    out.print()
    out.print(styled(title))
    out.print(table)


def _full(method: dict[str, Any]) -> None:
    from ..pages.catalogue import grouped, values

    out.print(styled(f"{method['name']}  {method['paper']}"))
    out.print(method["equation"])
    out.print(f"\n{flowing(method['about'])}\n")
    told = [f"{name}: {method['fields'][name]}" for name in method["parameters"] if name in method["fields"]]
    out.print(flowing("\n\n".join(told)) + "\n" if told else "")
    out.print(f"defaults: {values(method['parameters'])}")
    for models, row in grouped(method["defaults"]):
        out.print(f"- on {', '.join(models)}: {values(row['values'])} ({row['source']})")
    out.print("")
