"""Runs of a world, judged: measures with known answers, exact tests, the page that follows, and the same bytes again."""

import hashlib
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from PIL import Image
from scipy import stats

from emag.errors import BadValue
from emag.lab.draw.columns import Column, Outcome
from emag.lab.evaluate import run as running
from emag.lab.evaluate import work
from emag.lab.evaluate.folder import RunFolder
from emag.lab.evaluate.metrics import measure, stored
from emag.lab.evaluate.metrics.paired import holm, p_of_interval, paired_p
from emag.lab.evaluate.prompts import of_world
from emag.lab.evaluate.results.as_json import from_data, to_json
from emag.lab.evaluate.results.collect import collect
from emag.lab.evaluate.results.numbers import Question
from emag.lab.evaluate.results.page import markdown
from emag.lab.evaluate.results.write import read_questions, write
from emag.lab.evaluate.spec import parse
from emag.lab.evaluate.truth import compare
from emag.models.patches import PatchAutoencoder
from emag.models.phrases import PhraseEncoder
from emag.models.shapes import ShapesPipeline
from emag.worlds.shapes import place, read, render, to_bytes
from emag.worlds.shapes.draw import PLANS

ROOT = Path(__file__).parents[2]
SPEC = {"model": "shapes", "prompts": {"world": "shapes", "count": 60}, "images": 60, "steps": 2, "batch_size": 20,
        "recipes": {"none": {"guidance_scale": 1}, "cfg": {"guidance_scale": 3}, "cfg-3": {"guidance_scale": 3, "steps": 3},
                    "emag": {"guidance_scale": 3, "rules": [{"pag": {"scale": 1.5}}]}}}
SPOILT = {"none": 2, "cfg": 3, "cfg-3": 4, "emag": 5}
COST = {"none": 12, "cfg": 24, "cfg-3": 36, "emag": 34}


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    network = SD3Transformer2DModel(sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8,
                                    num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=16,
                                    pooled_projection_dim=64, out_channels=4, pos_embed_max_size=8)
    made = ShapesPipeline.build(network, PhraseEncoder(), PatchAutoencoder())
    made.set_progress_bar_config(disable=True)
    return made


def scene(task, recipe):
    """A true scene of the prompt; of every few numbers, a blank one. Its noise depends on the recipe."""
    image = render([place(read(task.prompt.text), np.random.default_rng([1, task.number]))])[0]
    if task.number % SPOILT[recipe] == 0:
        image = np.full_like(image, 0.06)
    noise = 0.01 * SPOILT[recipe] * np.random.default_rng([2, task.number]).standard_normal(image.shape)
    return Image.fromarray(to_bytes((image + noise)[None])[0])


def drawn(folder, pipe, batch, tasks):
    images = tuple(scene(one, batch.recipe) for one in tasks)
    return Outcome(folder.recipe_of(batch.recipe), images, tuple({} for _ in images), (), COST[batch.recipe], 1.0)


@pytest.fixture
def made(pipe, monkeypatch):
    monkeypatch.setattr(running, "open_model", lambda model, device=None: pipe)
    monkeypatch.setattr(work, "draw", drawn)
    return lambda out, **changes: running.run(parse({**SPEC, **changes}), str(out))


@pytest.fixture
def judged(made, tmp_path):
    folder = made(tmp_path / "run")
    bases = ["cfg", "cfg-3", "none"]
    stored.add(folder, measure.measure(folder, measure.plan(["judge"]), against=bases))
    return folder


def values(folder, against=None):
    return {(one.recipe, one.metric): one for one in stored.read(folder) if one.against == against}


@pytest.mark.slow
def test_the_judge_counts_what_was_spoilt(judged):
    found = values(judged)
    for name, every in SPOILT.items():
        assert found[name, "correct"].value == pytest.approx(1 - len(range(0, 60, every)) / 60)
    assert found["none", "residual"].value < found["cfg", "residual"].value < found["emag", "residual"].value
    asked = sum(read(one.text).relation is not None for one in judged.prompts)
    right = sum(read(one.text).relation is not None for i, one in enumerate(judged.prompts) if i % 3)
    assert 0 < asked < 60 and found["cfg", "correct-relation"].value == pytest.approx(right / asked)


@pytest.mark.slow
def test_a_difference_has_the_p_of_an_exact_test(judged):
    one = values(judged, "cfg")["emag", "correct"]
    mended = sum(i % 3 == 0 and i % 5 != 0 for i in range(60))
    broken = sum(i % 5 == 0 and i % 3 != 0 for i in range(60))
    assert one.value == pytest.approx((mended - broken) / 60)
    assert one.p == pytest.approx(stats.binomtest(mended, mended + broken).pvalue)


@pytest.mark.parametrize(("mended", "broken"), product((0, 1, 3, 5), (0, 2, 4)))
def test_mcnemar_is_the_share_of_sign_flips_that_are_as_far(mended, broken):
    a = np.array([True] * mended + [False] * broken + [True] * 3)
    b = np.array([False] * mended + [True] * broken + [True] * 3)
    signs = list(product((-1, 1), repeat=mended + broken))
    far = sum(abs(sum(one)) >= abs(mended - broken) for one in signs) / len(signs)
    assert paired_p(a, b) == pytest.approx(far)


def test_p_of_numbers_and_of_intervals():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(50), rng.standard_normal(50) + 0.3
    assert paired_p(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue) and paired_p(a, a) == 1
    assert paired_p(np.append(a, np.nan), np.append(b, 1.0)) == pytest.approx(paired_p(a, b)) and paired_p(a + 1, a) < 1e-9
    assert p_of_interval(1.96, 0, 3.92) == pytest.approx(0.05, abs=1e-4) and p_of_interval(0, -1, 1) == 1
    assert p_of_interval(1.0, 0.0, 2.0) == pytest.approx(p_of_interval(-1.0, -2.0, 0.0))
    assert p_of_interval(1.0, 1.0, 1.0) == 1 and NormalDist().cdf(-1.96) * 2 == pytest.approx(0.05, abs=1e-4)


def test_corrected_p_keeps_false_alarms_below_the_level():
    rng = np.random.default_rng(1)
    alarms = [min(holm(rng.random(30).tolist())) < 0.05 for _ in range(2000)]
    assert 0.03 < np.mean(alarms) < 0.065


@pytest.mark.slow
def test_a_clear_difference_is_clear_after_the_correction_too(judged):
    results = collect([judged.url])
    row = next(one for one in results.rows if one.name == "emag")
    p = results.corrected["emag", "cfg", "correct"]
    assert p >= row.minus["cfg"]["correct"].p
    assert results.clear(row, "cfg", "correct") == (p < 0.05 and row.minus["cfg"]["correct"].low > 0)
    found = row.minus["cfg"]
    alone = replace(results, rows=(results.base, replace(row, minus={"cfg": {"correct": found["correct"]}})))
    assert alone.corrected["emag", "cfg", "correct"] == found["correct"].p
    pair = replace(row, minus={"cfg": {name: found[name] for name in ("correct", "residual")}})
    both = replace(results, rows=(results.base, pair)).corrected  # metrics count as recipes do
    assert both["emag", "cfg", "residual"] == min(1, 2 * found["residual"].p)


@pytest.mark.slow
def test_a_recipe_is_held_against_as_many_evaluations(judged):
    results = collect([judged.url])
    rows = {one.name: one for one in results.rows}
    assert results.as_costly(rows["emag"]) is rows["cfg-3"] and results.as_costly(rows["none"]) is rows["cfg"]
    assert results.as_costly(rows["cfg-3"]) is None and rows["cfg-3"].steps == 3
    assert replace(results, rows=(rows["cfg"], rows["emag"])).as_costly(rows["emag"]) is None


def page_of(folder, out):
    asked = (Question("Does it help?", (("emag", "cfg"), ("emag", "cfg-3")), ("correct",)),)
    results = collect([folder.url], questions=asked, changes="emag", again=("make it",))
    write(results, out / "shapes.md", [folder.url])
    return results


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
            if path.suffix in (".md", ".json", ".png")}


@pytest.mark.slow
def test_the_page_answers_and_follows_from_its_numbers(judged, tmp_path):
    results = page_of(judged, tmp_path)
    again = from_data(json.loads(to_json(results)))
    assert again == results and markdown(again, "shapes") == (tmp_path / "shapes.md").read_text()
    text = markdown(results, "shapes")
    for part in ("# Results: shapes", "**Does it help?**", "- `emag` against `cfg-3`: correct", "## The same evaluations",
                 "## Gain for each evaluation", "## Diversity", "## Mended and broken", "shapes-changed.png"):
        assert part in text
    assert Image.open(tmp_path / "shapes-changed.png").height > 1000


@pytest.mark.slow
def test_diversity_on_the_page_is_that_of_the_images(judged):
    results = collect([judged.url])
    world = {one.name: one.world for one in results.rows}["cfg"]
    images = np.stack([np.asarray(judged.image("cfg", number)) for number in range(60)])
    true = compare(images, [one.text for one in judged.spec.prompts])
    assert (world.right, world.frechet) == (40, pytest.approx(true.frechet, rel=1e-3))
    assert world.spread == pytest.approx([one.spread for one in true.differences[:3]], rel=1e-3)
    assert (world.precision, world.recall) == (pytest.approx(true.precision, rel=1e-3), pytest.approx(true.recall, rel=1e-3))
    line = f"| `cfg` | 40 | {' | '.join(f'{x:.2f}' for x in world.spread)} | {true.frechet:.2f} |"
    assert line in markdown(results)
    few = replace(results, rows=tuple(replace(one, world=None) for one in results.rows))
    assert "## Diversity" not in markdown(few)  # too few right images to tell


@pytest.mark.slow
def test_mended_and_broken_are_the_first_by_number(judged, tmp_path):
    found = page_of(judged, tmp_path).changed
    mended = [i for i in range(60) if i % 3 == 0 and i % 5]
    assert found.mended == len(mended) and found.shown[0] == tuple(mended[:10])
    assert found.shown[1] == tuple(i for i in range(60) if i % 5 == 0 and i % 3)[:10]


@pytest.mark.long
def test_judged_twice_and_after_kills_the_bytes_are_the_same(made, judged, tmp_path, monkeypatch):
    left = iter(range(1, 100))

    def killed(folder, pipe, batch, tasks):
        if next(left) % 3 == 0:
            raise KeyboardInterrupt
        return drawn(folder, pipe, batch, tasks)

    monkeypatch.setattr(work, "draw", killed)
    for _ in range(20):
        try:
            made(tmp_path / "killed")
            break
        except KeyboardInterrupt:
            continue
    folder = RunFolder(str(tmp_path / "killed"))
    assert not any(folder.missing().values())
    for _ in range(2):
        stored.add(folder, measure.measure(folder, measure.plan(["judge"]), against=["cfg", "cfg-3", "none"]))
    for name, one in (("a", judged), ("b", folder)):
        (tmp_path / name).mkdir()
        page_of(one, tmp_path / name)
    assert folder.storage.read("metrics.json") == judged.storage.read("metrics.json")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


# prompts and steps in specs


def test_prompts_of_a_world_are_decided_by_the_seed():
    first = of_world("shapes", 50, 3)
    assert first == of_world("shapes", 80, 3)[:50] and first != of_world("shapes", 50, 4)
    assert {one.category for one in of_world("shapes", 400, 1)} == set(PLANS)
    assert parse({**SPEC, "seed": 3}).prompts[:50] == first


@pytest.mark.parametrize(("prompts", "says"), [
    ({"world": "cubes", "count": 3}, "no world 'cubes'"), ({"world": "shapes"}, "prompts count"),
    ({"world": "shapes", "count": 0}, "1 to 100000"), ({"world": "shapes", "count": 3, "file": "a"}, "file")])
def test_prompts_of_no_world_are_refused(prompts, says):
    with pytest.raises(BadValue, match=says):
        parse({**SPEC, "prompts": prompts})


def test_a_recipe_may_take_more_steps(pipe):
    from emag.lab.draw.columns import run as draw_column
    from emag.lab.draw.sampling import DrawSettings, Job

    column = Column.parse("steps=4 scale=3")
    outcome = draw_column(pipe, column, [Job("a red ring", None, 1)], DrawSettings(2), 1)
    assert outcome.evaluations == 2 * 2 * 4 and outcome.records[0]["call"]["num_inference_steps"] == 4
    assert parse(parse(SPEC).as_data(), ()).recipe("cfg-3").steps == 3
    for text, says in (("steps=x", "write steps=40"), ("steps=0", "at least 1")):
        with pytest.raises(BadValue, match=says):
            Column.parse(text)
    with pytest.raises(BadValue, match="has steps and a steps in its rules"):
        parse({**SPEC, "recipes": {"a": {"steps": 3, "rules": "steps=4 scale=2"}}})


def test_the_questions_of_the_page_name_recipes_of_its_sweep():
    import yaml

    recipes = yaml.safe_load((ROOT / "bench/shapes_sweep.yaml").read_text())["recipes"]
    asked = read_questions(ROOT / "bench/shapes_questions.yaml")
    assert {name for one in asked for pair in one.pairs for name in pair} <= set(recipes)


@pytest.mark.slow
def test_questions_that_cannot_be_answered_are_refused(judged, tmp_path):
    with pytest.raises(BadValue, match="no recipe apg"):
        collect([judged.url], questions=(Question("?", (("apg", "cfg"),), ("correct",)),))
    (tmp_path / "q.yaml").write_text("- what\n")
    with pytest.raises(BadValue, match="questions are a list"):
        read_questions(tmp_path / "q.yaml")


@pytest.mark.slow
def test_the_commands_measure_and_write_the_page(made, run, tmp_path):
    made(tmp_path / "run")
    line = ("metrics", tmp_path / "run", "--against", "cfg", "--against", "cfg-3", "--json")
    code, out, error = run(*line)  # a world's prompts are judged unless other metrics are named
    assert code == 0, error
    found = {(one["metric"], one["against"]) for one in json.loads(out)}
    assert {("correct", None), ("correct", "cfg"), ("residual", "cfg-3")} <= found
    (tmp_path / "q.yaml").write_text('- {question: "Is it?", pairs: [[emag, cfg]], metrics: [correct]}\n')
    code, out, error = run("results", tmp_path / "run", "-o", tmp_path / "pages/shapes.md", "--changes", "emag",
                           "--questions", tmp_path / "q.yaml", "--index", tmp_path / "list.md")
    assert code == 0, error
    assert "[shapes](pages/shapes.md)" in (tmp_path / "list.md").read_text()
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {f"shapes{end}" for end in (".md", ".json", ".png",
                                                                                                "-changed.png")}
    code, _, error = run("results", tmp_path / "run", "-o", tmp_path / "b.md", "--changes", "apg")
    assert code == 2 and "no recipe apg" in error and not (tmp_path / "b.md").exists()
