"""What a spec means, and which image gets what."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import emag as library
from emag.errors import BadValue
from emag.lab.evaluate import prompts
from emag.lab.evaluate.spec import parse, read_spec
from emag.lab.evaluate.tasks import Batch, batches, seed_of, task
from running import SMALL

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "prompts"
ISSUE = """
model: tiny
prompts: {file: prompts.txt}
images: 64
seed: 8
steps: 28
batch_size: 16
recipes:
  cfg: {guidance_scale: 2.5}
  emag: {guidance_scale: 2.5, rules: [{emag: {scale: 1.5}}]}
out: runs/first
"""


# the spec


def test_the_spec_of_the_issue(tmp_path):
    (tmp_path / "spec.yaml").write_text(ISSUE)
    (tmp_path / "prompts.txt").write_text("a frog\n\na ship\n")
    spec = read_spec(tmp_path / "spec.yaml")
    assert [one.text for one in spec.prompts] == ["a frog", "a ship"]
    assert (spec.total, spec.seed, spec.steps, spec.batch_size, spec.out) == (64, 8, 28, 16, "runs/first")
    assert [column.scale for column in spec.recipes] == [2.5, 2.5]
    assert spec.recipe("emag").rules == (library.EMAG(1.5),)


@pytest.mark.parametrize(("model", "counted"), [("tiny", {"images": 7}),
                                                ({"id": "tiny", "dtype": "bfloat16"}, {"per_prompt": 2})])
def test_other_images_and_another_device(tmp_path, model, counted):
    data = {"model": model, "classes": ["frog", "ship"], "steps": 2, "recipes": {"plain": {}}, **counted}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(data))
    spec, plain = read_spec(tmp_path / "spec.yaml", 3, "cpu"), read_spec(tmp_path / "spec.yaml")
    assert spec.total == 3 and spec.model == replace(plain.model, device="cpu")
    assert plain.total == (7 if "images" in counted else 4) and plain.model.device is None


def test_a_recipe_in_any_of_its_forms():
    forms = {"data": {"rules": [{"emag": {}}, {"cfg": {}}]}, "texts": {"rules": ["emag", "cfg"]}, "named": "emag+cfg",
             "short": "emag cfg", "empty": {"rules": [{"emag": None}, {"cfg": None}]}}
    spec = parse({**SMALL, "recipes": forms})
    assert {column.rules for column in spec.recipes} == {library.recipes["emag+cfg"].rules}
    sampled = parse({**SMALL, "recipes": {"a": "scale=2 pcg", "b": {"guidance_scale": 2, "sampler": [{"pcg": {}}]}}})
    assert replace(sampled.recipes[0], label="b") == sampled.recipes[1]
    assert sampled.recipes[1].own_loop


def test_a_spec_round_trips():
    given = {**SMALL, "model": {"id": "tiny", "dtype": "bfloat16"}, "negative": "a dog", "seed": 3, "height": 32,
             "recipes": {"a": {"rules": "emag=1.5,variant=map apg=4"}, "b": {"guidance_scale": 2, "sampler": ["pcg"]}}}
    spec = parse(given)
    again = parse(json.loads(json.dumps(spec.as_data())), spec.prompts)
    assert again == spec


@pytest.mark.parametrize(("change", "message"), [
    ({"recipe": {}}, "did you mean 'recipes'"),
    ({"batchsize": 3}, "did you mean 'batch_size'"),
    ({"recipes": {}}, "needs recipes"),
    ({"recipes": {"a/b": None}}, "names a folder"),
    ({"recipes": {"a": {"rule": []}}}, "did you mean 'rules'"),
    ({"recipes": {"a": {"rules": [{"emagg": {}}]}}}, "recipe a: there is no method 'emagg'"),
    ({"recipes": {"a": {"guidance_scale": 2, "rules": "scale=3 emag"}}}, "keep one"),
    ({"recipes": {"a": {"sampler": ["euler", "unipc"]}}}, "2 solvers"),
    ({"prompts": ["a frog"]}, "both prompts and classes"),
    ({"classes": None}, "needs prompts or classes"),
    ({"per_prompt": 2}, "both images and per_prompt"),
    ({"images": 0}, "images must be at least 1"),
    ({"images": "5"}, "it is a whole number"),
    ({"steps": 0}, "steps must be at least 1"),
    ({"seed": -1}, "seed must be"),
    ({"engine": "spark"}, "local or ray"),
    ({"model": {"name": "tiny"}}, "spec model has no key 'name'"),
    ({"classes": []}, "not empty, or all"),
    ({"classes": None, "prompts": {"file": "none.txt"}}, "cannot read the prompts in none.txt"),
    ({"classes": None, "prompts": {"files": "none.txt"}}, "did you mean 'file'"),
])
def test_bad_specs(change, message):
    with pytest.raises(BadValue, match=message):
        parse({**SMALL, **change})


def test_prompts_from_every_kind_of_file(tmp_path):
    rows = [{"prompt": "a frog, green", "tag": "x"}, {"prompt": "a ship", "tag": "y"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.csv").write_text('Prompt,Tag\n"a frog, green",x\na ship,y\n')
    (tmp_path / "a.tsv").write_text("Tag\tCAPTION\nx\ta frog, green\ny\ta ship\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = [prompts.read_prompts(str(tmp_path / f"a.{kind}")) for kind in ("jsonl", "csv", "tsv", "parquet")]
    assert set(read) == {(prompts.Prompt("a frog, green", "x"), prompts.Prompt("a ship", "y"))}
    (tmp_path / "a.txt").write_text("a frog, green\n\na ship\n")
    assert [one.text for one in prompts.read_prompts("a.txt", beside=tmp_path)] == ["a frog, green", "a ship"]
    assert len(prompts.read_prompts(str(tmp_path / "a.csv"), column="Tag", limit=1)) == 1
    with pytest.raises(BadValue, match="no column 'Text'; it has Prompt, Tag"):
        prompts.read_prompts(str(tmp_path / "a.csv"), column="Text")
    with pytest.raises(BadValue, match="limit must be 1 to 2"):
        prompts.read_prompts(str(tmp_path / "a.csv"), limit=3)


@pytest.mark.skipif(not DATA.is_dir(), reason="published prompts are not here")
@pytest.mark.parametrize(("name", "count", "categories"), [("parti_prompts.tsv", 1632, 12), ("geneval.jsonl", 553, 6)])
def test_published_prompts(name, count, categories):
    found = prompts.read_prompts(str(DATA / name))
    assert len(found) == count
    assert len({one.category for one in found} - {None}) == categories


# which image gets what


def test_images_are_spread_evenly_and_more_images_change_none():
    spec = parse(SMALL)
    first, more = [[task(replace(spec, images=n), i) for i in range(n)] for n in (5, 11)]
    assert more[:5] == first
    counts = [sum(one.prompt == prompt for one in more) for prompt in spec.prompts]
    assert max(counts) - min(counts) <= 1
    assert parse({**SMALL, "images": None, "per_prompt": 4}).total == 12


def test_seeds():
    seeds = {seed_of(8, number) for number in range(5000)}
    assert len(seeds | {seed_of(9, number) for number in range(5000)}) == 10000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert np.std([seed / 2**63 for seed in seeds]) == pytest.approx(12**-0.5, rel=0.05)
    assert seed_of(8, 0) == 1312343756135687965  # an image stays the same from version to version


def test_a_resumed_run_makes_the_batches_of_an_undisturbed_one():
    spec = parse({**SMALL, "images": 23, "batch_size": 4})
    everything = {name: list(range(23)) for name in ("cfg", "pag")}
    whole = batches(spec, everything)
    assert sorted((b.recipe, n) for b in whole for n in b.numbers) == sorted((r, n) for r in everything for n in range(23))
    assert whole[:2] == [Batch("cfg", (0, 1, 2, 3)), Batch("pag", (0, 1, 2, 3))]
    rng = np.random.default_rng(0)
    for _ in range(20):
        done = [batch for batch in whole if rng.random() < 0.5]
        left = {name: [n for n in numbers if not any(name == b.recipe and n in b.numbers for b in done)]
                for name, numbers in everything.items()}
        assert batches(spec, left) == [batch for batch in whole if batch not in done]
