"""Runs: what a spec means, which image gets what, what the folder holds, and what `emag run` and `emag verify` say."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import emag as library
from emag import columns
from emag.errors import BadValue, EmagError
from emag.evaluate import check, prompts, work
from emag.evaluate import run as running
from emag.evaluate.folder import INDEX, RunFolder
from emag.evaluate.spec import parse, read_spec
from emag.evaluate.tasks import Batch, batches, seed_of, task
from emag.evaluate.verify import repair, verify
from test_cli import emag
from tiny import dit

DATA = Path(__file__).parents[1] / ".." / "shared" / "data" / "prompts"
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
SMALL = {"classes": ["frog", "ship", "cat"], "images": 5, "steps": 2, "batch_size": 2,
         "recipes": {"cfg": {"guidance_scale": 2.5}, "pag": {"guidance_scale": 2.5, "rules": [{"pag": {"scale": 1.5}}]}}}


@pytest.fixture(scope="module")
def pipe():
    loaded = library.load("tiny", device="cpu")
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(autouse=True)
def loaded(request, monkeypatch):
    """The model is loaded once for all runs of this file, where a test asks for no other."""
    if "pipe" in request.fixturenames:
        monkeypatch.setattr(running, "open_model", lambda model, device=None: request.getfixturevalue("pipe"))


def made(out, **changes):
    return running.run(parse({**SMALL, **changes}), str(out))


def bytes_of(folder):
    return {row["file"]: folder.storage.read(row["file"]) for row in folder.index().to_pylist()}


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


# the folder


@pytest.fixture(scope="module")
def finished(pipe, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "open_model", lambda model, device=None: pipe)
        return made(tmp_path_factory.mktemp("runs") / "first")


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


# verify


def _part(run):
    return Path(run.url) / "index" / "cfg" / "000002.parquet"


def _image(run):
    return Path(run.url) / "images" / "cfg" / "000003.png"


def _prompts(run):
    return Path(run.url) / "prompts.parquet"


def _other_prompts(run):
    pq.write_table(pq.read_table(_prompts(run)).slice(1), _prompts(run))


DRAFT = ".emag-4194304-0123456789abcdef.part"  # of a process that there cannot be


def _row(run, **changes):
    rows = pq.read_table(_part(run)).to_pylist()
    pq.write_table(pa.Table.from_pylist([{**rows[0], **changes}, rows[1]], INDEX), _part(run))


DAMAGE = {
    "a part is gone": (lambda run: _part(run).unlink(), "missing"),
    "a part is cut": (lambda run: _part(run).write_bytes(_part(run).read_bytes()[:-100]), "damaged"),
    "a part is no index": (lambda run: pq.write_table(pa.table({"number": [2]}), _part(run)), "damaged"),
    "a part is there twice": (lambda run: shutil.copy(_part(run), _part(run).with_name("000003.parquet")), "doubled"),
    "an image is gone": (lambda run: _image(run).unlink(), "damaged"),
    "an image is cut": (lambda run: _image(run).write_bytes(_image(run).read_bytes()[:-20]), "damaged"),
    "an image is another": (lambda run: shutil.copy(_image(run).with_name("000002.png"), _image(run)), "damaged"),
    "an image is too many": (lambda run: shutil.copy(_image(run), _image(run).with_name("000005.png")), "extra"),
    "a recipe is too many": (lambda run: shutil.copytree(_image(run).parent, _image(run).parents[1] / "apg"), "extra"),
    "a row has another seed": (lambda run: _row(run, seed=1), "differs"),
    "a row has another prompt": (lambda run: _row(run, prompt="a dog"), "differs"),
    "a row has another file": (lambda run: _row(run, file="run.json"), "differs"),
    "a row is out of range": (lambda run: _row(run, number=7), "extra"),
    "a write was interrupted": (lambda run: _image(run).with_name(DRAFT).write_bytes(b"x"), "draft"),
    "the prompts are gone": (lambda run: _prompts(run).unlink(), "damaged"),
    "the prompts are cut": (lambda run: _prompts(run).write_bytes(_prompts(run).read_bytes()[:-100]), "damaged"),
    "the prompts are no list": (lambda run: pq.write_table(pa.table({"text": ["a"]}), _prompts(run)), "damaged"),
    "the prompts are others": (lambda run: _other_prompts(run), "differs"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_mended(finished, pipe, tmp_path, damage):
    shutil.copytree(finished.url, tmp_path / "run")
    run, (harm, kind) = RunFolder(str(tmp_path / "run")), DAMAGE[damage]
    assert not verify(run)
    harm(run)
    run = RunFolder(str(tmp_path / "run"))
    assert kind in {problem.kind for problem in verify(run)}
    assert repair(run, verify(run))[1] == []
    run = RunFolder(str(tmp_path / "run"))
    assert not {problem.kind for problem in verify(run)} - {"missing"} or not _prompts(run).exists()
    run = made(tmp_path / "run")
    assert not verify(run)
    assert bytes_of(run) == bytes_of(finished)


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1")])
def test_damaged_prompts_come_back_from_the_spec_alone(finished, pipe, tmp_path, harm):
    """Without --repair too; not from a spec with others, whose images would be others."""
    shutil.copytree(finished.url, tmp_path / "run")
    before = _prompts(finished).read_bytes()
    harm(tmp_path / "run" / "prompts.parquet")
    with pytest.raises(BadValue, match="the emag run command that began the run writes it again"):
        RunFolder(str(tmp_path / "run")).index()
    with pytest.raises(BadValue, match="prompts differ"):
        made(tmp_path / "run", classes=["frog", "cat", "ship"])
    assert not verify(made(tmp_path / "run"))
    assert (tmp_path / "run" / "prompts.parquet").read_bytes() == before


@pytest.mark.parametrize("change", [{}, {"seed": 9}])
def test_images_that_no_run_json_tells_of_are_not_adopted(finished, pipe, tmp_path, change):
    shutil.copytree(finished.url, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    before = files_of(tmp_path)
    with pytest.raises(BadValue, match=r"has prompts.parquet, images, index and no run\.json"):
        made(tmp_path / "run", **change)
    assert files_of(tmp_path) == before


def test_images_of_a_recipe_that_the_run_does_not_know_are_not_adopted(finished, pipe, tmp_path):
    """A recipe is asked for whose folder is there already, from who knows what."""
    shutil.copytree(finished.url, tmp_path / "run")
    for top in ("images", "index"):
        shutil.copytree(tmp_path / "run" / top / "pag", tmp_path / "run" / top / "new")
    with pytest.raises(BadValue, match=r"has images of new that its run\.json does not know"):
        made(tmp_path / "run", recipes={**SMALL["recipes"], "new": {"guidance_scale": 4}})


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": 2}', '{"format": 1}', "[" * 9999,
                                  '{"format": 1, "spec": 3}',
                                  '{"format": 1, "spec": {"images": "5", "recipes": {}}, "run": "a"}',
                                  '{"format": 1, "spec": {"images": 5, "recipes": {"a": 3}}, "run": 5, "versions": []}'])
def test_a_damaged_run_json_is_one_line(finished, tmp_path, text, monkeypatch, capsys):
    shutil.copytree(finished.url, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(text)
    before = files_of(tmp_path)
    for command in (("verify", tmp_path / "run", "--repair"), ("metrics", tmp_path / "run", "--metrics", "contrast"),
                    ("report", tmp_path / "run")):
        code, _, error = emag(monkeypatch, capsys, *command)
        assert code == 2 and error.count("\n") == 1 and "run.json" in error
    assert files_of(tmp_path) == before


# what is not ours


def files_of(folder):
    """Every file below a folder, links not followed, with its bytes."""
    found = [Path(place, name) for place, folders, names in os.walk(folder) for name in (*names, *folders)]
    return {str(path): os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            for path in found if path.name != ".lock"}


def kept(before):
    return {path: files_of(Path(path).parent)[path] for path in before if os.path.lexists(path)} == before


def strangers(root):
    """Files and folders of the user's, under names close to ours."""
    for name in ("a.part", ".run.json.12.part", "notes/x.part", "images/a.part", "images/cfg/b.part",
                 "images/cfg/holiday.png", "images/holiday/1.png", "images/holiday/000001.png", "index/old.parquet",
                 "index/cfg/notes.parquet",
                 "images/cfg/000900.png", "images/cfg/" + DRAFT + "x", "index/pag/000900.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(f"mine: {name}".encode())
    Image.new("RGB", (4, 4)).save(root / "images" / "cfg" / "000901.png")
    (root / "images" / "cfg" / "000902.png").mkdir()
    return files_of(root)


def test_what_a_run_did_not_make_stays(finished, pipe, tmp_path):
    """In the folder of a run, whatever the command: going on, repairing, or being refused."""
    shutil.copytree(finished.url, tmp_path / "run")
    before = strangers(tmp_path / "run")
    with pytest.raises(BadValue, match="another run"):
        made(tmp_path / "run", seed=9)
    assert files_of(tmp_path / "run") == before
    run = made(tmp_path / "run")
    found = verify(run)
    assert repair(run, found) == ([], [])
    assert files_of(tmp_path / "run") == before
    named = {problem.where for problem in found}
    assert {"images/cfg/holiday.png", "images/holiday/1.png", "index/cfg/notes.parquet", "images/cfg/000901.png"} <= named
    assert {problem.kind for problem in found} == {"extra"}


def test_a_folder_that_is_no_run_is_refused_untouched(pipe, tmp_path):
    before = strangers(tmp_path / "own")
    with pytest.raises(BadValue, match=r"has images, index and no run\.json"):
        made(tmp_path / "own")
    assert files_of(tmp_path / "own") == before and not (tmp_path / "own" / ".lock").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.part").write_text("mine")
    assert not verify(made(tmp_path / "other", images=1))
    assert (tmp_path / "other" / "notes.part").read_text() == "mine"


@pytest.mark.parametrize("place", ["images/cfg", "images", "index/cfg"])
def test_repairing_does_not_follow_links(finished, pipe, tmp_path, place):
    """A recipe's folder lies elsewhere; every image there is damaged, and every part of the index is another's."""
    shutil.copytree(finished.url, tmp_path / "run")
    shutil.move(tmp_path / "run" / place, tmp_path / "elsewhere")
    (tmp_path / "run" / place).symlink_to(tmp_path / "elsewhere")
    for path in (path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()):
        path.write_bytes(b"harm")
    (tmp_path / "run" / "images" / "cfg" / DRAFT).write_bytes(b"")
    before, run = files_of(tmp_path / "elsewhere"), RunFolder(str(tmp_path / "run"))
    removed, left = repair(run, verify(run))
    assert files_of(tmp_path / "elsewhere") == before
    assert left and all(name.startswith(place) for name in left) and not any(name.startswith(place) for name in removed)


def test_a_link_to_a_file_is_not_followed_and_not_removed(finished, pipe, tmp_path):
    shutil.copytree(finished.url, tmp_path / "run")
    image = tmp_path / "run" / "images" / "cfg" / "000003.png"
    image.rename(tmp_path / "mine.png")
    (tmp_path / "mine.png").write_bytes(b"mine")
    image.symlink_to(tmp_path / "mine.png")
    run = RunFolder(str(tmp_path / "run"))
    assert repair(run, verify(run))[1] == ["images/cfg/000003.png"]
    assert image.is_symlink() and (tmp_path / "mine.png").read_bytes() == b"mine"
    assert not verify(made(tmp_path / "run"))
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


@pytest.mark.parametrize("colour", ["black", "white", "blue"])
def test_images_without_a_finite_number_are_named(pipe, tmp_path, colour):
    """What infinite predictions leave: one colour whose channels are 0 or 255. Removing it would not help."""
    flat = replace(columns.run(pipe, parse(SMALL).recipes[0], [task(parse(SMALL), 0).job], parse(SMALL).settings, 1),
                   images=(Image.new("RGB", (32, 32), colour),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "draw", lambda folder, pipe, batch, tasks: replace(flat, images=flat.images * len(tasks)))
        run = made(tmp_path, recipes={"cfg": None}, images=2)
    found = verify(run)
    assert [(one.kind, one.where) for one in found] == [("clipped", f"images/cfg/00000{number}.png") for number in (0, 1)]
    assert repair(run, found) == ([], [])
    assert ("black" in found[0].text) == (colour == "black")


def test_other_prompts_are_noticed(finished, tmp_path):
    shutil.copytree(finished.url, tmp_path / "run")
    table = pq.read_table(tmp_path / "run" / "prompts.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist(table[::-1]), tmp_path / "run" / "prompts.parquet")
    assert verify(RunFolder(str(tmp_path / "run")))[0].where == "prompts.parquet"


# the commands


def test_the_commands(pipe, tmp_path, monkeypatch, capsys):
    def command(*arguments):
        return emag(monkeypatch, capsys, *arguments)

    from emag.evaluate import dry

    monkeypatch.setattr(dry, "open_model", lambda model, device=None: pipe)
    (tmp_path / "spec.yaml").write_text(json.dumps({**SMALL, "images": 2, "out": str(tmp_path / "run")}))
    code, text, _ = command("run", tmp_path / "spec.yaml", "--dry-run")
    assert code == 0 and "about" in text and not (tmp_path / "run").exists()
    assert text.split().count("32") == 1  # evaluations of cfg
    code, text, _ = command("run", tmp_path / "spec.yaml")
    assert code == 0 and "2 image(s) of each of 2 recipe(s)" in text
    assert command("verify", tmp_path / "run")[0] == 0
    (tmp_path / "run" / "images" / "cfg" / "000000.png").write_bytes(b"")
    code, text, _ = command("verify", tmp_path / "run", "--json")
    assert code == 1 and json.loads(text)["problems"][0]["kind"] == "damaged"
    assert command("verify", tmp_path / "run", "--repair")[0] == 1
    assert command("run", tmp_path / "spec.yaml")[0] == 0
    assert command("verify", tmp_path / "run")[0] == 0
    code, text, _ = command("run", tmp_path / "spec.yaml", "--images", 3)
    assert code == 0 and "3 image(s) of each of 2 recipe(s)" in text
    code, _, message = command("run", tmp_path / "spec.yaml", "--images", 3, "--device", "cuda")
    assert code == 2 and "model" in message
    code, _, message = command("verify", tmp_path)
    assert code == 2 and "is no run folder" in message
    code, _, message = command("run", tmp_path / "none.yaml")
    assert code == 2 and "cannot read the spec" in message
