"""Two guidances, compared blind: sides drawn, answered by key or button, counted as in `emag vote`."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..blind import Blind, pair
from ..model import Model
from ..stream import Streamed
from .asked import Form, ask_of
from .events import AT_ONCE, ONE_AT_A_TIME
from .see import enlarged
from .spoken import line, spoken
from .stops import Stops

KEYS = (("left", "Left is better (arrow left)"), ("none", "No preference (arrow down)"),
        ("right", "Right is better (arrow right)"))


@dataclass(frozen=True)
class Comparing:
    """What the buttons of the tab do. Each gives status, the two pictures, the result, the comparison, and its number."""

    model: Model
    stops: Stops

    def begun(self, prompt: str, negative: str, seed: float, steps: float, scale: float | None, a: str, b: str,
              request: gr.Request, progress: gr.Progress = gr.Progress()) -> Iterator[tuple[Any, ...]]:  # noqa: B008
        """A new comparison."""
        with spoken():
            ask = ask_of(prompt, negative, seed, steps, scale, "")
            yield from self._shown(Blind.between(a, b, ask, secrets.randbits(64)), request, progress)

    def voted(self, choice: str, blind: Blind | None, number: float, request: gr.Request,
              progress: gr.Progress = gr.Progress()) -> Iterator[tuple[Any, ...]]:  # noqa: B008
        """The next pair after a vote; nothing where the vote is on another pair than the one that is shown."""
        with spoken():
            if blind is None or blind.number != number:
                yield (gr.skip(),) * 6
                return
            yield from self._shown(blind.undone() if choice == "undo" else blind.voted(choice), request, progress)

    @staticmethod
    def counted(blind: Blind | None) -> str:
        """What the votes come to."""
        return line(blind) if blind else "no votes yet"

    def _shown(self, blind: Blind, request: gr.Request, progress: gr.Progress) -> Iterator[tuple[Any, ...]]:
        stop = self.stops.begin(request)
        said = f"{blind.number} vote(s) so far"  # what they come to would tell the sides
        yield "Drawing a pair", None, None, said, blind, -1
        work: Streamed[Any] = Streamed(lambda tell: pair(self.model, blind, lambda *told: tell(told), stop), stop)
        for told in work:
            if told is None:
                yield (gr.skip(),) * 6
            else:
                progress(told[1:3], desc="a pair")
        left, right = work.result
        yield f"Pair {blind.number + 1}: which is better?", enlarged(left), enlarged(right), said, blind, blind.number


def compare_tab(model: Model, form: Form, stops: Stops, status: gr.HTML) -> list[Any]:
    """Lay the tab out; its events."""
    comparing = Comparing(model, stops)
    state, number = gr.State(None), gr.Number(-1, visible=False)
    with gr.Row():
        a = gr.Textbox("emag=1.5", label="One guidance, in words", elem_id="blind-a")
        b = gr.Textbox("", label="The other (empty: the pipeline alone)", elem_id="blind-b")
    begin = gr.Button("Begin", elem_id="begin")
    with gr.Row():
        left = gr.Image(label="Left", format="png", interactive=False, buttons=[], height=300, elem_id="left", min_width=150)
        right = gr.Image(label="Right", format="png", interactive=False, buttons=[], height=300, elem_id="right",
                         min_width=150)
    with gr.Row():
        buttons = [(name, gr.Button(text, elem_id=f"vote-{name}", min_width=120)) for name, text in KEYS]
        buttons.append(("undo", gr.Button("Take the latest back", elem_id="vote-undo", min_width=120)))
    result = gr.HTML("no votes yet", elem_id="result")
    tell = gr.Button("Show what the votes come to", elem_id="tell")
    outputs = [status, left, right, result, state, number]
    common: dict[str, Any] = {"api_visibility": "private", "show_progress_on": status, **ONE_AT_A_TIME}
    events = [begin.click(comparing.begun, [*form.all[:-1], a, b], outputs, **common)]
    for name, button in buttons:
        events.append(button.click(comparing.voted, [gr.State(name), state, number], outputs, **common))
    tell.click(comparing.counted, state, result, **AT_ONCE)
    return events
