"""Published protocols: their recipes fit their networks, the chain runs, and all that is missing is said at once."""

import json
from dataclasses import replace

import numpy as np
import pytest

from emag.errors import BadValue
from emag.lab.evaluate import check, protocol
from emag.lab.evaluate import reproduce as module
from emag.lab.evaluate.folder import RunFolder
from emag.lab.evaluate.metrics import reference
from emag.lab.evaluate.metrics.table import METRICS
from emag.lab.evaluate.protocol import read, read_captions
from emag.lab.evaluate.reproduce import made_up, missing, reproduce
from emag.lab.evaluate.spec import parse
from shell import run  # noqa: F401  (a fixture)
from tiny import dit, noise, sd3

CAPTIONS = ["a photo of a frog", "a ship at sea", "a photo of a cat", "a photo of a dog"]
COCO = {"annotations": [{"image_id": 9, "caption": " a frog\n"}, {"image_id": 3, "caption": "a ship"},
                        {"image_id": 9, "caption": "a second one"}]}


@pytest.mark.parametrize(("name", "network", "images", "steps", "scale"), [
    ("emag-table2", sd3, 40_000, 28, 7), ("emag-dit", dit, 50_000, 250, 1.5)])
def test_a_protocol_is_as_published_and_its_recipes_fit_its_network(name, network, images, steps, scale):
    asked = read(name)
    assert (asked.run["images"], asked.run["steps"], asked.run["seed"]) == (images, steps, 8)
    assert set(asked.published) <= set(asked.recipes) and {"none", "cfg", "emag"} <= set(asked.recipes)
    assert all(metric in METRICS and metric in protocol.STAND_INS for metric in asked.metrics)
    given = {**asked.run, "height": None, "width": None}
    spec = parse(given if "classes" in given else {**given, "prompts": CAPTIONS})
    assert all(one.scale == (1 if one.label == "none" else scale) for one in spec.recipes)
    pipe = network()
    pipe.encode_prompt = lambda *args, **more: (noise(0, 1, 5, 12), noise(1, 1, 5, 12), noise(2, 1, 10), noise(3, 1, 10))
    assert check.prepared(spec, pipe).total == images


def test_published_numbers_are_those_of_the_table():
    asked = read("emag-table2")
    assert asked.value("cfg", "inception-fd") == 22.877 and asked.value("emag-q", "hps2.1") == 29.64
    assert asked.value("emag-ours", "hps2.1") is None and asked.check().value("cfg", "random-fd") is None
    assert read("emag-dit").value("cfg", "inception-fd") == 2.27


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emag-table2", "emag-dit"])
def test_a_check_runs_the_chain_without_anything_from_outside(name, run, tmp_path):  # noqa: F811
    code, text, error = run("reproduce", name, "--check", "-o", tmp_path / "run", "--recipe", "emag+cads", "--recipe", "cfg")
    assert code == 0, error
    assert "its numbers mean nothing" in " ".join(text.split()) and "random-fd" in text and "emag+cads" in text
    folder = RunFolder(str(tmp_path / "run"))
    assert folder.recipes() == ["cfg", "emag+cads"] or folder.recipes() == ["emag+cads", "cfg"]
    assert not any(folder.missing().values()) and folder.spec.total == 4
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {one["metric"] for one in stored} == {protocol.STAND_INS[metric] for metric in read(name).metrics}
    assert all(np.isfinite([one["value"], one["low"], one["high"]]).all() for one in stored)


def test_a_run_with_captions_and_a_reference_as_a_real_one(tmp_path):
    asked = read("emag-table2").changed("tiny", ["cfg"], 4)
    small = replace(asked, metrics=("random-fd",), run={**asked.run, "steps": 2, "height": None, "width": None})
    known = made_up()
    file = reference.write(tmp_path / "ref.npz", known.features, known.version)
    (tmp_path / "captions.txt").write_text("\n".join([*CAPTIONS, "a photo of a horse"]))
    [found] = reproduce(small, str(tmp_path / "run"), str(tmp_path / "captions.txt"), str(file))
    rows = RunFolder(str(tmp_path / "run")).index("cfg")
    assert rows["prompt"].to_pylist() == CAPTIONS and found.n == 4 and "ref-" in found.version
    assert str(tmp_path) not in (tmp_path / "run" / "run.json").read_text()


def test_all_that_is_missing_is_said_before_any_image(run, tmp_path, monkeypatch):  # noqa: F811
    def offline(*args, **kwargs):
        raise OSError("no network\nat all")

    def absent():
        raise BadValue("Inception needs a package")

    monkeypatch.setattr(module, "get_hf_file_metadata", offline)
    monkeypatch.setattr(module, "EXTRACTORS", {name: lambda device: type("E", (), {"check": staticmethod(absent)})
                                               for name in ("inception", "hps2.1")})
    code, _, error = run("reproduce", "emag-table2", "-o", tmp_path / "run")
    assert code == 2 and not (tmp_path / "run").exists()
    lines = [line for line in error.splitlines() if line.startswith("- ")]
    for line, said in zip(lines, ["stable-diffusion-3-medium-diffusers is not here and cannot be fetched (no network)",
                                  "give --captions FILE", "give --reference FILE", "Inception needs", "Inception needs"],
                          strict=True):
        assert said in line
    assert not [line for line in missing(read("emag-dit"), None, None, False) if "captions" in line]


def test_a_check_reads_files_that_are_given(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no")
    asked = read("emag-table2").check()
    assert not missing(asked, None, None, True)
    lacking = missing(asked, str(tmp_path / "none.txt"), str(tmp_path / "a.npz"), True)
    assert len(lacking) == 2 and "none.txt" in lacking[0] and "no npz file" in lacking[1]


def test_captions_are_the_first_of_each_image(tmp_path):
    file = tmp_path / "captions_val2014.json"
    file.write_text(json.dumps(COCO))
    assert [one.text for one in read_captions(str(file), 2)] == ["a frog", "a ship"]
    assert [one.text for one in read_captions(str(file), 1)] == ["a frog"]
    with pytest.raises(BadValue, match="has 2 captions, and the protocol takes 3"):
        read_captions(str(file), 3)
    file.write_text('["a cat", "a dog"]')
    assert [one.text for one in read_captions(str(file), 2)] == ["a cat", "a dog"]
    file.write_text("{}")
    with pytest.raises(BadValue, match="no file of COCO captions"):
        read_captions(str(file), 1)
    with pytest.raises(BadValue, match="cannot read the captions"):
        read_captions(str(tmp_path / "b.json"), 1)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(BadValue, match="there are emag-dit, emag-table2"):
        read("emag-table3")
    with pytest.raises(BadValue, match="no recipe pag; it has none, cfg"):
        read("emag-dit").changed(recipes=["pag"])


def test_a_changed_protocol_keeps_the_rest():
    asked = read("emag-table2")
    other = asked.changed("folder", ["emag", "cfg"], 100)
    assert other.model == "folder" and other.run["model"]["dtype"] == "float16" and other.recipes == ["emag", "cfg"]
    assert other.run["images"] == 100 and {**other.run, "model": 0, "recipes": 0, "images": 0} == {
        **asked.run, "model": 0, "recipes": 0, "images": 0}
    assert asked.changed() == asked
