"""The results page: what it says follows from the numbers, and the page from its JSON file alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from emag.errors import BadValue
from emag.lab.draw.columns import Column
from emag.lab.evaluate import run as running
from emag.lab.evaluate.folder import RunFolder
from emag.lab.evaluate.metrics.bootstrap import Estimate
from emag.lab.evaluate.recipes import read_recipe
from emag.lab.evaluate.results import as_json, picture, verdict
from emag.lab.evaluate.results.as_json import from_data, to_json
from emag.lab.evaluate.results.collect import collect, short
from emag.lab.evaluate.results.index import index
from emag.lab.evaluate.results.numbers import Metric, Results, Row
from emag.lab.evaluate.results.page import markdown
from emag.lab.evaluate.results.verdict import Verdict
from emag.lab.evaluate.results.write import results_of, write
from emag.lab.evaluate.spec import parse
from emag.lab.evaluate.sweep.search import sweep as search
from emag.lab.evaluate.sweep.spec import parse_sweep

ROOT = Path(__file__).parents[2]
METRICS = {"fd": Metric("a network", False), "recall": Metric("k=5", True), "accuracy": Metric("a network", True),
           "contrast": Metric("pixels", None)}


def estimates(fd, recall, accuracy, contrast, n=5000, width=0.2):
    counts = {"recall": 10_000}
    given = {"fd": fd, "recall": recall, "accuracy": accuracy, "contrast": contrast}
    return {name: Estimate(x, x - width, x + width, counts.get(name, n)) for name, x in given.items()}


def row(name, fd, recall, accuracy, n=5000, minus=None, **more):
    found = {} if minus is None else {base: estimates(*one, 0.5, n) for base, one in minus.items()}
    return Row(name, f"scale=2 {name}", "emag" in name, n, 5000, Estimate(0.1, 0.09, 0.12, 100), more.pop("cost", 100.0),
               estimates(fd, recall, accuracy, 0.5, n), found, **more)


BASE = row("cfg", 10, 0.5, 0.8)
KNOWN = {
    "better": row("better", 9, 0.5, 0.9, minus={"cfg": (-1, 0.1, 0.1)}),
    "worse": row("worse", 11, 0.5, 0.8, minus={"cfg": (1, -0.1, 0)}),
    "emag+cads": row("emag+cads", 9, 0.1, 0.8, minus={"cfg": (-1, -0.4, 0.19), "cads": (0.1, 0.3, 0)}, cost=130.0),
    "same": row("same", 10.1, 0.5, 0.8, minus={"cfg": (0.1, 0, -0.1)}),
    "short": row("short", 1, 0.9, 1, n=1200, minus={"cfg": (-9, 0.4, 0.2)}),
    "cads": row("cads", 9.5, 0.4, 0.7),
}
RUN = {"model": {"id": "tiny", "dtype": "bfloat16"}, "seed": 8, "steps": 12, "classes": "all", "prompts": 10}
MACHINE = {"cpu": "a CPU", "cores": 2, "system": "Linux", "torch": "2.13"}
RESULTS = Results("cfg", RUN, MACHINE, METRICS, (BASE, *KNOWN.values()))


# verdicts


@pytest.mark.parametrize(("name", "base", "wanted"), [
    ("better", "cfg", Verdict(("fd",), (), ("recall", "accuracy"))),
    ("worse", "cfg", Verdict((), ("fd",), ("recall", "accuracy"))),
    ("emag+cads", "cfg", Verdict(("fd",), ("recall",), ("accuracy",))),
    ("emag+cads", "cads", Verdict(("recall",), (), ("fd", "accuracy"))),
    ("same", "cfg", Verdict((), (), ("fd", "recall", "accuracy"))),
    ("short", "cfg", None), ("cads", "cfg", None), ("better", "cads", None)])
def test_a_difference_is_clear_where_its_interval_leaves_out_zero(name, base, wanted):
    assert verdict.verdict(RESULTS, KNOWN[name], base) == wanted


def test_every_compared_recipe_is_in_one_sentence():
    said = verdict.sentences(RESULTS)
    assert len(said) == 5
    for line, name in zip(said, ("better", "emag+cads", "worse", "same", "cads")):
        assert f"`{name}`" in line and not any(f"`{other}`" in line for other in KNOWN if other != name)
    assert "(1 of 4)" in said[0] and "worse: recall" in said[1]


def test_emag_is_held_against_all_that_it_was_compared_with():
    against_cfg, against_cads = verdict.about_emag(RESULTS)
    assert "better in fd (-1.00 [-1.20, -0.80]); worse in recall (-0.40 [-0.60, -0.20])" in against_cfg
    assert "1.30 times the block evaluations" in against_cfg and "against `cads`: better in recall" in against_cads


def test_others_are_held_against_what_is_not_the_base():
    alone = row("pag-alone", 30, 0.6, 0.4, minus={"cfg": (20, 0.1, -0.4), "none": (-1, 0.1, 0)})
    text = markdown(replace(RESULTS, rows=(BASE, KNOWN["better"], row("none", 31, 0.5, 0.4), alone)))
    assert "### Others, against another recipe\n\n- `pag-alone` against `none`: better in fd" in text
    assert "`better` against" not in text and "`pag-alone` against `cfg`" not in text


def test_a_difference_over_other_images_than_the_values_does_not_count():
    old = replace(KNOWN["better"], minus={"cfg": estimates(-1, 0.1, 0.1, 0, n=3000)})
    assert set(RESULTS.differences(old, "cfg")) == {"recall"}


def test_what_has_fewer_images_is_named_and_compared_with_nothing():
    text = markdown(RESULTS)
    assert RESULTS.images == 5000 and [one.name for one in RESULTS.left_out] == ["short"]
    head, tail = text.split("## Not compared")
    assert "short" not in head and "`short`: 1200 of 5000 images finished, 1200 measured" in tail
    assert "## Not compared" not in markdown(replace(RESULTS, rows=(BASE, KNOWN["better"])))
    assert "short" not in verdict.on_front(RESULTS, ("fd", "accuracy"))


def test_the_front_is_of_values_in_their_directions():
    assert verdict.on_front(RESULTS, ("fd", "accuracy")) == ["better"]
    assert set(verdict.on_front(RESULTS, ("fd", "recall"))) == {"better"}
    assert picture.png(RESULTS)[:4] == b"\x89PNG"


def test_the_picture_shows_the_crowd_again_where_some_are_far_out():
    crowd = [row(f"r{i}", 10 + 0.1 * i, 0.5, 0.8 + 0.01 * i) for i in range(6)]
    assert picture.crowd(replace(RESULTS, rows=(BASE, *crowd)), ("fd", "accuracy")) == {}
    limits = picture.crowd(replace(RESULTS, rows=(BASE, *crowd, row("far", 40, 0.5, 0.3))), ("fd", "accuracy"))
    assert 9 < limits["xlim"][0] < 10 < 10.5 < limits["xlim"][1] < 11 and limits["ylim"][0] > 0.7


@pytest.mark.parametrize(("low", "high", "places"), [(0.09, 0.11, 3), (9, 11, 1), (0, 200, 0), (1, 1, 0), (0.5, 1.5, 2)])
def test_numbers_have_the_digits_that_their_intervals_warrant(low, high, places):
    assert verdict.digits([Estimate((low + high) / 2, low, high, 9)]) == places


def test_intervals_over_reference_images_are_told_from_those_over_images():
    said = "hold the images made"
    assert said in markdown(RESULTS)
    rows = (replace(row, values={name: replace(one, n=row.images) for name, one in row.values.items()})
            for row in RESULTS.rows)
    assert said not in markdown(replace(RESULTS, rows=tuple(rows)))


def test_the_base_must_be_measured():
    with pytest.raises(BadValue, match=r"'pag'.*not measured; measured: cfg, better"):
        replace(RESULTS, against="pag")
    with pytest.raises(BadValue, match="'cfg'"):
        replace(RESULTS, rows=(replace(BASE, values={}), KNOWN["better"]))


# the page as data


def test_results_round_trip():
    full = replace(RESULTS, sweep={"method": "grid", "select": "fd", "trials": 4, "images": 250, "seed": 8},
                   again=("make results",), rows=(replace(BASE, best=False, tried=(("scale=2", 10.5), ("scale=3", 9.5))),
                                                  replace(KNOWN["short"], values={}, seconds=None, evaluations=None)))
    again = from_data(json.loads(to_json(full)))
    assert again == full and to_json(again) == to_json(full) and markdown(again) == markdown(full)
    text = markdown(full)
    assert "`scale=2` 10.5; `scale=3` **9.5**" in text and "`scale=2 cfg` *" in text and "make results\n" in text
    assert "first images of the run" in text and "`short`: 1200 of 5000 images finished, 0 measured" in text


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"format": 2}'])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadValue, match=r"a\.json holds no results of format 1"):
        as_json.read(tmp_path / "a.json")
    with pytest.raises(BadValue, match="cannot read"):
        as_json.read(tmp_path / "b.json")


@pytest.mark.slow
@pytest.mark.parametrize("numbers", sorted((ROOT / "docs" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_the_stored_pages_follow_from_their_numbers(numbers, tmp_path):
    write(results_of([str(numbers)]), tmp_path / f"{numbers.stem}.md")
    for ending in (".md", ".json"):
        assert (tmp_path / numbers.name).with_suffix(ending).read_text() == numbers.with_suffix(ending).read_text()


def test_the_list_of_pages_follows_from_them():
    assert index(ROOT / "docs" / "results") == (ROOT / "docs" / "results.md").read_text()


@pytest.mark.parametrize("data", [{"guidance_scale": 2.5}, {}, {"guidance_scale": 2, "rules": "emag+apg"},
                                  {"guidance_scale": 2, "rules": [{"cads": {"scale": 0.1}}, {"emag": {"variant": "map"}}]},
                                  {"rules": [{"cfg": {"scale": 2.0}}], "sampler": [{"pcg": {}}]}])
def test_a_setting_in_short_is_the_same_recipe(data):
    column = read_recipe("a", data)
    again = Column.parse(f"a: {short(column)}")
    assert again == column


# whole chains


SPEC = {"model": "tiny", "classes": ["frog", "ship"], "images": 8, "batch_size": 4, "steps": 4, "seed": 3,
        "recipes": {"cfg": {"guidance_scale": 3.0}, "emag": {"guidance_scale": 2, "rules": [{"emag": {"scale": 1.5}}]}}}
SWEEP = {**SPEC, "images": 4, "sweep": {"objectives": ["accuracy"], "select": "accuracy"},
         "recipes": {"cfg": {"guidance_scale": {"grid": [1.5, 3.0]}},
                     "emag": {"guidance_scale": 2, "rules": [{"emag": {"scale": {"grid": [1.25, 1.5]}}}]}}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    search(parse_sweep(SWEEP), str(root / "sweep"))
    running.run(parse(SPEC), str(root / "run"))
    return root


@pytest.mark.slow
def test_the_command_makes_the_page_from_folders_and_again_from_its_numbers(run, folders, tmp_path):
    page = folders / "page.md"
    code, _, error = run("results", folders / "run", "--out", page)
    assert code == 2 and "has no metrics.json: give emag metrics" in error
    assert run("metrics", folders / "run", "--metrics", "accuracy,saturation,contrast", "--against", "cfg")[0] == 0
    code, text, error = run("results", folders / "run", folders / "sweep", "-o", page, "--again", "make results")
    assert code == 0 and "page.json" in text, error
    made = as_json.read(folders / "page.json")
    stored = json.loads((folders / "run" / "metrics.json").read_text())
    for one in stored:
        held = next(row for row in made.rows if row.name == one["recipe"])
        found = (held.values if one["against"] is None else held.minus["cfg"])[one["metric"]]
        assert found.value == pytest.approx(one["value"], rel=1e-5) and found.n == one["n"] == 8
    best = json.loads((folders / "sweep" / "sweep.json").read_text())["best"]
    assert [row.best for row in made.rows] == [best["cfg"] == "cfg.1", best["emag"] == "emag.1"]
    assert [[name for name, _ in row.tried] for row in made.rows] == [["scale=1.5", "scale=3"],
                                                                      ["scale=2 emag=1.25", "scale=2 emag=1.5"]]
    index = RunFolder(str(folders / "run")).index("emag")
    assert made.rows[1].evaluations == index["evaluations"][0].as_py() and made.rows[1].emag and not made.rows[0].emag
    assert made.rows[0].seconds.n == 2 and made.rows[0].images == 8
    assert run("results", folders / "page.json", "-o", tmp_path / "page.md")[0] == 0
    assert (tmp_path / "page.md").read_bytes() == page.read_bytes()
    assert str(folders) not in page.read_text()


def test_runs_that_cannot_stand_in_one_table_are_refused(folders, tmp_path):
    other = tmp_path / "other"
    running.run(parse({**SPEC, "seed": 4, "recipes": {"none": {"guidance_scale": 1}}}), str(other))
    with pytest.raises(BadValue, match="differ in seed"):
        collect([str(folders / "run"), str(other)])
    with pytest.raises(BadValue, match="at most one folder of a sweep; got 0 and 1"):
        collect([str(folders / "sweep")])
    with pytest.raises(BadValue, match="give it alone"):
        results_of(["a.json", str(other)])


def test_the_page_is_markdown(run, folders):
    assert "Markdown file" in run("results", folders / "run", "--out", "a.html")[2]


def test_the_yaml_of_the_stored_run_is_a_spec():
    path = ROOT / "bench" / "results.yaml"
    if path.exists():
        assert parse(yaml.safe_load(path.read_text())).total >= 5000
