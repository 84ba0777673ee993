"""What a client can ask beside drawing: the price of a guidance, the methods, what a picture says."""

from typing import Any

import gradio as gr

from ...pages.catalogue import catalogue
from ..model import Model
from ..price import price
from .asked import ask_of
from .spoken import spoken


def interface(model: Model) -> None:
    """Declare the functions. `draw` is the button's own."""

    def cost(prompt: str, guidance: str, steps: int) -> dict[str, Any]:
        """Block evaluations per image with a guidance and of the pipeline alone, and bytes kept, before it is drawn."""
        with spoken():
            ask = ask_of(prompt, "", 0, steps, model.scale, guidance)
            found = price(model, ask.rules, ask.jobs[0], ask.settings)
            return {"evaluations": found.evaluations, "plain": found.plain, "bytes": found.bytes, "steps": found.steps}

    def methods() -> list[dict[str, Any]]:
        """The methods with parameters, cost and paper; `refused` says why one cannot work on this model, else it is null."""
        return [{**one, "refused": model.refused.get(one["name"])} for one in catalogue()
                if one["kind"] not in ("token", "schedule", "corrector", "solver")]

    gr.api(cost, api_name="price")
    gr.api(methods, api_name="methods")
