"""Run folders: what the index holds, and what is added to it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emag.errors import BadValue, EmagError
from emag.lab.draw import columns
from emag.lab.evaluate import check
from emag.lab.evaluate import run as running
from emag.lab.evaluate.folder import INDEX
from emag.lab.evaluate.spec import parse
from emag.lab.evaluate.tasks import seed_of, task
from emag.lab.evaluate.verify import verify
from running import SMALL, bytes_of, made
from tiny import dit

pytestmark = pytest.mark.usefixtures("loaded")


# the folder


@pytest.mark.slow
def test_what_the_index_holds(finished, pipe):
    table = finished.index()
    assert table.schema == INDEX
    assert finished.index("pag")["number"].to_pylist() == list(range(5))
    rows = finished.index("pag").to_pylist()
    assert [row["class"] for row in rows] == ["frog", "ship", "cat", "frog", "ship"]
    assert rows[1]["prompt"] == "a photo of a ship"
    assert [row["seed"] for row in rows] == [seed_of(8, number) for number in range(5)]
    assert [row["evaluations"] for row in finished.index("cfg").to_pylist()] == [2 * 2 * 8] * 5
    assert json.loads(rows[0]["versions"]) == finished.run["versions"]
    assert not verify(finished)
    assert finished.missing() == {"cfg": [], "pag": []}
    assert finished.recipe_of("pag").rules[0].scale == 1.5
    with pytest.raises(BadValue, match=r"no recipe 'apg'; .*cfg, pag"):
        finished.index("apg")


def test_a_spec_can_be_run_for_some_of_its_recipes():
    spec = parse({**SMALL, "recipes": {"none": {"guidance_scale": 1}, "cfg": {}, "pag": {"rules": ["pag=1.5"]}}})
    assert [one.label for one in spec.only(["pag", "none"]).recipes] == ["none", "pag"]  # in the spec's order
    assert spec.only(()) == spec
    with pytest.raises(BadValue, match=r"no recipe 'pog'; .*pag"):
        spec.only(["cfg", "pog"])


def test_images_in_order(finished):
    stacks = list(finished.images("cfg", batch=2))
    assert [len(stack) for stack in stacks] == [2, 2, 1]
    every = np.concatenate(stacks)
    assert every.dtype == np.uint8 and every.shape == (5, 32, 32, 3)
    for number in range(5):
        assert (np.asarray(finished.image("cfg", number)) == every[number]).all()
    assert len(np.concatenate(list(finished.images("cfg", limit=3)))) == 3
    held = Image.open(Path(finished.url) / "images" / "cfg" / "000003.png")
    assert json.loads(held.text["emag-run"]) == {"recipe": "cfg", "run": finished.run["run"], "number": 3,
                                                 "seed": seed_of(8, 3)}


def test_an_image_is_the_one_made_alone(finished, pipe):
    one = task(finished.spec, 3)
    alone = columns.run(pipe, finished.recipe_of("pag"), [one.job], finished.spec.settings, 1).images[0]
    levels = np.abs(np.asarray(alone, dtype=int) - np.asarray(finished.image("pag", 3), dtype=int))
    assert levels.mean() <= 1
    other = np.abs(np.asarray(alone, dtype=int) - np.asarray(finished.image("cfg", 3), dtype=int))
    assert other.mean() > levels.mean()


@pytest.mark.slow
def test_batches_of_one_and_of_seven_agree(pipe, tmp_path):
    ones, sevens = (made(tmp_path / str(size), images=7, batch_size=size) for size in (1, 7))
    for name in ones.recipes():
        a, b = (next(run.images(name)).astype(int) for run in (ones, sevens))
        assert np.abs(a - b).mean() <= 1


def test_picks(pipe, tmp_path):
    row = made(tmp_path, images=2, steps=8, recipes={"emag": {"guidance_scale": 2.5, "rules": ["emag=1.5"]}})
    picks = row.index("emag")["picks"].to_pylist()
    assert len(picks[0]) == 8
    assert any(pick is not None for pick in picks[0])


@pytest.mark.slow
def test_picks_are_each_images_own(pipe, tmp_path):
    """Each row of the index holds what its image picks when it is made alone, in batches of three and of two."""
    rules = ["emag=1.5,statistic=cosine,layers=1+2+3+4+5+6"]
    run = made(tmp_path, steps=6, batch_size=3, recipes={"emag": {"guidance_scale": 2.5, "rules": rules}})
    found = run.index("emag")["picks"].to_pylist()
    for number, picks in enumerate(found):
        alone = columns.run(pipe, run.recipe_of("emag"), [task(run.spec, number).job], run.spec.settings, 1).stats[0].picks
        assert picks == [None if row is None else row[0] for row in alone]
    assert len({str(picks) for picks in found[:3]}) == 3 and found[3] != found[4]  # none could stand for another


def test_more_images_and_recipes_are_added(finished, pipe, tmp_path):
    shutil.copytree(finished.url, tmp_path / "more")
    before = bytes_of(finished)
    more = made(tmp_path / "more", images=8, recipes={**SMALL["recipes"], "none": {"guidance_scale": 1}})
    after = bytes_of(more)
    assert len(after) == 3 * 8
    assert {name: after[name] for name in before} == before
    assert not verify(more)
    calls = []
    made(tmp_path / "more", images=8, recipes={**SMALL["recipes"], "none": {"guidance_scale": 1}})
    running.run(parse({**SMALL, "images": 8, "recipes": more.run["spec"]["recipes"]}), str(tmp_path / "more"),
                begun=lambda done, total: calls.append((done, total)) or calls.append)
    assert calls == [(24, 24)]


@pytest.mark.parametrize(("change", "named"), [
    ({"seed": 9}, "seed"), ({"steps": 3}, "steps"), ({"batch_size": 3}, "batch_size"), ({"negative": "a dog"}, "negative"),
    ({"images": 4}, r"images \(fewer than 5\)"), ({"classes": ["frog"]}, "prompts"), ({"height": 32}, "height"),
    ({"recipes": {"cfg": {"guidance_scale": 3}}}, "recipe cfg, recipe pag"), ({"model": {"id": "tiny", "dtype": "bfloat16"}},
                                                                              "model"),
])
def test_another_run_in_the_same_folder_is_refused(finished, pipe, change, named):
    before = bytes_of(finished)
    with pytest.raises(BadValue, match=f"holds another run: {named} differ"):
        made(finished.url, **change)
    assert bytes_of(finished) == before


@pytest.mark.parametrize(("change", "message"), [
    ({"classes": ["frog", "house"]}, "names none of this model's classes"),
    ({"recipes": {"a": "pag=2,layers=40"}}, "recipe a: .*40"),
    ({"recipes": {"ok": None, "a": {"guidance_scale": 1, "rules": ["tcfg", "cfg"]}}}, "recipe a: .*unconditional"),
    ({"recipes": {"a": "rescale=0.7"}}, "recipe a: .*combin"),
    ({"recipes": {"a": "cfg=2 apg=2"}}, "recipe a: .*keep one"),
    ({"recipes": {"a": "cfg=2 fkc,scale=2 reverse-sde"}}, "recipe a: fkc draws all images of a prompt together"),
])
def test_refused_before_any_image(pipe, tmp_path, change, message):
    with pytest.raises(EmagError, match=message):
        made(tmp_path / "run", **change)
    assert not list(tmp_path.iterdir())


def test_class_labels_of_a_class_conditional_model():
    network = dit()
    spec = check.prepared(parse({"classes": "all", "per_prompt": 1, "steps": 2, "recipes": {"a": None}}), network)
    count = network.transformer.config.num_embeds_ada_norm
    assert [one.label for one in spec.prompts] == [str(number) for number in range(count)]
    assert spec.total == count
    with pytest.raises(BadValue, match="one image size"):
        check.prepared(parse({"classes": ["1"], "height": 64, "recipes": {"a": None}}), network)


def test_a_run_behind_a_url(pipe):
    run = made("memory://runs/one", images=2)
    assert not verify(run)
    assert len(run.index()) == 4
    assert bytes_of(made("memory://runs/two", images=2)) == bytes_of(run)


def test_sixteen_bits(tmp_path):
    run = made(tmp_path, model={"id": "tiny", "dtype": "bfloat16"}, images=2, recipes={"emag": "scale=2.5 pag=1.5"})
    assert not verify(run)
    assert run.spec.model.dtype == "bfloat16"
