"""The command line: what it makes, what it prints, how it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import emag
from emag.errors import BadValue
from emag.lab.cli import every, weakness
from emag.lab.draw import columns
from emag.lab.draw.sampling import DrawSettings, jobs
from emag.lab.pages import catalogue
from emag.lab.pages.functions import numbers_in
from emag.methods.tokens import TOKEN_METHODS
from emag.records import png as images
from tiny import dit, sd3

FAST = ["--steps", "6"]


@pytest.mark.slow
def test_generate_show_again(run, tmp_path):
    code, _, _ = run("generate", "a photo of a frog", "a ship", "-g", "cads", "-g", "emag=1.5,variant=map", "-g", "apg=2.5",
                     "--seeds", "8-9", "-b", 3, "-o", tmp_path / "a", *FAST)
    made = sorted((tmp_path / "a").glob("*.png"))
    assert code == 0
    assert len(made) == 4
    record = json.loads(run("show", made[0], "--json")[1])
    assert [next(iter(rule)) for rule in record["rules"]] == ["cads", "emag", "apg"]
    assert record["model"]["model"] == "tiny"
    assert record["call"]["num_inference_steps"] == 6
    assert not record["unrecorded"]
    assert set(record["versions"]) == {"emag", "torch", "diffusers", "transformers"}
    for path in (made[0], made[-1]):
        code, text, _ = run("again", path, "-o", tmp_path / "b")
        assert code == 0
        assert "byte-identical" in text
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


def test_again_notices_another_image(run, tmp_path):
    run("generate", "frog", "-o", tmp_path / "a", *FAST)
    path = next((tmp_path / "a").glob("*.png"))
    record = images.read_record(path)
    images.write(Image.new("RGB", (32, 32)), path, record)
    assert "NOT identical" in run("again", path, "-o", tmp_path / "b")[1]


def test_generate_from_files_and_recipe(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a frog\n\na ship\n")
    (tmp_path / "recipe.json").write_text(json.dumps({"rules": [{"emag": {"scale": 2.0}}]}))
    code, text, _ = run("generate", "--prompts", tmp_path / "prompts.txt", "--recipe", tmp_path / "recipe.json",
                        "--negative", "a dog", "-o", tmp_path / "out", *FAST)
    assert code == 0
    assert "2 image(s)" in text
    record = images.read_record(next((tmp_path / "out").glob("*.png")))
    assert record["call"]["negative_prompt"] == ["a dog", "a dog"]
    assert record["rules"][0]["emag"]["scale"] == 2.0


def test_compare_draws_a_sheet(run, tmp_path):
    path = tmp_path / "sheet.png"
    columns = ("-c", "none", "-c", "host", "-c", "two: emag=1.5 apg=3")
    code, _, _ = run("compare", "frog", *columns, "--seeds", "8-9", "-o", path, *FAST)
    assert code == 0
    assert Image.open(path).width > 3 * 128
    assert images.read_record(path)["unrecorded"]
    assert run("again", path)[0] == 2


@pytest.mark.parametrize("arguments", [("models",), ("methods",), ("plan", "-g", "emag=1.5")])
def test_listings_print_text_and_json(run, arguments):
    code, text, _ = run(*arguments)
    assert code == 0
    assert text.strip()
    code, text, _ = run(*arguments, "--json")
    assert code == 0
    assert json.loads(text)


def test_plan_counts_what_a_run_counts(run):
    found = json.loads(run("plan", "-m", "tiny", "-g", "emag=1.5", "--json")[1])
    weak = found["weak"][0]
    assert found["clean"] == 28 * 2 * 8
    assert found["evaluations"] == found["clean"] + 18 * (8 - weak["blocks"][0])
    assert (weak["watched"], weak["applied"]) == (23, 18)
    assert weak["first_weight"] == pytest.approx([0.988**5, 0.988**22])
    assert weak["bytes"] == len(weak["blocks"]) * 3 * 64 * 64 * 4


def test_plan_tells_steps_without_a_weak_pass(run):
    code, text, _ = run("plan", "-g", "emag=1.5,every=3")
    assert code == 0 and "490 (448 without weak passes, +9.4%)" in text
    assert "7 of them with a weak pass, 11 more in the window without one" in " ".join(text.split())
    assert "ooooo##~~#~~#~~#~~#~~#~....." in text


@pytest.mark.parametrize(("arguments", "message"), [
    (("generate",), "at least one prompt"),
    (("generate", "a photo of the moon"), "airplane"),
    (("generate", "frog", "-g", "magic=1"), "no method"),
    (("generate", "frog", "-g", "emag=1.5,layers=9"), "blocks 0 to 7"),
    (("generate", "frog", "-g", "emag=1.5", "--steps", "1"), "window"),
    (("generate", "frog", "-g", "emag=1.5,beta=3"), "beta"),
    (("generate", "frog", "-g", "apg=4", "--scale", "1"), "unconditional"),
    (("generate", "frog", "-g", "apg=4", "-g", "cfg=2"), "keep one"),
    (("generate", "frog", "--scale", "nan"), "finite"), (("compare", "frog", "-c", "scale=inf"), "finite"),
    (("compare", "frog", "-c", "host", "-c", "autoguidance=2,model=lora:0.5"), "no LoRA"),
    (("generate", "frog", "--recipe", "nowhere.json"), "cannot read"),
    (("generate", "frog", "-m", "medium"), "medium"),
    (("generate", "frog", "--seeds", "x"), "seeds"),
    (("generate", "frog", "--negative", "a", "--negative", "b"), "negative"),
    (("generate", "frog", "--prompts", "nowhere.txt"), "cannot read"),
    (("generate", "frog", "--dtype", "int3"), "dtype"),
    (("generate", "frog", "--set", "colour"), "key=value"),
    (("compare", "frog"), "column"),
    (("compare", "frog", "-c", "none", "-o", "sheet.jpg"), ".png"),
    (("plan", "-m", "nowhere/at-all-xyz"), "configuration"),
    (("show", "nowhere.png"), "no file"),
])
def test_bad_input_is_one_line_and_writes_nothing(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, error = run(*arguments)
    lines = [line for line in error.splitlines() if line.startswith("emag: error:")]
    assert code == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pipelines as diffusers saves them."""
    root = tmp_path_factory.mktemp("models")
    for name, make in (("dit", dit), ("sd3", sd3)):
        make().save_pretrained(root / name)
    return root


def test_a_class_conditional_model_from_a_folder(run, folders, tmp_path):
    options = ("-m", folders / "dit", "-g", "emag=2", "--seeds", "1-2", "-n", 8, "-o", tmp_path)
    code, _, _ = run("generate", 207, 360, *options)
    made = sorted(tmp_path.glob("*.png"))
    assert code == 0
    assert len(made) == 4
    assert "byte-identical" in run("again", made[-1], "-o", tmp_path / "again")[1]


@pytest.mark.parametrize(("model", "arguments", "message"), [
    ("dit", ("2070",), "0 to 999"), ("dit", ("shark",), "no class label"),
    ("dit", ("3", "--height", "64"), "one image size"),
    ("dit", ("3", "--negative", "4"), "no negative prompt"), ("sd3", ("a frog",), "refused the call"),
    ("sd3", ("a frog", "--height", "7"), "refused the call"),
    ("sd3", ("a frog", "--set", "colour=3"), "refused the call"),
])
def test_what_a_pipeline_refuses_is_one_line(run, folders, tmp_path, model, arguments, message):
    options = ("-m", folders / model, "-g", "emag=2,layers=1", "-o", tmp_path / "out", *FAST)
    code, _, error = run("generate", *arguments, *options)
    assert code == 2
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["dit", "sd3"])
def test_plan_reads_a_folder_without_its_weights(run, folders, model):
    found = json.loads(run("plan", "-m", folders / model, "-n", 28, "-g", "emag=1.5,layers=1-2", "--json")[1])
    assert found["blocks"] == 4
    assert found["evaluations"] == 28 * 2 * 4 + found["weak"][0]["applied"] * 3


def test_unwritable_folder(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, error = run("generate", "frog", "-o", tmp_path / "file" / "out")
    assert code == 2
    assert "cannot write" in error


def test_a_png_without_a_record(run, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    assert "carries no emag record" in run("show", tmp_path / "plain.png")[2]
    assert "cannot read" in run("show", tmp_path / "text.png")[2]


@pytest.mark.slow
def test_the_command_is_installed():
    done = subprocess.run([sys.executable, "-m", "emag", "methods", "--json"], capture_output=True, text=True, check=True)
    assert {method["name"] for method in json.loads(done.stdout)} >= {"emag", "cfg", "apg", "cads", "interval", "pcg"}


@pytest.mark.slow
def test_compare_draws_every_method(run, tmp_path):
    """No method draws what the pipeline's own guidance draws, but our Euler, which is the pipeline's sampler bit for bit."""
    code, text, error = run("compare", "a photo of a ship", "--all-rules", "--seeds", "8", "--steps", 6,
                            "-o", tmp_path / "all.png")
    assert code == 0, error
    drawn = catalogue.catalogue()
    identical = [line for line in text.splitlines() if "identical" in line]
    assert len(identical) == 2 and "CFG" in identical[0] and "euler" in identical[1]
    for method in (one for one in drawn if one["kind"] != "token"):
        assert method["name"][:10] in text or method["name"] in ("cfg", "constant")
    assert Image.open(tmp_path / "all.png").height > 36 * 128


def test_a_method_that_does_not_fit_the_settings_leaves_the_others_to_be_drawn():
    """Of --all: three steps spare none, and are too few to look five ahead. A prompt that nobody can draw is an error."""
    pipe, chosen = emag.load("tiny"), [columns.Column.parse(text) for text in ("host", "feature-reuse", "cfg=2 fsg", "apg")]
    kept, refused = every.fitting(pipe, chosen, jobs(["a ship"], [], [8])[0], DrawSettings(3))
    assert [column.label for column in kept] == ["host", "apg"]
    assert "no step to spare" in refused["feature-reuse"] and "choose earlier steps" in refused["cfg=2 fsg"]
    with pytest.raises(BadValue, match="names none of this model's classes"):
        every.fitting(pipe, chosen, jobs(["the moon"], [], [8])[0], DrawSettings(3))


def test_methods_in_full(run):
    code, text, _ = run("methods", "apg", "cfg++")
    assert code == 0 and "2410.02416" in text and "norm_threshold" in text and "2406.08070" in text
    code, _, error = run("methods", "apgg")
    assert code == 2 and "no method 'apgg'" in error


def test_every_paper_of_the_code_and_the_rules_for_tokens_are_listed(run):
    """A reader finds what was built after a paper by its number, in the overview or in a method's own text."""
    code, text, _ = run("methods", "mti")
    assert code == 0 and "2510.13940" in text and "threshold" in text
    overview, data = run("methods")[1], run("methods", "--json")[1]
    papers = {number for path in Path(emag.__file__).parent.rglob("*.py") for number in numbers_in(path.read_text())}
    assert papers == {*numbers_in(overview), *numbers_in(data)}
    assert "Rules for tokens alone" in overview and all(f"\n{name} " in overview for name in ("mti", "gedi", "caif"))
    listed = {method["name"]: method["class"] for method in json.loads(data)}
    assert set(TOKEN_METHODS) <= set(listed) and listed["soft-cfg"] == "tokens.SoftCFG" and listed["cfg"] == "CFG"


def test_methods_as_data(run):
    found = json.loads(run("methods", "--json")[1])
    assert {"name", "kind", "paper", "equation", "space", "cost", "parameters", "defaults"} <= set(found[0])
    assert {method["kind"] for method in found} <= set(catalogue.KINDS)
    assert all(method["paper"] and method["equation"] and method["cost"] and method["about"] for method in found)


@pytest.mark.parametrize(("column", "words"), [("cfg=2 pgc", "no method 'pgc'"), ("cfg=2 pcg=0,stepsize=1", "no parameter"),
                                               ("euler unipc", "solvers"),
                                               ("emag=1.5 fkc reverse-sde", "emag moves the prediction")])
def test_columns_of_our_own_loop_refuse(run, tmp_path, column, words):
    code, _, error = run("compare", "a ship", "-c", column, "-o", tmp_path / "a.png", "--steps", 2)
    assert code == 2 and words in error


@pytest.mark.long
def test_compare_all_shows_the_weak_branches_and_how_hard_they_can_be_made(run, tmp_path):
    code, text, error = run("compare", "a photo of a ship", "--all", "--seeds", "8", "--steps", 6, "--cell", 32,
                            "-o", tmp_path / "all.png")
    assert code == 0, error
    sheet, sweeps = Image.open(tmp_path / "all.png"), Image.open(tmp_path / "all-weakness.png")
    assert sheet.height > 36 * 32 and sweeps.width > 6 * 32
    for name, (_, values) in weakness.SWEEPS.items():
        line = next(line for line in text.splitlines() if line.strip().startswith(name))
        first, last = (float(re.search(rf"{value}: ([\d.]+)", line)[1]) for value in (values[0], values[-1]))
        assert name == "emag block" or first < last, line


def test_the_weak_branch_of_a_column():
    column = columns.Column.parse("pag: pag=2")
    assert weakness.weak_of(column).rules[0].scale == 0 and weakness.weak_of(column).label == "weak pag"
    assert weakness.weak_of(columns.Column.parse("cfg=2")) is None and weakness.weak_of(columns.Column.parse("host")) is None


def test_our_own_loop_keeps_the_scale_and_refuses_pipeline_arguments(run, tmp_path):
    from emag.hosts.load import load
    from emag.lab.draw.columns import Column
    from emag.lab.draw.columns import run as draw
    from emag.lab.draw.sampling import DrawSettings, Job

    pipe = load("tiny")
    pipe.set_progress_bar_config(disable=True)
    work = [Job("a photo of a ship", None, 8)]
    for scale in (1.0, 4.0):
        ours, theirs = (draw(pipe, Column.parse(text), work, DrawSettings(3, scale), 1) for text in ("euler", "host"))
        assert list(ours.images[0].getdata()) == list(theirs.images[0].getdata())
        assert ours.evaluations == theirs.evaluations
    code, _, error = run("compare", "a ship", "-c", "euler", "--set", "max_sequence_length=8", "-n", 2,
                         "-o", tmp_path / "a.png")
    assert code == 2 and "max_sequence_length" in error
