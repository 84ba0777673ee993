"""`emag vote`: blind votes between two recipes of a run, and what they come to."""

from typing import Annotated, Any

import typer

from ..errors import BadValue
from . import common as shared
from .common import command, err, out
from .common import table as folded


@command("emag vote runs/first --recipes cfg emag", "emag vote runs/first --results",
         kept="every vote cast is kept; the same command goes on with the others", needs=("eval",))
def vote(
    folder: shared.RunFolder,
    recipes: Annotated[tuple[str, str] | None, typer.Option(metavar="A B", help="The two recipes.")] = None,
    name: Annotated[str, typer.Option(help="Who votes: names the file of the votes.")] = "votes",
    limit: Annotated[int | None, typer.Option(min=1, help="Votes to ask for; default: one for each image number.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order and of the sides.")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0: a free one.")] = 0,
    results: Annotated[bool, typer.Option("--results", help="Print what the votes come to, of all names.")] = False,
    as_json: shared.Json = False,
) -> None:
    """Vote in a browser: two images of the same prompt and seed, sides drawn, no names. Stop and go on at will."""
    from ..evaluate.folder import RunFolder
    from ..evaluate.report.ballot import Ballot
    from ..evaluate.report.server import Server

    run = RunFolder(folder)
    if results or as_json:
        _show(run, recipes, as_json)
        return
    if recipes is None:
        raise BadValue(f"say which two: --recipes A B; the run has {', '.join(run.recipes())}")
    run.storage.check()
    with Server(Ballot(run, recipes, name, seed, limit), port) as server:
        err.print(f"Vote at {server.url} (ctrl-c ends; votes are kept)")
        server.serve_forever()


def _show(run: Any, recipes: tuple[str, str] | None, as_json: bool) -> None:
    from ..evaluate.report.votes import tallies

    found = [one for one in tallies(run.storage) if recipes is None or {one.a, one.b} == set(recipes)]
    if as_json:
        shared.show_json([one.data for one in found])
        return
    table = folded("pair", "first preferred", "votes", "no preference", "voters", "left side", "outcome")
    for one in found:
        table.add_row(f"{one.a} : {one.b}", str(one.wins), str(one.votes), str(one.ties), str(one.voters),
                      str(one.lefts) + ("" if one.lefts.even else ", favoured"), one.verdict)
    out.print(table if found else "no votes yet")
