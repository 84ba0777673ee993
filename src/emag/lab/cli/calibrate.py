"""`emag calibrate`: where in a network a weak branch acts, measured."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ...errors import BadValue
from ...files import whole
from . import common as shared
from .common import command, file_in, lines, out
from .common import table as folded

SEED = 5
"""Of the prompts and the noise of --world: not those of runs and sweeps."""


@command("emag calibrate pag=1.5", "emag calibrate emag=1.5 --world -m shapes",
         "emag calibrate -g emag=1.5 -p \"a photo of a ship\" -n 28 -o out",
         kept="nothing was written; the same command starts again")
def calibrate(
    weak: Annotated[str | None, typer.Argument(metavar="RULE", help="A weak branch, e.g. pag=2 or emag=1.5,variant=map, as "
                                               "with -g; default: pag=1.5.")] = None,
    guidance: shared.Rules = [], recipe: shared.Recipe = None,  # noqa: B006
    prompts: shared.Prompt = None, prompts_file: shared.PromptFile = None, negative: shared.Negative = None,
    negatives_file: shared.NegativeFile = None,
    model: shared.Model = "tiny", steps: shared.Steps = None, scale: shared.Scale = None, seeds: shared.Seeds = "8",
    out_path: Annotated[Path, typer.Option("--out", "-o", help="Folder for entry (JSON) and plot (PNG), or a name that "
                                           "ends in .json.")] = Path("out"),
    count: Annotated[int, typer.Option(min=1, help="Blocks in a row that the entry names.")] = 3,
    world: Annotated[bool, typer.Option("--world", help="Choose the block and the scale by what a world's judge "
                                        "counts; for a model of that world, such as shapes.")] = False,
    images: Annotated[int, typer.Option(min=1, help="With --world: images of each setting.")] = 60,
    scales: Annotated[str, typer.Option(help="With --world: scales tried on the best block.")] = "1.1,1.25,1.5,2,3",
    loading: shared.Loading = shared.ANY, as_json: shared.Json = False,
) -> None:
    """Measure how far each block's weak prediction moves, and in which frequency band; plot it and write a table entry.

    With --world: draw prompts of the world with each block alone, then the best block at several scales, and take what gets
    most prompts right.
    """
    from ..doctor.calibrate import entry, measure
    from ..draw.sampling import DrawSettings, jobs

    given = [*([weak] if weak else []), *guidance]
    rules = shared.rules_of(given or ([] if recipe else ["pag=1.5"]), recipe)
    if len(rules) != 1:
        raise BadValue(f"calibrate measures one weak branch, and these are {len(rules)} rules: "
                       f"{', '.join(rule.name for rule in rules)}")
    rule = rules[0]
    path = file_in(out_path, f"{rule.name}-{Path(model).name}.json")
    asked = prompts or prompts_file
    if world:
        _by_truth(rule, model, path, images, scales, asked, loading, DrawSettings(steps, scale), as_json)
        return
    texts = lines(prompts or [], prompts_file, "prompt") if asked else ["a photo of a ship", "a photo of a horse"]
    negatives = lines(negative or [], negatives_file, "negative prompt") if negative or negatives_file else []
    work = jobs(texts, negatives, shared.seeds_of(seeds))
    pipe = shared.open_pipeline(model, loading)
    with shared.progress(1, "calibrating") as (on_step, _):
        reach = measure(pipe, rule, _call(pipe, work, DrawSettings(steps, scale)), on_step)
    made = entry(rule, reach, model, count)
    with whole(path) as draft:
        draft.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if as_json:
        shared.show_json(made)
        return
    out.print(_table(reach))
    layers, used = made["values"]["layers"], f"{made['values']['scale']:g}" if "scale" in made["values"] else "SCALE"
    out.print(f"largest together: blocks {layers}; entry in {path}{_plotted(reach, rule.name, path)}")
    out.print(f"to use it: -g {rule.name}={used},layers={layers[0]}-{layers[-1]} on this model; or for all runs, as a row "
              f"for {made['model']} in emag's table of defaults (CONTRIBUTING.md)")


def _by_truth(rule: Any, model: str, path: Path, images: int, scales: str, asked: Any, loading: shared.Loading,
              settings: Any, as_json: bool) -> None:
    """`--world`: the settings tried, judged, and the best as an entry."""
    from ...hosts.extras import require
    from ..doctor.exact import choose, entry
    from ..draw.sampling import Job
    from ..evaluate.prompts import of_world
    from ..evaluate.tasks import seed_of

    require("eval")
    if asked:
        raise BadValue("--world draws prompts of its own: leave out -p and --prompts")
    numbers = [_scale(text) for text in scales.split(",")]
    pipe = shared.open_pipeline(model, loading)
    work = [Job(one.text, None, seed_of(SEED, at)) for at, one in enumerate(of_world("shapes", images, SEED))]
    with shared.progress(1, "calibrating") as (on_step, _):
        found = choose(pipe, rule, work, settings, numbers, on_step)
    made = entry(rule, found, model, images)
    with whole(path) as draft:
        draft.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if as_json:
        shared.show_json(made)
        return
    table = folded("blocks", "scale", "correct", "residual, dB")
    for one in found:
        table.add_row("no rule" if one.layers is None else str(one.layers[0]), f"{one.scale or ''}", f"{one.correct:.3f}",
                      f"{one.residual:.2f}")
    out.print(table)
    said = "no setting is better than no rule" if not made["helps"] else (
        f"{'more' if made['p'] < 0.05 else 'not clearly more'} prompts right than without the rule (p={made['p']:g})")
    out.print(f"best: {made['values']}, {said}; by {images} images, so check it with emag run; entry in {path}")


def _scale(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadValue(f"cannot read the scale {text!r}; write --scales 1.25,1.5,2") from None


def _call(pipe: Any, work: list[Any], settings: Any) -> Any:
    import torch

    from ..draw.sampling import arguments

    def call(pipe: Any) -> None:
        generators = [torch.Generator().manual_seed(job.seed) for job in work]
        try:
            pipe(**arguments(pipe, work, settings), generator=generators)
        except (ValueError, TypeError) as error:
            raise BadValue(f"{type(pipe).__name__} refused the call: {str(error).splitlines()[0]}") from error

    return call


def _table(reach: list[Any]) -> Table:
    from ..doctor.calibrate import BANDS

    table = folded("block", "effect", "|cond - weak| / |cond|", *BANDS)
    top = max(one.effect for one in reach)
    for one in reach:
        bar = "#" * round(22 * one.effect / top) if top else ""
        table.add_row(str(one.block), f"{one.effect:.4f}", bar, *(f"{share:.0%}" for share in one.shares))
    return table


def _plotted(reach: list[Any], name: str, path: Path) -> str:
    """Draw the table, where matplotlib is installed; what to say about it."""
    from ..doctor.plot import reach_figure

    try:
        figure = reach_figure(reach, name)
    except ImportError:
        return " (pip install emag[plot] for a picture)"
    with whole(path.with_suffix(".png")) as draft:
        figure.savefig(draft, dpi=110, format="png")
    return f", picture in {path.with_suffix('.png')}"
