"""The pipeline alone beside the guided one, the weak branch, and what the run did."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ..job import Sight, see
from ..model import Model
from .stops import Stops
from ..stream import Streamed
from .asked import Asked, ask_of
from .spoken import line, spoken

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
"""Of every event that draws: one network, one run."""
STOPPED = "Stopped: the network is as it was before."


@dataclass(frozen=True)
class Seeing:
    """What the buttons of the tab do."""

    model: Model
    stops: Stops

    def drawn(self, request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any  # noqa: B008
              ) -> Iterator[tuple[Any, ...]]:
        """Status, the two pictures, the picture as it forms, and the weak branch."""
        stop = self.stops.begin(request)
        with spoken():
            ask = ask_of(*values)
            work: Streamed[Sight] = Streamed(lambda tell: see(self.model, ask, lambda *told: tell(told), stop), stop)
            for what, step, steps, picture in work:
                progress((step, steps), desc=what)
                if picture is not None:
                    yield f"{what}: step {step} of {steps}", gr.skip(), enlarged(picture), gr.skip()
            sight = work.result
            pair = enlarged(sight.plain.images[0]), enlarged(sight.guided.images[0])
            yield done(sight), pair, gr.skip(), enlarged(sight.weak.images[0]) if sight.weak else None

    def ended(self, request: gr.Request) -> str:
        """What the status says after the button was pressed."""
        return STOPPED if self.stops.end(request) else "Nothing is running in this window."


def see_tab(model: Model, form: Asked, stops: Stops, folder: Path) -> None:
    """Lay the tab out."""
    seeing = Seeing(model, stops)
    with gr.Row():
        run = gr.Button("Draw", variant="primary", elem_id="draw", min_width=120)
        end = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=120)
    status = gr.HTML("Ready.", elem_id="status")
    both = gr.ImageSlider(label="Plain (left) against guided (right)", format="png", type="pil", interactive=False,
                          buttons=["fullscreen"], elem_id="slider", height=420)
    with gr.Row():
        forming = gr.Image(label="The picture as it forms", format="png", interactive=False, buttons=[], elem_id="forming",
                           height=220, min_width=150)
        weak = gr.Image(label="The weak branch: what is pushed away from", format="png", interactive=False, buttons=[],
                        elem_id="weak", height=220, min_width=150)
    drawing = run.click(seeing.drawn, form.all, [status, both, forming, weak], api_visibility="private",
                        show_progress_on=status, **ONE_AT_A_TIME)
    end.click(seeing.ended, None, status, queue=False, cancels=[drawing], api_visibility="private")


def done(sight: Sight) -> str:
    """What was drawn, in a line."""
    stats = sight.guided.stats
    if stats is None:
        return "Done: no rule acted, the two are one."
    return line(f"Done: {stats.evaluations} block evaluations per image (planned {stats.planned}, the pipeline alone "
                f"{stats.clean}), {stats.seconds:.1f} s")


def enlarged(image: Image.Image | None, least: int = 256) -> Image.Image | None:
    """Small pictures by a whole factor, without smoothing, to be seen at all."""
    if image is None or max(image.size) >= least:
        return image
    factor = -(-least // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
