"""Which events of the page go through the queue: those that draw; what is typed or picked is answered at once."""

import pytest

from emag.lab.web.model import opened

pytest.importorskip("gradio")


def test_only_what_draws_is_queued(tmp_path):
    from emag.lab.web.page import build

    page = build(opened("tiny"), tmp_path)
    events = [one for one in page.fns.values() if one.targets and one.targets[0][1] not in ("unload", "api")]
    drawing = {one.name for one in events if one.concurrency_id == "model"}
    queued = {one.name for one in events if one.queue and one.targets[0][0] is not None}
    assert {"drawn", "strengths", "seeds", "begun", "voted", "measured"} == drawing
    assert queued - drawing == {"apply"}, "the layout of the rules, which Gradio makes in its queue alone"
