"""Damage to a run folder is found and mended; what is not ours stays."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emag.errors import BadValue
from emag.lab.draw import columns
from emag.lab.evaluate import work
from emag.lab.evaluate.folder import INDEX, RunFolder
from emag.lab.evaluate.spec import parse
from emag.lab.evaluate.tasks import task
from emag.lab.evaluate.verify import repair, verify
from running import SMALL, bytes_of, made
from shell import emag

pytestmark = pytest.mark.usefixtures("loaded")


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_commands(pipe, tmp_path, monkeypatch, capsys):
    def command(*arguments):
        return emag(monkeypatch, capsys, *arguments)

    from emag.lab.evaluate import dry

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
