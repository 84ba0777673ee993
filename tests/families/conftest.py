"""What several tests of families look through."""

import pytest

from emag.engine import trajectory
from emag.maths.attention import Attention


@pytest.fixture
def seen(monkeypatch):
    """The steps, and of each tapped attention the image queries and the reference tokens."""
    steps, queries, step, image_queries = [], set(), trajectory.Trajectory.step, Attention.image_queries

    def noted_step(*args, **kwargs):
        steps.append(step(*args, **kwargs))
        return steps[-1]

    def noted_queries(call):
        found = image_queries(call)
        queries.add((found.shape[2], call.references))
        return found

    monkeypatch.setattr(trajectory.Trajectory, "step", noted_step)
    monkeypatch.setattr(Attention, "image_queries", noted_queries)
    return steps, queries
