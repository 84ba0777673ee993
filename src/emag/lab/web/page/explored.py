"""How far each block of the model moves the picture, measured from the page; the suggestion goes into the guidance."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ....errors import BadValue
from ...doctor.plot import reach_figure
from ..explore import Explored, explore, suggested
from ..model import Model
from ..stack import parse, text_of, value_text
from ..stream import Streamed
from .asked import Form, ask_of
from .events import AT_ONCE, ONE_AT_A_TIME
from .spoken import line, spoken
from .stops import Stops


@dataclass(frozen=True)
class Exploring:
    """What the buttons of the tab do."""

    model: Model
    stops: Stops

    def measured(self, prompt: str, negative: str, seed: float, steps: float, scale: float | None, guidance: str,
                 request: gr.Request, progress: gr.Progress = gr.Progress()) -> Iterator[tuple[Any, ...]]:  # noqa: B008
        """Status, the plot, the suggestion in words, and as it is."""
        stop = self.stops.begin(request)
        with spoken():
            ask = ask_of(prompt, negative, seed, steps, scale, guidance)
            work: Streamed[Explored] = Streamed(lambda tell: explore(self.model, ask, lambda *told: tell(told), stop), stop)
            for told in work:
                if told is not None:
                    progress(told, desc="blocks")
                yield f"block {told[0]} of {told[1]}" if told else gr.skip(), gr.skip(), gr.skip(), gr.skip()
            found = work.result
            said = f"{found.rule.name} reaches farthest on blocks {value_text(found.layers)}"
            yield "Done.", reach_figure(found.reach, found.rule.name), line(said), found

    @staticmethod
    def taken(found: Explored | None, guidance: str) -> str:
        """The guidance with the blocks that were found."""
        with spoken():
            if found is None:
                raise BadValue("measure the blocks first")
            return text_of(suggested(parse(guidance), found))


def explore_tab(model: Model, form: Form, stops: Stops, status: gr.HTML) -> list[Any]:
    """Lay the tab out; its event."""
    exploring = Exploring(model, stops)
    gr.Markdown("One run per block, the first weak branch of the guidance on that block alone (pag where it has none).")
    go = gr.Button("Measure the blocks", elem_id="measure")
    plot = gr.Plot(label="How far each block reaches", show_label=False, format="png", elem_id="reach")
    said, found = gr.HTML("nothing measured yet", elem_id="suggestion"), gr.State(None)
    take = gr.Button("Take the suggestion", elem_id="take")
    take.click(exploring.taken, [found, form.stack], form.stack, **AT_ONCE)
    return [go.click(exploring.measured, form.all, [status, plot, said, found], api_visibility="private",
                     show_progress_on=status, **ONE_AT_A_TIME)]
