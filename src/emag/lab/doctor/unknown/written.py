"""An entry as the file to put into `families/`: what was proven, and what is left to a person."""

import inspect
import re
import textwrap
from dataclasses import fields
from typing import Any

import diffusers

from ....families import Backbone, Stack
from ....families.records import DUAL, JOINT, SINGLE

_SHAPES = {"SINGLE": SINGLE, "DUAL": DUAL, "JOINT": JOINT}


def family_file(entry: Backbone) -> str:
    """The text of a file for `families/`. Its network is proven; its pipelines are read from code, as comments."""
    title = re.sub(r"(Transformer|Model|UNet|\dD).*", "", entry.name)
    title = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", title).strip() or entry.name
    named = [name for name in _SHAPES if any(_shape(stack) == name for stack in entry.stacks)]
    imported = ", ".join([*sorted(named), "Backbone", "Family", "Stack"])
    lines = [f'"""{title}."""', "", f"from .records import {imported}", "", "FAMILY = Family(", f'    "{title}",',
             "    networks=(", "        Backbone("]
    lines += [f"            {line}," for line in _fields(entry)]
    lines += ["        ),", "    ),", *_left(entry), ")", ""]
    return "\n".join(lines)


def _shape(stack: Stack) -> str | None:
    return next((name for name, shape in _SHAPES.items() if shape == (stack.streams, stack.returns)), None)


def _fields(entry: Backbone) -> list[str]:
    stacks = ",\n                    ".join(map(_stack, entry.stacks))
    said = [f'"{entry.name}"', f"stacks=({stacks},)", f"per_row={_code(entry.per_row)}"]
    plain = {one.name: one.default for one in fields(entry)}
    return said + [f"{name}={_code(getattr(entry, name))}" for name in plain
                   if name not in ("name", "stacks", "per_row") and getattr(entry, name) != plain[name]]


def _stack(stack: Stack) -> str:
    shape = _shape(stack)
    flow = f"*{shape}" if shape else f"{_code(stack.streams)}, {_code(stack.returns)}"
    more = (f', "{stack.cross}"' if stack.cross else "") + (", sequence_first=True" if stack.sequence_first else "")
    return f'Stack("{stack.name}", "{stack.attention}", {flow}, {_code(stack.tokens)}{more})'


def _code(value: Any) -> str:
    """A plain value as code, in lines of the house's width."""
    return "\n                ".join(textwrap.wrap(repr(value).replace("'", '"'), 100, break_long_words=False))


def _left(entry: Backbone) -> list[str]:
    """What no network tells: comments for whoever reads the loops of its pipelines."""
    found = list(pipelines_of(entry.name))
    return ["    # Proven on a small instance: resume equals full, rows alone, place of the image, effect. Left to you:",
            "    # - time_scale and negated: what its pipelines do to the timestep and to the answer",
            *["    # - grid_at: which columns of the positions are row and column"] * bool(entry.grid_ids),
            "    # - what texts of several lengths in one batch need: packed, joint_mask",
            "    # - encode=, usual_text=, text_ids=: see docs/adding-a-model.md",
            "    # - pipelines, each loop read down to scheduler.step:",
            *(f"    #   {line}" for line in found or ["none of the installed diffusers names this class"])]


def pipelines_of(network: str) -> list[str]:
    """The pipelines of the installed diffusers that take `network`, with the layout that their code looks like."""
    found = []
    for name in dir(diffusers):
        cls = getattr(diffusers, name, None)
        if not inspect.isclass(cls) or not issubclass(cls, diffusers.DiffusionPipeline):
            continue
        if re.search(rf"\b{network}\b", str(inspect.signature(cls.__init__))):
            found.append(f'Host("{name}", "{_layout(cls)}"),')
    return found


def _layout(cls: type) -> str:
    code = inspect.getsource(cls)
    if "cache_context(" in code:
        return "calls"
    if re.search(r"cat\(\[?\(?negative_\w+, ", code):
        return "neg-pos"
    return "pos-neg" if re.search(r"cat\(\[?\(?\w+, negative_", code) else "calls-untagged"
