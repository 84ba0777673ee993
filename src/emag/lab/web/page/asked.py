"""What is drawn: prompt, seed, steps and scale, and the guidance in words."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ....errors import BadValue, EmagError
from ...draw.sampling import DrawSettings
from ..dropped import Found
from ..job import Ask
from ..model import Model
from ..price import price
from ..stack import parse
from .spoken import line


@dataclass(frozen=True)
class Form:
    """The components a person fills in.

    shape: counts the changes of the guidance after which its controls are laid out anew. own: the guidance that a control
    made, after whose change they stay as they are, under the hand that moves one.
    """

    prompt: gr.Textbox
    negative: gr.Textbox
    seed: gr.Number
    steps: gr.Number
    scale: gr.Number
    stack: gr.Textbox
    shape: gr.Number
    own: gr.State

    @property
    def all(self) -> list[Any]:
        """In the order in which `ask_of` takes their values."""
        return [self.prompt, self.negative, self.seed, self.steps, self.scale, self.stack]


def asked(model: Model, first: str) -> Form:
    """Lay the components out. first: the guidance to begin with."""
    prompt = gr.Textbox(model.example, label="Prompt", lines=2, elem_id="prompt")
    with gr.Row():
        seed = gr.Number(8, label="Seed", precision=0, minimum=0, min_width=90, elem_id="seed")
        steps = gr.Number(model.steps, label="Steps", precision=0, minimum=1, maximum=1000, min_width=90, elem_id="steps")
        scale = gr.Number(model.scale, label="Own scale", minimum=0, min_width=90, elem_id="scale",
                          interactive=model.scale is not None)
    negative = gr.Textbox("", label="Negative prompt", lines=1, elem_id="negative",
                          visible=model.host.negative_prompt is not None)
    stack = gr.Textbox(first, label="The guidance in words", lines=2, elem_id="stack", render=False,
                       info="as after -g of emag generate; rules in order, e.g. emag=1.5 seg=1.2,sigma=4")
    shape = gr.Number(0, label="Changes of the guidance", visible="hidden")
    return Form(prompt, negative, seed, steps, scale, stack, shape, gr.State(""))


def ask_of(prompt: str, negative: str, seed: float | None, steps: float | None, scale: float | None, stack: str,
           count: int = 1) -> Ask:
    """What was asked for. count: how many seeds in a row. Raises `BadValue`."""
    if seed is None:
        raise BadValue("give a seed, a whole number of at least 0")
    settings = DrawSettings(None if steps is None else int(steps), scale)
    return Ask(prompt or "", parse(stack or ""), negative or None, tuple(range(int(seed), int(seed) + count)), settings)


def priced(model: Model, *values: Any) -> str:
    """The price of what is asked for, or why it would be refused, as HTML."""
    try:
        ask = ask_of(*values)
        found = price(model, ask.rules, ask.jobs[0], ask.settings)
    except EmagError as error:
        return f'<span class="wrong" role="alert">Cannot run: {line(error)}</span>'
    return f"<strong>Price</strong> {line(found)}"


def filled(found: Found) -> tuple[Any, ...]:
    """New values of `Form.all` from a picture; what it does not say stays."""
    values = (found.prompt, found.negative or "", found.seed, found.steps, found.scale)
    # a picture of ours without rules was drawn without any; of another program, nothing is known
    guidance = found.guidance if found.guidance or found.source == "emag" else gr.skip()
    return (*(gr.skip() if value is None else value for value in values), guidance)
