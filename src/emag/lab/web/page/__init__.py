"""The page: columns and tabs, and which event calls what."""

from functools import partial
from pathlib import Path

import gradio as gr

from ..album import Album
from ..model import Model
from .asked import asked, priced
from .compare import compare_tab
from .events import AT_ONCE
from .explored import explore_tab
from .interface import interface
from .keep import kept_tab
from .rows import rows_tabs
from .rules import rules_editor
from .see import see_tab
from .stops import Stops

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
                with gr.Row():
                    run = gr.Button("Draw", variant="primary", elem_id="draw", min_width=120)
                    end = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=120)
                status = gr.HTML("Ready.", elem_id="status")
                with gr.Tabs():
                    see = gr.Tab("See", id="see")
                    events = rows_tabs(model, form, stops, status)
                    with gr.Tab("Blind", id="blind"):
                        events += compare_tab(model, form, stops, status)
                    with gr.Tab("Explore", id="explore"):
                        events += explore_tab(model, form, stops, status)
                kept = kept_tab(model, form, Album(folder / "pictures"))
                with see:
                    events.append(see_tab(model, form, stops, kept, run, status))
        for one in form.all:
            one.change(partial(priced, model), form.all, cost, trigger_mode="always_last", **AT_ONCE)
        end.click(stops.ended, None, status, cancels=events, **AT_ONCE)
        page.unload(stops.gone)
        interface(model)
    return page
