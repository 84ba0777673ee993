"""Which events of the page go through the queue: those that draw; what is typed or picked is answered at once."""

import pytest

from emag.lab.web.model import opened

gradio = pytest.importorskip("gradio")


def test_only_what_draws_is_queued(tmp_path):
    from emag.lab.web.page import build

    page = build(opened("tiny"), tmp_path)
    events = [one for one in page.fns.values() if one.targets and one.targets[0][1] not in ("unload", "api")]
    drawing = {one.name for one in events if one.concurrency_id == "model"}
    queued = {one.name for one in events if one.queue and one.targets[0][0] is not None}
    assert {"drawn", "strengths", "seeds", "begun", "voted", "measured"} == drawing
    assert queued - drawing == {"apply"}, "the layout of the rules, which Gradio makes in its queue alone"


@pytest.mark.parametrize(("seen", "moves"), [("emag seg cads", True), ("seg emag cads", False), (None, False)])
def test_a_place_of_another_list_moves_nothing(seen, moves):
    """What is pressed while the last answer is on its way names a place in the list that stood then."""
    from types import SimpleNamespace

    from emag.lab.web.page.rules import _dragged

    found = _dragged("emag seg cads", SimpleNamespace(_data={"at": 0, "to": 1, "seen": seen}))
    assert found == ("seg emag cads" if moves else gradio.skip())
