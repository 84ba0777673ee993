"""The page: columns and tabs, and which event calls what."""

from functools import partial
from pathlib import Path

import gradio as gr

from ..model import Model
from .stops import Stops
from .asked import asked, priced
from .rules import rules_editor
from .see import see_tab

FIRST = "emag=1.5"


def build(model: Model, folder: Path) -> gr.Blocks:
    """The page for one model. folder: where its pictures go."""
    stops = Stops()
    with gr.Blocks(analytics_enabled=False, title="emag", fill_width=True, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# emag\nGuidance at sampling time on **{model.name}**, seen beside none.", elem_id="title")
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                form = asked(model, FIRST)
                rules_editor(page, model, form)
                cost = gr.HTML(priced(model, *(one.value for one in form.all)), elem_id="price")
            with gr.Column(scale=3, min_width=340):
                see_tab(model, form, stops, folder)
        for one in form.all:
            one.change(partial(priced, model), form.all, cost, show_progress="hidden", api_visibility="private",
                       trigger_mode="always_last")
        page.unload(stops.gone)
    return page
