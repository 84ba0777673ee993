"""Sweeps: open values, trials, fronts, and that a sweep killed at any trial ends as an undisturbed one."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import emag
from emag.errors import BadValue
from emag.lab.evaluate.check import prepared
from emag.lab.evaluate.folder import RunFolder
from emag.lab.evaluate.metrics import reference as stored
from emag.lab.evaluate.metrics.extractors import EXTRACTORS
from emag.lab.evaluate.pareto import front
from emag.lab.evaluate.spec import parse, read_spec
from emag.lab.evaluate.sweep import outcome, search
from emag.lab.evaluate.sweep.search import beaten, sweep
from emag.lab.evaluate.sweep.space import filled, grid, label, opens
from emag.lab.evaluate.sweep.spec import parse_sweep, read_sweep
from emag.lab.evaluate.sweep.study import Optuna, Random, study

ROOT = Path(__file__).parents[2]
SPECS = [one for one in sorted((ROOT / "bench").glob("*.yaml")) if "recipes" in yaml.safe_load(one.read_text())]

OPEN = {"guidance_scale": {"grid": [2.0, 2.5]}, "rules": [{"emag": {"scale": {"low": 1.1, "high": 2.0}, "layers": [2, 3]}}]}
SWEEP = {"model": "tiny", "classes": ["frog", "ship"], "images": 8, "batch_size": 2, "steps": 2, "seed": 3,
         "sweep": {"objectives": ["random-fd", "accuracy"], "select": "random-fd"},
         "recipes": {"none": {"guidance_scale": 1}, "cfg": {"guidance_scale": {"grid": [1.5, 3.0]}}}}


@pytest.fixture(autouse=True)
def known(tmp_path_factory, monkeypatch):
    """The reference of random-fd: features of noise."""
    file = tmp_path_factory.getbasetemp() / "known.npz"
    extractor = EXTRACTORS["random"]("cpu")
    if not file.exists():
        noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
        stored.write(file, extractor(noise, [""] * 40)["features"], extractor.version)
    monkeypatch.setitem(SWEEP["sweep"], "reference", str(file))


def changed(**options):
    return {**SWEEP, "sweep": {**SWEEP["sweep"], **options}}


# the space


def test_open_values_are_found_and_filled_where_they_stand():
    scale, strength = opens(OPEN)
    assert scale.path == ("guidance_scale",) and scale.grid == (2.0, 2.5) and strength.low == 1.1
    point = {scale.path: 2.5, strength.path: 1.5}
    assert filled(OPEN, point) == {"guidance_scale": 2.5, "rules": [{"emag": {"scale": 1.5, "layers": [2, 3]}}]}
    assert label(point) == "guidance_scale=2.5 scale=1.5" and strength.name == "rules.0.emag.scale"
    assert not opens(filled(OPEN, point))


def test_a_grid_is_the_product_of_its_values():
    data = {"a": {"grid": [1, 2]}, "b": [{"c": {"grid": ["x", "y", "z"]}}]}
    found = [(point[("a",)], point[("b", 0, "c")]) for point in grid(data)]
    assert found == list(product([1, 2], "xyz")) and grid({"a": 1}) == [{}]


@pytest.mark.parametrize("value", [{"grid": []}, {"grid": 3}, {"grid": [1], "low": 0}, {"low": 2, "high": 1},
                                   {"low": 0, "high": 1, "log": True}, {"low": "a", "high": 1}])
def test_malformed_open_values_are_refused(value):
    with pytest.raises(BadValue, match=r"scale: a (grid|range) is"):
        opens({"scale": value})


def test_low_and_high_of_a_method_may_be_open_themselves():
    """fa-cfg has two scales of those names: no range, but two grids."""
    bands = {"fa-cfg": {"high": {"grid": [3.0, 6.0]}, "low": {"grid": [2.0, 3.0]}}}
    assert [place.name for place in opens(bands)] == ["fa-cfg.high", "fa-cfg.low"] and len(grid(bands)) == 4


@pytest.mark.parametrize(("data", "said"), [
    ({"recipes": {"cfg": {}}}, "a section such as"),
    (changed(methods="grid"), "methods"),
    (changed(method="best"), "grid, random, optuna"),
    (changed(objectives=["beauty"]), "not beauty"),
    (changed(method="random"), "needs trials"),
    (changed(trials=3), r"3 trials.*cfg \(2\) differ"),
    ({**SWEEP, "recipes": {"emag": OPEN}}, "is a range, and a grid has no end"),
    ({**SWEEP, "recipes": {"emag": {"rules": [{"emag": {"scales": {"grid": [1]}}}]}}}, "recipe emag: emag has no parameter"),
    (changed(reference=None), "random-fd needs a reference"),
    (changed(objectives=["contrast"]), "not contrast"),
])
def test_bad_sweeps_are_refused_before_any_image(data, said, tmp_path):
    with pytest.raises(BadValue, match=said):
        sweep(parse_sweep(data), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "images").exists()


# the front


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12), st.tuples(*[st.booleans()] * 3))
def test_the_front_by_brute_force(points, higher):
    def as_good(a, b):
        return all(x >= y if up else x <= y for x, y, up in zip(a, b, higher))

    wanted = [not any(as_good(q, p) and q != p for q in points) for p in points]
    assert front(np.array(points, float), higher).tolist() == wanted


def test_unknown_values_are_on_no_front():
    assert front(np.array([[1.0, np.nan], [2.0, 2.0]]), [True, True]).tolist() == [False, True]


def test_a_trial_is_given_up_where_half_of_the_earlier_ones_were_better_in_all():
    better, mixed = [2.0, 1.0], [2.0, 3.0]
    assert beaten([1.0, 2.0], [better, better, mixed], [True, False])
    assert not beaten([1.0, 2.0], [better, mixed, mixed], [True, False])
    assert not beaten([1.0, 2.0], [better, better], [True, False])


# studies


@pytest.mark.parametrize("kind", [Random, lambda *a: Optuna(*a, [True]), lambda *a: Optuna(*a, [True, False])])
def test_a_study_proposes_the_same_again(kind):
    def asked(recipe, seed):
        one, found = kind(recipe, opens(OPEN), seed), []
        for number in range(12):
            found.append(one.ask())
            values = [float(number % 4), 1.0]
            one.tell(None if number == 5 else values[:len(one.study.directions)] if hasattr(one, "study") else values)
        return found

    points = asked("emag", 0)
    assert points == asked("emag", 0) != asked("emag", 1) and points != asked("pag", 0)
    assert all(p[("guidance_scale",)] in (2.0, 2.5) and 1.1 <= p[("rules", 0, "emag", "scale")] <= 2.0 for p in points)
    assert len({tuple(p.values()) for p in points}) > 6


# whole sweeps


@pytest.mark.slow
def test_a_grid_is_made_measured_and_chosen_from(tmp_path):
    told = []
    found = sweep(parse_sweep(SWEEP), str(tmp_path), told=lambda trial: told.append(trial.name))
    assert told == ["none.0", "cfg.0", "cfg.1"] == [trial["trial"] for trial in found["trials"]]
    distance = {trial["trial"]: trial["results"]["random-fd"]["value"] for trial in found["trials"]}
    wanted = (max if search.METRICS["random-fd"].higher else min)(("cfg.0", "cfg.1"), key=distance.get)
    assert found["best"] == {"none": "none.0", "cfg": wanted} and found["front"]
    assert json.loads((tmp_path / "sweep.json").read_text()) == found
    folder = RunFolder(str(tmp_path))
    assert not any(folder.missing().values()) and folder.recipe_of("cfg.1").scale == 3.0


@pytest.mark.parametrize("method", [
    pytest.param("random", marks=pytest.mark.slow), pytest.param("optuna", marks=pytest.mark.long)])
def test_a_killed_search_ends_as_an_undisturbed_one(method, tmp_path, monkeypatch):
    data = changed(method=method, trials=5)
    data = {**data, "recipes": {"cfg": {"guidance_scale": {"low": 1.0, "high": 6.0}}}}

    def killed(trial):
        if trial.name == "cfg.2":
            raise KeyboardInterrupt

    spec = parse_sweep(data)
    with pytest.raises(KeyboardInterrupt):
        sweep(spec, str(tmp_path / "a"), told=killed)
    assert not (tmp_path / "a" / "sweep.json").exists()
    resumed, whole = sweep(spec, str(tmp_path / "a")), sweep(spec, str(tmp_path / "b"))
    assert resumed == whole and len(whole["trials"]) == 5
    assert len({trial["setting"] for trial in whole["trials"]}) == 5


@pytest.mark.slow
def test_what_is_given_up_makes_a_quarter_of_its_images(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "beaten", lambda values, early, higher: len(early) == 1)
    data = {**changed(method="optuna", trials=3), "recipes": {"cfg": {"guidance_scale": {"low": 1.0, "high": 6.0}}}}
    found = sweep(parse_sweep(data), str(tmp_path))
    assert [trial["given_up"] for trial in found["trials"]] == [False, True, False]
    assert {name: len(numbers) for name, numbers in RunFolder(str(tmp_path)).missing().items()} == {
        "cfg.0": 0, "cfg.1": 6, "cfg.2": 0}
    assert "cfg.1" not in found["front"] and found["best"]["cfg"] != "cfg.1"
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda axes, x, y, *rest, **more: drawn.append(len(x)))
    outcome.draw(found, tmp_path / "front.png")
    assert drawn == [2, len(found["front"])]  # a distance on fewer images is no match for the others


@pytest.mark.slow
def test_the_command_draws_the_front_and_writes_the_best(run, tmp_path):
    spec, best, plot = tmp_path / "s.yaml", tmp_path / "best.yaml", tmp_path / "front.png"
    spec.write_text(yaml.safe_dump({**SWEEP, "out": str(tmp_path / "out")}))
    code, text, error = run("sweep", spec, "--images", 9, "--device", "cpu", "--best", best, "--plot", plot)
    assert code == 0, error
    assert "cfg.1" in text and plot.stat().st_size > 5000
    made = read_spec(best)
    stored = json.loads((tmp_path / "out" / "sweep.json").read_text())
    chosen = next(trial for trial in stored["trials"] if trial["trial"] == stored["best"]["cfg"])
    assert made.recipe("cfg").scale == chosen["data"]["guidance_scale"] and made.out is None
    again = parse(yaml.safe_load(best.read_text()))
    assert again.total == 9 and again.model.device == "cpu"





@pytest.mark.slow
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_measuring_run_of_the_makefile_is_accepted_to_its_last_recipe(path, monkeypatch):
    """What is refused before an image is made: here before somebody waits for hours that never begin."""
    monkeypatch.chdir(ROOT)
    spec = read_sweep(path) if "sweep" in yaml.safe_load(path.read_text()) else None
    made = read_spec(path) if spec is None else spec.run({
        name: spec.trial(name, study("random", name, opens(data), 0, [True]).ask()) for name, data in spec.recipes.items()})
    assert len(prepared(made, emag.load(made.model.id)).recipes) == len(made.recipes)
