"""A page that is open all day holds no more than one that was just opened."""

import gc
import threading
import tracemalloc
from pathlib import Path

import pytest

from emag.lab.draw.sampling import DrawSettings
from emag.lab.web.album import Album
from emag.lab.web.job import Ask, see
from emag.lab.web.model import opened
from emag.lab.web.stack import parse

Kept = pytest.importorskip("emag.lab.web.page.keep", exc_type=ImportError).Kept


@pytest.mark.long
def test_memory_does_not_grow_over_runs(tmp_path):
    """Fifty runs of a session: what is held afterwards is what was held after the first ten."""
    model, ask = opened("tiny"), Ask("a photo of a ship", parse("seg=1.5 cfg=2"), settings=DrawSettings(1))
    kept, paths = Kept(model, Album(tmp_path), *[None] * 5), []
    sizes = []
    tracemalloc.start()
    try:
        for run in range(50):
            one = Ask(ask.prompt, ask.rules, None, (run % 12,), ask.settings)
            sight = see(model, one, lambda *told: None, threading.Event())
            paths = kept.of(sight, paths)[-1]
            del sight
            if run % 10 == 9:
                gc.collect()
                sizes.append((tracemalloc.get_traced_memory()[0], len(gc.get_objects())))
    finally:
        tracemalloc.stop()
    assert sizes[-1][0] - sizes[1][0] < 200_000 and sizes[-1][1] - sizes[1][1] < 500, sizes
    assert len(list(Path(tmp_path).iterdir())) == 12
