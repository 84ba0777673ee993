"""`emag metrics` and `emag reference`: what a run's images measure, and what they are compared with."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ...errors import BadValue
from ...files import check_folder
from ...near import choices
from . import common as shared
from .common import command, err, out
from .common import table as folded


@command("emag metrics runs/first --reference known.npz --against cfg", "emag metrics runs/first --metrics accuracy,pixels",
         "emag metrics pictures/ --reference known.npz --metrics fid",
         kept="what was seen of single images stays, no metric was written; the same command goes on", needs=("eval",))
def metrics(
    folder: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, path or URL; or a folder of images.")],
    names: Annotated[str | None, typer.Option("--metrics", help="Metrics by name; prdc, fid, pixels and judge stand for "
                                              "several. Default: fd,prdc,accuracy; for a world's prompts judge; of a plain "
                                              "folder fd,prdc.")] = None,
    reference: Annotated[Path | None, typer.Option(help="npz made by `emag reference`, or of ADM or pytorch-fid.")] = None,
    discriminator: Annotated[Path | None, typer.Option(help="Folder of another discriminator than that of tiny.")] = None,
    recipe: Annotated[list[str] | None, typer.Option(help="Measure these recipes only. Repeat.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="Also the difference of each recipe to this one, paired. "
                                                      "Repeat.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="The first images of each recipe only.")] = None,
    k: Annotated[int, typer.Option(min=1, help="Neighbours of precision, recall, density and coverage.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu", as_json: shared.Json = False,
) -> None:
    """Measure the images of a run, with 95 % intervals; writes metrics.json into the run folder.

    In a folder of images that no run made nothing is written. Captions are NAME.txt beside NAME.png, or metadata.jsonl.
    """
    from ..evaluate.metrics import measure, stored
    from ..evaluate.metrics import reference as known
    from ..evaluate.metrics.plain import folder_of

    run, results = folder_of(folder), []
    wanted = recipe or run.recipes()
    if run.storage is not None:
        run.storage.check()
    plan = measure.plan(_names(names or _usual(run)), known.read(reference) if reference else None, k, device,
                        discriminator)
    with shared.progress(len(wanted), "measuring") as (_, finished):
        results = measure.measure(run, plan, wanted, against or (), limit, seed,
                                  lambda done: finished(wanted.index(done) + 1))
    if run.storage is not None:
        stored.add(run, results)
    if as_json:
        shared.show_json([one.data for one in results])
        return
    for base in dict.fromkeys(one.against for one in results):
        out.print(_table([one for one in results if one.against == base], base))
    for metric, version in dict.fromkeys((one.metric, one.version) for one in results):
        err.print(f"{metric}: {version}", style="dim")


@command("emag reference known.npz --data cifar10/test.parquet", kept="nothing was written; the same command starts again",
         needs=("eval",))
def reference(
    file: Annotated[Path, typer.Argument(help="npz to write.")],
    data: Annotated[Path, typer.Option(help="Folder of images; or a parquet file of them, or a folder of those.")],
    extractor: Annotated[str, typer.Option(help="embedded, random, inception, dinov2, clip.")] = "embedded",
    size: Annotated[int | None, typer.Option(min=1, help="Height and width of the images of a parquet file; default: 32.")]
    = None,
    limit: Annotated[int | None, typer.Option(min=2, help="The first images only.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu", as_json: shared.Json = False,
) -> None:
    """Write features and moments of real images, to compare runs with."""
    from ..evaluate.metrics import reference as stored
    from ..evaluate.metrics.extractors import EXTRACTORS

    if extractor not in EXTRACTORS:
        raise BadValue(f"there is no extractor {extractor!r}; {choices(extractor, EXTRACTORS)}")
    if not data.exists():
        raise BadValue(f"there is no file or folder {data}")
    check_folder(file.parent)
    made = EXTRACTORS[extractor](device)
    features = stored.of_data(data, made, size, limit)
    stored.write(file, features, made.version)
    if as_json:
        shared.show_json({"file": str(file), "images": len(features), "channels": features.shape[1],
                          "version": made.version})
        return
    out.print(f"{file}: {len(features)} images, {features.shape[1]} channels, {made.version}")


ARROWS = {True: "↑", False: "↓", None: ""}


def _usual(run: Any) -> str:
    """What is measured where nothing is named."""
    if run.storage is None:
        return "fd,prdc"
    declared = run.run["spec"].get("prompts")
    return "judge" if isinstance(declared, dict) and "world" in declared else "fd,prdc,accuracy"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _table(results: list[Any], base: str | None) -> Table:
    sign = "" if base is None else "+"
    table = folded("metric", "recipe" if base is None else f"minus {base}", "value", "95 % interval", "images")
    for one in sorted(results, key=lambda one: [r.metric for r in results].index(one.metric)):
        table.add_row(f"{one.metric} {ARROWS[one.higher]}", one.recipe, f"{one.value:{sign}.4g}",
                      f"{one.low:{sign}.4g} to {one.high:{sign}.4g}", str(one.n))
    return table
