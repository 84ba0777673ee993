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
    """List the methods by kind, or show some in full: parameters, defaults by model and their source, paper and equation."""
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

    for kind, title in KINDS.items():
        table = folded("name", "formula (paper); parameters")
        for method in found:
            if method["kind"] == kind:
                table.add_row(method["name"], "\n".join(filter(None, [f"{method['equation']} ({method['paper']})",
                                                                      values(method["parameters"])])))
        out.print()
        out.print(styled(title))
        out.print(table)
    table = folded("name", "rules (source)")
    for row in recipe_rows():
        table.add_row(row["name"], f"{row['rules']} ({row['source']})")
    out.print()
    out.print(styled("Recipes, by --recipe NAME"))
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
