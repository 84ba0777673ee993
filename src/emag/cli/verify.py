"""`emag verify`: is a run whole?"""

from dataclasses import asdict
from typing import Annotated

import typer

from . import common as shared
from .common import command, err, out


@command("emag verify runs/first", "emag verify runs/first --repair", kept="nothing is lost; the same command starts again",
         needs=("eval",))
def verify(
    folder: shared.RunFolder,
    repaired: Annotated[bool, typer.Option("--repair", help="Remove what is wrong; emag run then makes it again.")] = False,
    as_json: shared.Json = False,
) -> None:
    """Check that a run has every image once, unharmed and as its spec wants it; the exit code is 1 where it has not."""
    from ..evaluate.folder import RunFolder
    from ..evaluate.verify import repair
    from ..evaluate.verify import verify as problems_of

    run = RunFolder(folder)
    problems = problems_of(run)
    images, recipes = run.run["spec"]["images"], list(run.run["spec"]["recipes"])
    if as_json:
        shared.show_json({"run": folder, "images": images, "recipes": recipes,
                          "problems": [asdict(one) for one in problems]})
    for one in () if as_json else problems[:50]:
        out.print(str(one))
    if repaired and problems:
        removed, left = repair(run, problems)
        err.print(f"{len(removed)} file(s) removed: give the emag run command again")
        for name in left:
            err.print(f"left, as it is no regular file or behind a link: {name}")
    if not as_json:
        out.print(_summary(len(problems), images, len(recipes)))
    raise typer.Exit(1 if problems else 0)


def _summary(problems: int, images: int, recipes: int) -> str:
    if problems:
        return f"{problems} problem(s)"
    return f"whole: {images} image(s) of each of {recipes} recipe(s)"
