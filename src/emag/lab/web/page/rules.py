"""The stack of rules: a list to pick from, controls for each, and their order; the text beside it stays in step."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from ....core import Rule
from ....core.docs import summary_of
from ....errors import EmagError
from ....records.named import recipes
from .. import order, palette
from ..adding import added, apart
from ..controls import Control, controls
from ..model import Model
from ..stack import changed, moved, parse, text_of, without
from .asked import Form, ask_of
from .events import AT_ONCE
from .spoken import spoken

FIRST = 2
"""Controls of a rule that stand open; the others are one click away."""


def rules_editor(page: gr.Blocks, model: Model, form: Form) -> None:
    """Lay out the stack below the form."""
    with gr.Row(equal_height=True):
        named = gr.Dropdown(["", *recipes], value="", label="Recipe by name", elem_id="recipe",
                            info="from papers; replaces the rules")
    adding = Adding(model)
    with gr.Accordion("Add a rule", open=False, elem_id="add"):
        picked = gr.HTML(adding.listed(*(one.value for one in form.all)), css_template=palette.CSS,
                         js_on_load=palette.SCRIPT, max_height=340, elem_id="palette")
    places = gr.HTML("", css_template=order.CSS, js_on_load=order.SCRIPT, elem_id="order")
    # a layout goes through the queue: outside it Gradio mounts it twice. Its trigger is a component, not a State, whose
    # changes are told by the queue alone
    @gr.render(inputs=[form.stack], triggers=[page.load, form.shape.change], show_progress="hidden")
    def _show(text: str) -> None:
        try:
            rules = parse(text)
        except EmagError:
            return
        for at, rule in enumerate(rules):
            _one(model, form, at, rule, len(rules))

    form.stack.render()
    form.stack.change(_shaped, [form.stack, form.shape, form.own], [form.shape, form.own], trigger_mode="always_last",
                      **AT_ONCE)
    form.stack.change(_listed, form.stack, places, trigger_mode="always_last", **AT_ONCE)
    places.select(_dragged, form.stack, form.stack, **AT_ONCE)
    picked.select(adding.added, form.all, form.stack, **AT_ONCE)
    # what else is asked for has a say, too: without a scale of its own the pipeline has nothing to combine
    gr.on([form.stack.change, form.scale.change, form.negative.change], adding.listed, form.all, picked,
          trigger_mode="always_last", **AT_ONCE)
    named.input(_recipe, [named, form.stack], form.stack, **AT_ONCE)


def _one(model: Model, form: Form, at: int, rule: Rule, count: int) -> None:
    """One rule: its name, its place, its controls.

    An event has a key, under which it stays the same event in every layout: what is pressed in the old one, while the new
    one is on its way, would otherwise name an event that is gone.
    """
    with gr.Group(elem_id=f"rule-{at}", elem_classes="rule"):
        gr.Markdown(f"**{at + 1}. {rule.name}** {summary_of(type(rule))}", padding=True)
        with gr.Row():
            for name, by in (("Up", -1), ("Down", 1)):
                able = 0 <= at + by < count
                ident = f"{name.lower()}-{at}"
                gr.Button(f"{name}: {rule.name}", size="sm", min_width=60, interactive=able, elem_id=ident).click(
                    partial(_edited, moved, at=at, by=by), form.stack, form.stack, key=ident, **AT_ONCE)
            gr.Button(f"Remove {rule.name}", size="sm", min_width=60, elem_id=f"remove-{at}").click(
                partial(_edited, without, at=at), form.stack, form.stack, key=f"remove-{at}", **AT_ONCE)
        found = controls(rule, _resolved(model, rule))
        for one in found[:FIRST]:
            _control(form, at, one)
        if found[FIRST:]:
            with gr.Accordion(f"More of {rule.name}", open=False):
                for one in found[FIRST:]:
                    _control(form, at, one)


def _control(form: Form, at: int, one: Control) -> None:
    """One field of a rule."""
    ident = f"field-{at}-{one.field}"
    common: dict[str, Any] = {"label": one.field, "info": one.about, "interactive": True, "elem_id": ident}
    change: Any = partial(_set, at=at, field=one.field)
    if one.kind == "slider":
        made: Any = gr.Slider(one.low, one.high, one.value, step=one.step, buttons=[], **common)
        events = [made.input, made.release]
    elif one.kind == "choice":
        made = gr.Dropdown(list(one.choices), value=one.value, **common)
        events = [made.input]
    elif one.kind == "switch":
        made = gr.Checkbox(one.value, **common)
        events = [made.input]
    else:
        made = gr.Textbox(one.value, max_lines=1, **common)
        events = [made.submit, made.blur]
    gr.on(events, change, [form.stack, made], [form.stack, form.own], trigger_mode="always_last", key=ident, **AT_ONCE)


def _resolved(model: Model, rule: Rule) -> Rule | None:
    try:
        return model.resolved([rule])[0]
    except EmagError:
        return None


def _shaped(text: str, count: int, own: str) -> tuple[Any, str]:
    """Other controls after a change that no control made."""
    return (gr.skip(), own) if text == own else (count + 1, "")


def _set(text: str, value: Any, at: int, field: str) -> tuple[str, str]:
    with spoken():
        rules = parse(text)
        new = text_of(changed(rules, at, field, value)) if at < len(rules) else text
        return new, new


def _edited(change: Any, text: str, **where: int) -> str:
    with spoken():
        return text_of(change(parse(text), **where))


def _listed(text: str) -> str:
    try:
        return order.html(parse(text))
    except EmagError:
        return ""


def _dragged(text: str, event: gr.EventData) -> Any:
    """The guidance with a rule at the place where it was let go; as it is where the list showed other rules."""
    with spoken():
        rules, at, to = parse(text), int(event._data["at"]), int(event._data["to"])
        known = event._data.get("seen") == text_of(rules) and 0 <= at < len(rules)
        return text_of(moved(rules, at, to - at)) if known else gr.skip()


@dataclass(frozen=True)
class Adding:
    """The list to pick from, and what a pick does."""

    model: Model

    def added(self, prompt: str, negative: str, seed: float, steps: float, scale: float | None, guidance: str,
              event: gr.EventData) -> str:
        """The guidance with the rule that was picked, at the last place where it works."""
        with spoken():
            ask, name = ask_of(prompt, negative, seed, steps, scale, guidance), str(event._data["name"])
            return text_of(added(self.model, ask.rules, name, self.model.call(ask.jobs[0], ask.settings)))

    def listed(self, *values: Any) -> Any:
        """The list, what cannot work with the present rules greyed as well; as it is where they cannot be read."""
        try:
            ask = ask_of(*values)
            found = apart(self.model, ask.rules, self.model.call(ask.jobs[0], ask.settings))
        except EmagError:
            return gr.skip()
        return palette.html(self.model.refused, found)


def _recipe(name: str, text: str) -> str:
    with spoken():
        return text_of(recipes[name].rules) if name else text


