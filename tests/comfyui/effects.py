"""docs/comfy-*.png: what each node does to pictures: graphs of the nodes, run by ComfyUI's own executor on the trained model
of the world of shapes.

COMFYUI=.venv/comfy/0.30.0/tree PYTHONPATH=src .venv/comfy/0.30.0/venv/bin/python tests/comfyui/effects.py
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tree import use

if __name__ == "__main__":
    use(os.environ["COMFYUI"])

import nodes
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw, ImageFont

import pack
import trained
from emag.lab.draw.sheets import sheet

DOCS = Path(__file__).parents[2] / "docs"
PROMPTS = ("three yellow rings on black", "a cyan ring above a purple square",
           "a yellow circle inside a blue square on black")
SETTINGS = {"seed": 8, "steps": 28, "cfg": 2.0}
TIMES = 16
"""What differences are multiplied by to be seen."""
AUTO = {"blocks": "auto", "window": "auto", "beta": 0.988}
RULES = ("emag=3", "seg=2", "apg=2", "emag=3 seg=2 apg=2")
AWAY = f"between the two, x {TIMES}"
Pictures = list[Image.Image]


class Shapes(io.ComfyNode):
    """The trained model, its prompts and as many latents, in the place of a checkpoint."""

    pipe: Any = None

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="Shapes", category="test", inputs=[],
                         outputs=[io.Model.Output(), io.Conditioning.Output(), io.Conditioning.Output(), io.Latent.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        texts = [trained.conditioning(cls.pipe, list(prompts)) for prompts in (PROMPTS, [""] * len(PROMPTS))]
        return io.NodeOutput(trained.model(cls.pipe), *texts, {"samples": torch.zeros(len(PROMPTS), 4, 16, 16)})


class Runs:
    """Graphs run one after the other by one executor."""

    def __init__(self) -> None:
        Shapes.pipe = trained.pipeline()
        pack.load()
        nodes.NODE_CLASS_MAPPINGS["Shapes"] = Shapes
        self.executor = pack.executor()

    def kept(self, guide: dict[str, Any] | None, further: dict[str, Any] | None = None) -> list[Any]:
        """What comes out of a sampler under a node of ours, and of further outputs behind it."""
        graph = pack.graph(guide, **SETTINGS) | {"1": {"class_type": "Shapes", "inputs": {}}} | (further or {})
        ends = [key for key, node in graph.items() if node["class_type"] == "Keep"]
        kept, errors = pack.run(self.executor, graph, ends)
        assert not errors, errors
        return kept

    def pictures(self, latent: dict[str, Any]) -> Pictures:
        """A latent of ComfyUI's decoded."""
        return trained.pictures(Shapes.pipe, latent["samples"])

    def column(self, guide: dict[str, Any] | None) -> Pictures:
        """The pictures under a node of ours."""
        return self.pictures(self.kept(guide)[0])


def keep(*link: Any) -> dict[str, Any]:
    """A node that keeps an output."""
    return {"class_type": "Keep", "inputs": {"value": list(link)}}


def apart(one: Pictures, other: Pictures) -> Pictures:
    """How far two columns are from each other; black is nothing."""
    far = [np.abs(np.asarray(a, int) - np.asarray(b, int)) * TIMES for a, b in zip(one, other, strict=True)]
    return [Image.fromarray(each.clip(0, 255).astype(np.uint8)) for each in far]


def beside(columns: dict[str, Pictures]) -> Image.Image:
    """Columns beside each other, the prompts before them."""
    return sheet(list(zip(*columns.values(), strict=True)), list(columns), PROMPTS)


def emag_node(runs: Runs) -> Image.Image:
    """EMAG by its scale and its variant."""
    columns = {"no node": runs.column(None), "scale 1 (off)": runs.column(pack.emag(**AUTO, scale=1.0))}
    for scale in (1.5, 3.0, 6.0):
        columns[f"scale {scale:g}"] = runs.column(pack.emag(**AUTO, scale=scale))
    return beside({**columns, "scale 6, variant map": runs.column(pack.emag(**AUTO, variant="map", scale=6.0))})


def guidance_node(runs: Runs) -> Image.Image:
    """One rule and several."""
    return beside({"no node": runs.column(None), **{rules: runs.column(pack.guidance(rules)) for rules in RULES}})


def report_node(runs: Runs) -> Image.Image:
    """The result, what it was pushed away from and where from, and under them the picture of the run."""
    further = {"5": {"class_type": "EmagReport", "inputs": {"model": ["2", 0], "latent": ["3", 0]}},
               "6": keep("5", 1), "7": keep("5", 2), "8": keep("5", 3)}
    out, picks, *pair = runs.kept(pack.emag(**AUTO, scale=3.0), further)
    weak, clean = map(runs.pictures, pair)
    columns = {"the sampler's image": runs.pictures(out), "clean": clean, "weak": weak, AWAY: apart(clean, weak)}
    return stacked(beside(columns), Image.fromarray((picks[0] * 255).round().byte().numpy()))


def recipe_node(runs: Runs) -> Image.Image:
    """A guidance as text, and the same pictures made from the text."""
    further = {"5": {"class_type": "EmagRecipe", "inputs": {"model": ["2", 0]}}, "6": keep("5", 0)}
    out, text = runs.kept(pack.emag(**AUTO, scale=3.0), further)
    first, again = runs.pictures(out), runs.column(pack.guidance(text))
    columns = {"no node": runs.column(None), "EMAG": first, "Guidance with that text": again, AWAY: apart(first, again)}
    return stacked(written(text), beside(columns))


def written(text: str) -> Image.Image:
    """What the Recipe node puts out, in few lines."""
    line, made = f"The Recipe node: {json.dumps(json.loads(text))}", Image.new("RGB", (800, 34), "white")
    ImageDraw.Draw(made).text((6, 8), line, "black", ImageFont.load_default(13))
    return made


def stacked(*parts: Image.Image) -> Image.Image:
    """Pictures below each other."""
    made = Image.new("RGB", (max(one.width for one in parts), sum(one.height for one in parts)), "white")
    top = 0
    for one in parts:
        made.paste(one, (0, top))
        top += one.height
    return made


def main(folder: Path = DOCS) -> None:
    """All four."""
    runs = Runs()
    for make in (emag_node, guidance_node, report_node, recipe_node):
        make(runs).save(folder / f"comfy-{make.__name__.removesuffix('_node')}.png", optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
