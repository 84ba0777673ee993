"""A row over strengths, from none to far too much, and a grid of seeds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from ..model import Model
from ..row import seed_grid, strength_row
from ..stream import Streamed
from .asked import Form, ask_of
from .events import ONE_AT_A_TIME
from .spoken import spoken
from .stops import Stops


@dataclass(frozen=True)
class RowsTab:
    """What the buttons of both tabs do."""

    model: Model
    stops: Stops

    def strengths(self, prompt: str, negative: str, seed: float, steps: float, scale: float | None, guidance: str,
                  request: gr.Request, progress: gr.Progress = gr.Progress()) -> Iterator[tuple[Any, ...]]:  # noqa: B008
        """Status and the row."""
        with spoken():
            yield from self._made(strength_row, ask_of(prompt, negative, seed, steps, scale, guidance), request, progress)

    def seeds(self, prompt: str, negative: str, seed: float, steps: float, scale: float | None, guidance: str, count: float,
              request: gr.Request, progress: gr.Progress = gr.Progress()) -> Iterator[tuple[Any, ...]]:  # noqa: B008
        """Status and the grid."""
        with spoken():
            asked = ask_of(prompt, negative, seed, steps, scale, guidance, int(count))
            yield from self._made(seed_grid, asked, request, progress)

    def _made(self, make: Callable[..., Image.Image], asked: Any, request: gr.Request,
              progress: gr.Progress) -> Iterator[tuple[Any, ...]]:
        stop = self.stops.begin(request)
        work: Streamed[Image.Image] = Streamed(lambda tell: make(self.model, asked, lambda *told: tell(told), stop), stop)
        before = ""
        for told in work:
            if told is not None:
                before, step, count, _ = told
                progress((step, count), desc=before)
            else:
                yield before or gr.skip(), gr.skip()
        yield "Done.", work.result


def rows_tabs(model: Model, form: Form, stops: Stops, status: gr.HTML) -> list[Any]:
    """Lay both tabs out; their events."""
    rows, common = RowsTab(model, stops), {"api_visibility": "private", "show_progress_on": status, **ONE_AT_A_TIME}
    picture: dict[str, Any] = {"format": "png", "interactive": False, "buttons": ["fullscreen"]}
    with gr.Tab("Strengths", id="strengths"):
        gr.Markdown("One seed; the first rule that pushes from no push, over the one asked for, to far too much.")
        go = gr.Button("Draw the row", elem_id="draw-row")
        row = gr.Image(label="From mild to broken", show_label=False, elem_id="row", **picture)
        first = go.click(rows.strengths, form.all, [status, row], **common)
    with gr.Tab("Seeds", id="seeds"):
        count = gr.Slider(2, 8, 4, step=1, label="Seeds in a row", buttons=[], elem_id="count")
        go = gr.Button("Draw the grid", elem_id="draw-grid")
        grid = gr.Image(label="Plain above, guided below", show_label=False, elem_id="grid", **picture)
        second = go.click(rows.seeds, [*form.all, count], [status, grid], **common)
    return [first, second]
