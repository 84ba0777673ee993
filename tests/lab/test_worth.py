"""What is worth its evaluations: signs, fronts and sentences from stored numbers."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emag.errors import BadValue
from emag.lab.evaluate.metrics.bootstrap import Estimate
from emag.lab.evaluate.results.as_json import read, to_json
from emag.lab.evaluate.results.numbers import Metric, Results, Row
from emag.lab.evaluate.results.worth import Gain, asked, check_once, gains_of, on_front
from emag.lab.evaluate.results.worth_page import markdown, short
from emag.lab.evaluate.results.write import write_worth

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / f"docs/results/{name}.json" for name in ("shapes", "shapes-rest", "tiny", "tiny-rest")]
METRICS = {"residual": Metric("a judge", False), "correct": Metric("a judge", True), "extra": Metric("a judge", False)}


def estimate(value, width=0.1, n=500):
    return Estimate(value, value - width, value + width, n)


def row(name, cost, residual=None, correct=None, **more):
    values = {"residual": estimate(-30.0), "correct": estimate(0.5)}
    minus = {} if residual is None else {"cfg": {"residual": estimate(residual), "correct": estimate(correct)}}
    return Row(name, f"scale=3 {name}", "emag" in name, 500, 500, None, cost, values, minus, **more)


RESULTS = Results("cfg", {"model": {"id": "shapes"}, "seed": 8, "steps": 28, "prompts": 10}, {"cpu": "a CPU"}, METRICS, (
    row("cfg", 100.0), row("free", 100.0, -1.0, 0.0), row("emag", 124.0, -1.5, 0.2), row("dear", 200.0, -1.2, 0.3),
    row("bad", 130.0, 2.0, 0.0), row("short", 60.0, 0.05, -0.02), row("uncounted", None, -5.0, 0.4)))


def test_gains_are_signed_so_that_more_is_better():
    found = {one.row.name: one for one in gains_of(RESULTS)}
    assert asked(RESULTS) == ["correct", "residual"] and "uncounted" not in found and "cfg" not in found
    free = found["free"].by["residual"]
    assert (free.value, free.low, free.high) == (1.0, 0.9, 1.1) and found["bad"].by["residual"].value == -2.0
    assert found["emag"].more == pytest.approx(0.24) and found["short"].more == pytest.approx(-0.4)
    assert found["bad"].worse("residual") and found["emag"].better("correct") and not found["short"].clear


def test_the_front_is_what_nothing_beats_for_as_little():
    rng = np.random.default_rng(3)
    for _ in range(50):
        found = [Gain(row(f"m{at}", 1.0), float(more), {"correct": estimate(float(gain))})
                 for at, (more, gain) in enumerate(zip(rng.choice([-0.3, 0.0, 0.2, 0.5], 9), rng.normal(0, 1, 9).round(1)))]
        points = [(0.0, 0.0), *((one.more, one.by["correct"].value) for one in found)]
        wanted = [one.row.name for one, here in zip(found, points[1:])
                  if not any(other[0] <= here[0] and other[1] >= here[1] and other != here for other in points)]
        assert [one.row.name for one in on_front(found, "correct")] == wanted


def test_what_it_says_in_short_follows():
    free, paid, fewer, emag = short(RESULTS, "results/shapes.md")[1:5]
    assert "`free` (residual +1.00)" in free and "emag" not in free
    assert "`emag` (correct +0.20, residual +1.50; +24%)" in paid and "`dear`" in paid and "bad" not in paid
    assert fewer.endswith(": `short` (-40%).") and emag.endswith("clearly better: `emag +24%`.")


def test_models_are_compared_by_the_recipes_that_all_have():
    other = replace(RESULTS, run={**RESULTS.run, "model": {"id": "other"}}, rows=RESULTS.rows[:4])
    page = markdown({"a.md": RESULTS, "b.md": other}, {})
    table = page.split("## On all models")[1]
    assert "`free`" in table and "`emag`" in table and "`dear`" in table and "`bad`" not in table
    assert "shapes: correct | shapes: residual | other: correct" in table
    assert "## On all models" not in markdown({"a.md": RESULTS}, {})


def test_a_model_may_have_two_pages_of_different_recipes():
    first, second = replace(RESULTS, rows=RESULTS.rows[:3]), replace(RESULTS, rows=(RESULTS.rows[0], *RESULTS.rows[3:]))
    other = replace(RESULTS, run={**RESULTS.run, "model": {"id": "other"}})
    page = markdown({"a.md": first, "b.md": second, "c.md": other}, {})
    assert page.count("\n## ") == 5 and "\n## a\n" in page and "\n## b\n" in page
    table = page.split("## On all models")[1]
    assert "`free`" in table and "`bad`" in table and "| recipe | shapes: correct | shapes: residual | other" in table
    check_once([first, second, other])
    with pytest.raises(BadValue, match="recipe free of a model is in two"):
        check_once([first, RESULTS])


def test_a_page_for_each_set_of_numbers_and_each_recipe_once(run, tmp_path):
    (tmp_path / "shapes.json").write_text(to_json(RESULTS))
    code, text, error = run("worth", tmp_path / "shapes.json", "--out", tmp_path / "worth.md")
    assert code == 0 and "worth-shapes.png" in text, error
    assert (tmp_path / "worth-shapes.png").stat().st_size > 10_000
    page = (tmp_path / "worth.md").read_text()
    assert "![Gain over cfg against further evaluations](worth-shapes.png)" in page and "[shapes](shapes.md)" in page
    (tmp_path / "again.json").write_text(to_json(RESULTS))
    with pytest.raises(BadValue, match="in two of the files"):
        write_worth([tmp_path / "shapes.json", tmp_path / "again.json"], tmp_path / "worth.md")
    assert run("worth", tmp_path / "nothing.json", "--out", tmp_path / "worth.md")[0] == 2


def test_the_stored_page_follows_from_the_stored_numbers(tmp_path):
    found = {f"results/{one.stem}.md": read(one) for one in SOURCES}
    pictures = {at: f"worth-{Path(at).stem}.png" for at in found}
    assert (ROOT / "docs/worth.md").read_text() == markdown(found, pictures)
    assert all((ROOT / "docs" / name).exists() for name in pictures.values())


def test_every_recipe_of_a_model_is_in_its_table():
    for results in map(read, SOURCES):
        gains = gains_of(results)
        assert len(gains) == len(results.compared) - 1
        for a, b in itertools.pairwise(gains):
            assert round(a.more, 3) <= round(b.more, 3)
