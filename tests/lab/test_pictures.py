"""Pictures that commands write: a title, names of axes, and nothing written over anything else."""

import builtins
import json
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.text import Text

from emag.lab.cli.calibrate import _plotted
from emag.lab.doctor.calibrate import Reach
from emag.lab.evaluate.labels import name_points
from emag.lab.evaluate.results import picture
from emag.lab.evaluate.sweep.outcome import draw

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "tiny.json"


@pytest.fixture
def figures(monkeypatch):
    """Figures that were saved, rendered once more."""
    found, save = [], matplotlib.figure.Figure.savefig

    def saved(figure, *given, **more):
        found.append(figure)
        save(figure, *given, **more)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", saved)
    return found


def boxes(figure, axes):
    figure.draw_without_rendering()
    return [Text.get_window_extent(text) for text in axes.texts]  # without the line that leads to the point


def apart(found):
    """True where no two boxes share more than a pixel."""
    return not any(min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
                   for i, a in enumerate(found) for b in found[:i])


def test_names_of_a_crowd_lie_apart_inside_the_frame_and_on_no_point():
    figure = matplotlib.figure.Figure(figsize=(7, 6))
    axes, rng = figure.subplots(), np.random.default_rng(0)
    values = rng.normal(size=(18, 2)) * (1, 0.3)
    axes.plot(*values.T, "o", ms=4)
    axes.margins(0.15)
    name_points(axes, values, [f"recipe-{i}" * (1 + i % 2) for i in range(18)])
    found, frame = boxes(figure, axes), axes.get_window_extent()
    assert len(found) == 18 and apart(found)
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in found)
    spots = axes.transData.transform(values)
    assert not any(box.x0 < x < box.x1 and box.y0 < y < box.y1 for box in found for x, y in spots)


def test_names_outside_the_limits_are_left_out_and_none_is_mathematics():
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    name_points(axes, np.array([[0.5, 0.5], [2, 2]]), ["$x^$", "far"])
    assert [text.get_text() for text in axes.texts] == ["$x^$"] and boxes(figure, axes)


@pytest.mark.slow
def test_the_picture_of_the_results_has_names_that_do_not_overlap(figures):
    from emag.lab.evaluate.results.write import results_of

    picture.png(results_of([str(RESULTS)], None, ()))
    [figure] = figures
    assert all(apart(boxes(figure, axes)) for axes in figure.axes)
    named = {text.get_text() for axes in figure.axes for text in axes.texts} - {"below"}
    assert {row["name"] for row in json.loads(RESULTS.read_text())["rows"]} >= named and len(named) > 15


@pytest.mark.parametrize("names", [["fd", "accuracy"], ["fd"]])
def test_the_picture_of_a_sweep_has_a_title_and_names(figures, tmp_path, names):
    trials = [{"trial": f"{recipe}.{i}", "recipe": recipe, "setting": f"scale={i}", "given_up": i == 3,
               "results": {"fd": {"value": 20 + i + at}, "accuracy": {"value": 0.8 + 0.01 * i * at}}}
              for at, recipe in enumerate(("cfg", "emag")) for i in range(4)]
    draw({"objectives": names, "trials": trials, "best": {"cfg": "cfg.0", "emag": "emag.1"}}, tmp_path / "front.png")
    [figure] = figures
    axes = figure.axes[0]
    assert "6 trials of 2 recipe(s)" in axes.get_title() and "2 given up early are not shown" in axes.get_title()
    assert axes.get_ylabel() == f"{names[-1]} ({'less' if names[-1] == 'fd' else 'more'} is better)" and axes.get_xlabel()
    assert {text.get_text() for text in axes.texts} == {"cfg: scale=0", "emag: scale=1"} and apart(boxes(figure, axes))
    assert axes.get_legend() is None and len(figure.legends) == 1


def test_the_picture_of_a_calibration_keeps_its_legend_off_the_bars(figures, tmp_path):
    reach = [Reach(i, 0.1 * (i + 1), (0.2, 0.3, 0.5)) for i in range(8)]
    assert "picture in" in _plotted(reach, "pag", tmp_path / "a.json")
    [figure] = figures
    figure.draw_without_rendering()
    [legend] = figure.legends
    seen, page = legend.get_window_extent(), figure.bbox
    assert not seen.overlaps(figure.axes[0].get_window_extent()) and page.x0 <= seen.x0 and seen.x1 <= page.x1


def test_without_matplotlib_the_way_out_keeps_its_brackets(tmp_path, monkeypatch):
    def absent(name, *given, original=builtins.__import__):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *given)

    monkeypatch.setattr(builtins, "__import__", absent)
    told = _plotted([Reach(0, 0.1, (0.2, 0.3, 0.5))], "pag", tmp_path / "a.json")
    assert told == " (pip install emag[plot] for a picture)"
