"""The lines of the GPU suite: plain sampling, emag's methods, and what diffusers itself offers for PAG and SLG."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import diffusers

import emag
from emag.core import Rule
from emag.engine.reading import read_network
from emag.hosts.defaults import resolved
from emag.methods import METHODS
from emag.methods.emag import map_average
from timed.shapes import Shape

QUERY, MAP, EVERY = "EMAG query", "EMAG map", "EMAG query, every=3"
STORED, FUSED = "EMAG map, {}", "EMAG map, fused kernel"
FORMATS = ("float32", "scaled16", "scaled8")
STOCK = {"PAG": "PAG, diffusers", "SLG": "SLG, diffusers"}
NO_STOCK = {"flux": "FluxPipeline offers neither", "dit": "DiTPipeline offers neither", "wan": "WanPipeline offers neither"}
SLG_WINDOW = (0.01, 0.2)


@dataclass(frozen=True)
class Line:
    """One thing to measure.

    rules: a guidance of emag. stock: "PAG" or "SLG" by diffusers' own pipelines. refused: why there is no such way.
    fused: averages maps with the fused kernel. part: the part of the suite that asks for it. wide: measured
    at further batch sizes and in compiled form too.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    stock: str = ""
    refused: str = ""
    fused: bool = False
    part: str = "speed"
    wide: bool = False


def lines(shape: Shape, parts: tuple[str, ...], wide: bool = False) -> dict[str, Line]:
    """What is measured on a shape for some parts, the most important first. wide: only those for every batch and mode."""
    asked = {"speed" if part == "memory" else part for part in parts}
    last = (Line(FUSED, (emag.EMAG(variant="map"),), fused=True, part="storage"),) if shape.storage else ()
    every = (Line(shape.plain, wide=True), *_targets(), *_storage(shape), *_others(shape), *_stock(shape), *last)
    return {line.name: line for line in every if (line.part in asked or line.name == shape.plain) and line.wide >= wide}


def _targets() -> tuple[Line, ...]:
    rules = {QUERY: emag.EMAG(variant="query"), MAP: emag.EMAG(variant="map"), EVERY: emag.EMAG(variant="query", every=3)}
    return tuple(Line(name, (rule,), wide=True) for name, rule in rules.items())


def _storage(shape: Shape) -> tuple[Line, ...]:
    if not shape.storage:
        return ()
    kinds = [Line(STORED.format(kind), (emag.EMAG(variant="map", maps=kind),), part="storage") for kind in FORMATS]
    return tuple(kinds)


def _others(shape: Shape) -> tuple[Line, ...]:
    found = [Line("EMAG image", (emag.EMAG(variant="image"),))] if shape.text else []  # else the same as map
    if shape.storage:
        found += [Line(f"published schedule, {variant}", (emag.EMAG(variant=variant, compat="sd3-official"),))
                  for variant in ("query", "map")]
    return (*found, *(Line(name.upper(), (METHODS[name](),), wide=True) for name in ("pag", "slg")))


def _stock(shape: Shape) -> tuple[Line, ...]:
    return tuple(Line(name, stock=method, refused=NO_STOCK.get(shape.family, "")) for method, name in STOCK.items())


@dataclass(frozen=True)
class Ran:
    """What one call gave: what it made, and what emag says of the run, None without a guidance."""

    made: Any
    stats: Any = None


def run(pipe: Any, line: Line, arguments: dict[str, Any]) -> Ran:
    """One call of the pipeline under a line."""
    if line.stock:
        host, more = stock(pipe, line.stock)
        return Ran(_made(host(**arguments, **more)))
    if not line.rules:
        return Ran(_made(pipe(**arguments)))
    with kernel(line.fused), emag.guide(pipe, *line.rules) as guided:
        return Ran(_made(pipe(**arguments)), guided.latest)


def _made(answer: Any) -> Any:
    return answer.frames if hasattr(answer, "frames") else answer.images


@contextmanager
def kernel(fused: bool) -> Iterator[None]:
    """The fused kernel of averaged maps on, or off, while the block lasts."""
    with patch.object(map_average, "FUSED", fused):
        yield


def layers(pipe: Any, method: str) -> tuple[int, ...]:
    """The blocks of a method on a pipeline's network by emag's defaults."""
    rule: Any = resolved((METHODS[method.lower()](),), (), read_network(pipe.transformer))[0]
    return tuple(rule.layers)


def stock(pipe: Any, method: str) -> tuple[Any, dict[str, Any]]:
    """diffusers' own way: the pipeline to call, and further arguments. The same blocks and scales as emag's."""
    at = list(layers(pipe, method))
    if method == "SLG":
        start, stop = SLG_WINDOW
        return pipe, {"skip_guidance_layers": at, "skip_layer_guidance_scale": 2.8, "skip_layer_guidance_start": start,
                      "skip_layer_guidance_stop": stop}
    cls = diffusers.StableDiffusion3PAGPipeline
    parts = {name: part for name, part in pipe.components.items() if name in inspect.signature(cls.__init__).parameters}
    made = cls(**parts, pag_applied_layers=[f"blocks.{block}.attn$" for block in at])
    made.set_progress_bar_config(disable=True)
    return made, {"pag_scale": 0.7}


def evaluations(shape: Shape, pipe: Any, line: Line, steps: int) -> int:
    """Block evaluations per image of a line that is not emag's."""
    clean = steps * shape.depth * (2 if shape.guided else 1)
    if line.stock == "PAG":
        return clean + steps * shape.depth
    if line.stock == "SLG":
        start, stop = (share * steps for share in SLG_WINDOW)
        return clean + sum(start < i < stop for i in range(steps)) * (shape.depth - len(layers(pipe, "SLG")))
    return clean
