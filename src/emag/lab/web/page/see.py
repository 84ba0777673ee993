"""The pipeline alone beside the guided one, the weak branch, and what the run did."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image

from ..job import Sight, see
from ..model import Model
from ..plots import run_figure
from ..stream import Streamed
from ..truth import is_judged, verdicts
from .asked import Form, ask_of
from .events import AT_ONCE, ONE_AT_A_TIME
from .keep import Kept
from .spoken import line, spoken
from .stops import Stops


@dataclass(frozen=True)
class Seeing:
    """What the button of the tab does."""

    model: Model
    stops: Stops
    kept: Kept

    def drawn(self, prompt: str, negative: str, seed: float, steps: float, scale: float | None, guidance: str,
              paths: list[str], request: gr.Request, progress: gr.Progress = gr.Progress()  # noqa: B008
              ) -> Iterator[tuple[Any, ...]]:
        """Status, the two pictures, the picture as it forms, the weak branch, the plots, what is kept, and the verdicts."""
        stop = self.stops.begin(request)
        with spoken():
            ask = ask_of(prompt, negative, seed, steps, scale, guidance)
            work: Streamed[Sight] = Streamed(lambda tell: see(self.model, ask, lambda *told: tell(told), stop), stop)
            rest = [gr.skip()] * (3 + len(self.kept.all))
            for told in work:
                if told is None:
                    yield (*[gr.skip()] * 3, *rest)
                    continue
                what, step, count, picture = told
                progress((step, count), desc=what)
                if picture is not None and what == ("guided" if ask.rules else "plain"):
                    yield f"{what}: step {step} of {count}", gr.skip(), enlarged(picture), *rest
            sight = work.result
            pair = enlarged(sight.plain.images[0]), enlarged(sight.guided.images[0])
            figure = run_figure(sight.guided.stats, sight.guided.sizes) if sight.guided.stats else None
            yield (done(sight), pair, gr.skip(), enlarged(sight.weak.images[0]) if sight.weak else None, figure,
                   *self.kept.of(sight, paths), in_words(verdicts(self.model, sight)))


def see_tab(model: Model, form: Form, stops: Stops, kept: Kept, run: gr.Button, status: gr.HTML) -> Any:
    """Lay the tab out; its event."""
    both = gr.ImageSlider(label="Plain (left) against guided (right)", format="png", type="pil", interactive=False,
                          buttons=["fullscreen"], elem_id="slider", height=420)
    judged = gr.HTML("", elem_id="verdict", visible=is_judged(model))
    with gr.Row():
        forming = gr.Image(label="As it forms", format="png", interactive=False, buttons=[], elem_id="forming",
                           height=240, min_width=150)
        weak = gr.Image(label="The weak branch alone", format="png", interactive=False, buttons=[], elem_id="weak",
                        height=240, min_width=150)
    plot = gr.Plot(label="Picks and steps of the rules", show_label=False, format="png", elem_id="plot")
    drawing = run.click(Seeing(model, stops, kept).drawn, [*form.all, kept.paths],
                        [status, both, forming, weak, plot, *kept.all, judged], api_name="draw", show_progress_on=status,
                        **ONE_AT_A_TIME)
    drawing.success(lambda: gr.update(interactive=True), None, kept.download, **AT_ONCE)
    return drawing


def done(sight: Sight) -> str:
    """What was drawn, in a line."""
    stats = sight.guided.stats
    if stats is None:
        return "Done: no rule acted, the two are one."
    return line(f"Done: {stats.evaluations} block evaluations per image (planned {stats.planned}, the pipeline alone "
                f"{stats.clean}), {stats.seconds:.1f} s")


def in_words(found: dict[str, tuple[str, ...]]) -> str:
    """A verdict in words under each picture, as HTML."""
    words = {name: f"✗ {line('; '.join(faults))}" if faults else "✓ as asked" for name, faults in found.items()}
    return " ".join(f"<span><strong>{name.capitalize()}</strong> {text}</span>" for name, text in words.items())


def enlarged(image: Image.Image | None, least: int = 256) -> Image.Image | None:
    """Small pictures by a whole factor, without smoothing, to be seen at all."""
    if image is None or max(image.size) >= least:
        return image
    factor = -(-least // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
