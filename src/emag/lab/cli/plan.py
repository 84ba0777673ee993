"""`emag plan`: what a run would cost, before it."""

from itertools import groupby
from typing import Annotated, Any

import typer
from rich.table import Table

from . import common as shared
from .common import command, out
from .common import table as folded

LEGEND = {".": "off", "o": "averaged only", "#": "with a weak pass", "~": "its direction extrapolated"}
"""Signs of the steps, a sign for each."""
LONGEST = 150


@command("emag plan -g emag=1.5,variant=map", "emag plan -m stabilityai/stable-diffusion-3.5-medium -n 28 --recipe emag+apg",
         "emag plan -m flux.gguf --base black-forest-labs/FLUX.1-dev -g emag=1.5",
         kept="nothing is kept or changed", without=("device", "dtype", "offload", "lora", "variant"))
def plan(
    model: shared.Model = "tiny", guidance: shared.Rules = [], recipe: shared.Recipe = None,  # noqa: B006
    steps: Annotated[int, typer.Option("--steps", "-n", min=1, help="Denoising steps.")] = 28,
    height: shared.Height = None, width: shared.Width = None,
    images: Annotated[int, typer.Option("--batch-size", "-b", "--images", min=1, help="Images per call of the pipeline, for "
                                        "the memory.")] = 1,
    text: Annotated[int | None, typer.Option(min=0, help="Text tokens in the attention; default: the usual.")] = None,
    uncond: Annotated[bool, typer.Option("--cfg/--no-cfg", help="Whether unconditional rows are evaluated.")] = True,
    loading: shared.Loading = shared.ANY, as_json: shared.Json = False,
) -> None:
    """Print block evaluations, extra memory, the window and the weight the first map keeps, before a run."""
    from ...hosts.opening import ModelSource
    from ..forecast import forecast

    rules = shared.rules_of(guidance or ([] if recipe else ["emag"]), recipe)
    origin = ModelSource(loading.base, loading.pipeline, loading.gguf)
    found = forecast(model, rules, steps, height, width, images, text, uncond, origin, loading.revision)
    if as_json:
        shared.show_json(found)
        return
    out.print(f"{found['network']}, {found['blocks']} blocks, {found['image_tokens']} image + {found['text_tokens']} text "
              f"tokens, {steps} steps")
    out.print(f"block evaluations per image: {found['evaluations']} ({found['clean']} without weak passes, "
              f"{found['evaluations'] / found['clean'] - 1:+.1%})")
    if found["backward"]:
        out.print(f"backward passes go through {found['backward']} of these blocks, and keep what they computed until then"
                  + (f"; they evaluate {found['again']} blocks again" if found["again"] else ""))
        if not found["memory"]:
            out.print("how much that is, is not known of this network or its autoencoder")
    if found["memory"] and found["memory"]["bytes"]:
        out.print(_memory(found["memory"]))
    for branch in found["weak"]:
        out.print(_branch(branch))


def _memory(found: dict[str, Any]) -> str:
    most, least = (f"{found[name] / 2**20:,.1f} MiB" for name in ("bytes", "least"))
    other = f", {least} with checkpoint=true" if found["least"] < found["bytes"] else ""
    return (f"a differentiated evaluation keeps about {most} beside the weights for {found['images']} image(s) in "
            f"float32{other}; the score's own is not in it")


def folded_picture(picture: str) -> str:
    """A sign for each step; of many steps, how many of each sign follow one another, as 120 x o."""
    if len(picture) <= LONGEST:
        return picture
    return ", ".join(f"{len(list(run))} x {sign}" for sign, run in groupby(picture))


def _branch(branch: dict[str, Any]) -> Table:
    table = folded("weak branch", branch["method"])
    table.add_row("blocks", " ".join(map(str, branch["blocks"])))
    spared = branch["applied"] - branch["evaluated"]
    table.add_row("window", f"{branch['watched']} steps averaged, {branch['evaluated']} of them with a weak pass"
                  + (f", {spared} more in the window without one" if spared else ""))
    table.add_row("steps", folded_picture(branch["picture"]))
    table.add_row("", ", ".join(f"{sign} {meaning}" for sign, meaning in LEGEND.items() if sign in branch["picture"]))
    table.add_row("extra memory", f"{branch['bytes'] / 2**20:,.1f} MiB for {branch['images']} image(s)")
    table.add_row("weight of the first map", f"{branch['first_weight'][0]:.3f} at the first weak pass, "
                  f"{branch['first_weight'][1]:.3f} at the last")
    return table
