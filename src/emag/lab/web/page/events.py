"""The two kinds of event of the page: those that draw, and those that answer at once."""

from typing import Any

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "trigger_mode": "multiple"}
"""Of every event that draws: one network, one run. trigger_mode: a press while the last one is still on its
way out, as after a cancel, waits for its turn; by default Gradio drops it."""

AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Of every other event: answered by its own request. The queue's answers come over a stream that Gradio closes when
nothing is left to tell; what a person types at that very moment would never be answered."""
