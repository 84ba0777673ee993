"""What the commands say: numbers that mean what their heading says, warnings, progress, interrupts."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import emag as package
from emag import shown
from emag.engine.stats import LINES, Stats
from emag.errors import BadValue
from emag.lab.cli import every
from emag.lab.cli.bars import Lines, duration
from emag.lab.cli.outputs import file_in, file_or_folder, folder_of
from emag.lab.cli.plan import folded_picture
from emag.lab.draw.columns import Column, Outcome, Plain
from emag.lab.draw.sheets import sheet
from emag.records import png as images
from emag.records import ranges, recipe
from shell import emag

SHIP = "a photo of a ship"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: emag(monkeypatch, capsys, *arguments)


# the numbers of a comparison


def rows(run, *columns, more=()):
    code, text, error = run("compare", SHIP, *(word for one in columns for word in ("-c", one)), "-n", 20, "-s", "8",
                            "--json", *more)
    assert code == 0, error
    return {row["label"]: row for row in json.loads(text)["columns"]}


@pytest.mark.slow
def test_times_cfg_are_of_the_pipelines_own_call_whatever_was_drawn(run):
    """With the host among the columns or not: `x CFG` is evaluations by those of 20 steps, 8 blocks and both rows."""
    with_host = rows(run, "host", "none", "emag=1.5")
    alone = rows(run, "none", "emag=1.5"), rows(run, "emag=1.5", "apg=3", "euler")
    assert with_host["host"]["times"] == 1 and with_host["none"]["times"] == 0.5
    for found in (with_host, *alone):
        for row in found.values():
            assert row["times"] == row["evaluations"] / (20 * 8 * 2)
    assert alone[1]["apg=3"]["times"] == 1 and alone[1]["euler"]["times"] == 0.5
    assert with_host["emag=1.5"]["base"] == "host" and alone[0]["emag=1.5"]["base"] == "none"
    assert with_host["emag=1.5"]["percent"] != alone[0]["emag=1.5"]["percent"]


@pytest.mark.slow
def test_a_heading_says_what_its_numbers_are_of(run):
    for columns, more, heads in ((("none", "host"), (), ("x CFG", "% from CFG")),
                                 (("none", "emag=1.5"), (), ("x CFG", "% from none")),
                                 (("euler", "none"), (), ("x CFG", "% from euler")),
                                 (("host", "emag=1.5"), ("--scale", "1"), ("x host", "% from host"))):
        code, text, _ = run("compare", SHIP, *(word for one in columns for word in ("-c", one)), "-n", 6, "-s", "8", *more)
        assert code == 0 and all(head in text for head in heads), text


@pytest.mark.slow
def test_sheets_name_prompt_seeds_model_and_scale(run, monkeypatch):
    seen = []
    monkeypatch.setattr(every.showcase, "columns", lambda: [Column.parse("pag: pag=1.5")])
    monkeypatch.setattr("emag.lab.cli.weakness.SWEEPS", {"emag beta": ("emag=0,beta={}", ("0.3", "1"))})
    monkeypatch.setattr("emag.lab.cli.weakness.sheet", lambda *given: seen.append(given) or sheet(*given))
    monkeypatch.setattr("emag.lab.draw.sheets.sheet", lambda *given: seen.append(given) or sheet(*given))
    assert run("compare", SHIP, "--all", "-s", "8-9", "-n", 4, "--scale", 3)[0] == 0
    assert run("compare", SHIP, "a photo of a frog", "-c", "host", "-s", "11", "-n", 4)[0] == 0
    (_, heads, names, title, _), (*_, swept, _), (_, _, labels, two, _) = seen
    assert heads == ["seed 8", "seed 9", "weak seed 8", "weak seed 9"] and names == ["no guidance", "CFG", "pag"]
    for text in (title, swept):
        assert all(word in text for word in (SHIP, "tiny", "scale 3", "4 steps"))
    assert labels == [f"{SHIP} seed 11", "a photo of a frog seed 11"] and "2 prompts, tiny, scale 2.5, 4 steps" in two


def test_a_title_of_any_length_stays_on_its_sheet():
    small = Image.new("RGB", (8, 8))
    short, long = (sheet([[small]], ["a"], ["b"], title, 64) for title in ("t", "a title " * 20 + "x" * 200))
    assert long.width == short.width and long.height > short.height + 60
    assert np.asarray(long)[:, -2:].min() == 255


# what is told


def test_scales_out_of_any_useful_range_are_told(caplog):
    far = {"emag=1e6": 1, "cfg=interval:1e6": 1, "fdg=2+1e6": 1, "fa-cfg=1e5,low=2": 1, "cs-apg=2,context_scale=1e4": 1,
           "pag=101": 1, "emag=5": 0, "fa-cfg": 0, "cfg=15": 0, "cfg=cfg++:0.6": 0, "seg=2,sigma=1e6": 0}
    for text, told in far.items():
        caplog.clear()
        ranges.warn_of_scales([recipe.parse(text)])
        assert len(caplog.records) == told, text
    terms = package.Compose(terms=(package.Term(-250.0, "cond"),))
    assert list(ranges.strengths(terms)) == [-250.0]


@pytest.mark.slow
def test_images_without_a_value_between_black_and_white_are_told(run):
    _, _, error = run("generate", SHIP, "-g", "emag=1e6", "-n", 6)
    assert "1e+06 is far out of any useful range" in error and "1 of 1 image(s) have hardly a pixel" in error
    _, _, error = run("generate", SHIP, "--scale", "1e5", "-n", 6)
    assert "guidance_scale at 100000" in error and "1 of 1 image(s) have hardly a pixel" in error
    _, _, error = run("compare", SHIP, "-c", "cfg=1e5 euler", "-n", 6, "-s", "8")
    assert "cfg at 100000" in error and "hardly a pixel" in error
    _, _, error = run("generate", SHIP, "-g", "emag=2", "-n", 6)
    assert "useful range" not in error and "hardly a pixel" not in error


def test_a_clipped_share_is_exact():
    half = Image.fromarray(np.array([[[0, 255, 7], [255, 9, 0]]], np.uint8))
    assert ranges.clipped(half) == pytest.approx(4 / 6) and ranges.clipped(np.zeros((2, 2, 3))) == 0


@pytest.mark.parametrize(("words", "told"), [((), False), (("--scale", "4"), True)])
def test_an_ignored_scale_is_told_where_one_was_given(run, words, told):
    code, _, error = run("generate", SHIP, "-g", "apg=4", "-n", 4, *words)
    assert code == 0 and ("is ignored" in error) == told


def test_an_ignored_scale_is_told_in_python_where_one_was_given(caplog):
    from emag.hosts.load import load

    pipe = load("tiny")
    pipe.set_progress_bar_config(disable=True)
    for given, told in (({}, False), ({"guidance_scale": 3.0}, True)):
        caplog.clear()
        with package.guide(pipe, package.CFG(2.0)):
            pipe(SHIP, num_inference_steps=2, **given)
        assert any("is ignored" in one.getMessage() for one in caplog.records) == told


def test_a_run_of_many_steps_or_images_is_folded():
    def stats(steps, count):
        rows = tuple(tuple(i % 3 for i in range(count)) for _ in range(steps))
        return Stats("Net", ("emag 1.5",), count, steps, 8, 1, 1, 1, rows, tuple((0.5,) * count for _ in range(steps)), 1.0)

    for steps, count in ((1000, 1), (1000, 64), (28, 64), (41, 2)):
        lines = str(stats(steps, count)).splitlines()
        assert len(lines) <= LINES + 6 and max(map(len, lines)) <= 80
    assert "0-24" in str(stats(1000, 1)) and "0 (22) 1 (21) 2 (21)" in str(stats(28, 64))
    assert "     0  0 1                      0.500 0.500" in str(stats(28, 2))


def test_a_plan_has_a_legend_and_folds(run):
    _, text, _ = run("plan", "-g", "emag=1.5,every=3")
    flat = " ".join(text.split())
    assert all(said in flat for said in (". off", "o averaged only", "# with a weak pass", "~ its direction"))
    assert "~" not in run("plan", "-g", "emag=1.5")[1]
    assert folded_picture("oo##.") == "oo##." and folded_picture("o" * 200 + "#" * 600 + ".") == "200 x o, 600 x #, 1 x ."


def test_show_is_for_a_person(run, tmp_path):
    run("generate", SHIP, "a photo of a frog", "-g", "emag=1.5,variant=map", "-s", "8-9", "-n", 4, "-o", "out")
    path = sorted((tmp_path / "out").glob("a-photo-of-a-frog_s9*.png"))[0]
    said = {" ".join(line.split()) for line in run("show", path)[1].splitlines()}
    assert {"prompt a photo of a frog", "seed 9", "image 4 of a batch of 4", "model tiny (dtype=float32)"} <= said
    assert any(line.startswith("rules emag: ") and "variant=map" in line for line in said)


def test_methods_that_share_their_defaults_stand_together(run):
    _, text, _ = run("methods", "emag")
    assert max(map(len, text.splitlines())) <= 80 and " ".join(text.split()).count("untested default: SD3's") == 1
    assert "\nscale: w, at least 0" in text and "window=published:250:50:50" in text


# where it goes


def test_an_output_is_a_file_by_its_ending(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(file_in(tmp_path / "a.png", "sheet.png")).endswith("/a.png")
    assert str(file_in(tmp_path / "v1.5", "sheet.png")).endswith("/v1.5/sheet.png")
    assert file_or_folder(tmp_path / "x.PNG")[1] and not file_or_folder(tmp_path / "x")[1]
    for name in ("a.jpg", "a.html", "a.json"):
        with pytest.raises(BadValue, match="another kind of file"):
            file_in(tmp_path / name, "sheet.png")
        with pytest.raises(BadValue, match="another kind of file"):
            folder_of(tmp_path / name)
    (tmp_path / "b.png").mkdir()
    assert file_in(tmp_path / "b.png", "sheet.png") == tmp_path / "b.png" / "sheet.png"


@pytest.mark.parametrize("words", [("generate", SHIP, SHIP, "-o", "x.png"), ("generate", SHIP, "-o", "x.jpg"),
                                   ("compare", SHIP, "-c", "none", "-o", "x.html"), ("demo", "-o", "x.png"),
                                   ("calibrate", "-o", "x.png"), ("run", "spec.yaml", "-o", "x.png"),
                                   ("results", "a", "-o", "x.html"), ("report", "a", "-o", "x.md"),
                                   ("reproduce", "emag-dit", "--check", "-o", "x.json"), ("demo", "--classes", ""),
                                   ("generate", SHIP, "--lora", "nowhere.safetensors"),
                                   ("calibrate", "cfg=1", "-g", "pag=2"),
                                   ("generate", SHIP, "--lora", "a/b/c:0.5")])
def test_a_wrong_output_is_refused_before_a_model_is_loaded(run, monkeypatch, tmp_path, words):
    def loaded(*given, **more):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("emag.hosts.load._open", loaded)
    (tmp_path / "spec.yaml").write_text("model: tiny")
    code, _, error = run(*words)
    assert code == 2 and len(error.splitlines()) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["spec.yaml"]


def test_one_image_under_its_own_name(run, tmp_path):
    assert run("generate", SHIP, "-n", 4, "-o", "deep/ship.png")[0] == 0
    assert images.read_record(tmp_path / "deep" / "ship.png")["row"] == 0
    code, text, _ = run("again", "deep/ship.png", "-o", "again.png")
    assert code == 0 and "byte-identical" in text


def test_prompts_from_everywhere(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a photo of a frog\n\na photo of a cat\n")))
    code, text, _ = run("generate", SHIP, "-p", "a photo of a dog", "--prompts", "-", "-n", 2, "--json")
    assert code == 0 and [name.split("/")[-1].split("_")[0] for name in json.loads(text)["images"]] == [
        f"a-photo-of-a-{name}" for name in ("ship", "dog", "frog", "cat")]
    (tmp_path / "negatives.txt").write_text("a photo of a truck\n")
    code, text, _ = run("compare", "-p", SHIP, "--recipe", "emag+apg", "--negatives", "negatives.txt", "-n", 6, "-s", "8",
                        "--json")
    found = json.loads(text)
    assert code == 0 and [row["recipe"] for row in found["columns"]] == ["emag apg"]
    assert images.read_record(found["sheets"][0])["call"]["negative_prompt"] == ["a photo of a truck"]


# how far it is


def test_progress_in_a_pipe_is_a_line_now_and_then(capsys):
    now = [0.0]
    lines = Lines("comparing", 100, "calls", 20, lambda: now[0])
    for done in range(20, 101):
        now[0] += 1
        lines.at(done)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "emag: comparing: 34 of 100 calls, about 71 s left" and len(said) == 5
    assert [duration(seconds) for seconds in (0.2, 89, 100, 5000, 7200)] == ["1 s", "89 s", "2 min", "83 min", "2.0 h"]


def test_many_columns_say_how_long_they_take(run, monkeypatch):
    def drawn(pipe, column, *more):
        return Outcome(column, (Image.new("RGB", (8, 8)),), ({"rules": [], "row": 0},), (), 1, 30.0, Plain(1, True, 2.5, 4))

    monkeypatch.setattr("emag.lab.draw.columns.run", drawn)
    code, _, error = run("compare", SHIP, *["-c", "host"] * 43, "-s", "8")
    assert code == 0 and "43 guidances of 1 image(s) each: about 20 min" in error
    assert "guidances of" not in run("compare", SHIP, *["-c", "host"] * 4, "-s", "8")[2]


@pytest.mark.slow
def test_an_interrupted_command_says_what_is_kept(tmp_path):
    """A true SIGINT, once the first image is there: one line, exit code 130, and every image that is there is whole."""
    words = [sys.executable, "-m", "emag", "generate", SHIP, "-s", "0-4000", "-b", "1", "-n", "4",
             "-o", str(tmp_path / "out")]
    command = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"},
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's & ignores it
    try:
        while not list((tmp_path / "out").glob("*.png")):
            assert command.poll() is None
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        error = command.communicate(timeout=120)[1]
    finally:
        command.kill()
    assert command.returncode == 130
    # what an extension prints as it is imported (torchao's warnings) comes before, and is not ours
    assert error.splitlines()[-1] == (f"emag: interrupted: finished images are kept in {tmp_path / 'out'}; the same command "
                                      "again brings the rest")
    assert "Traceback" not in error and error.count("emag:") == 1
    assert all(images.read_record(path)["row"] == 0 for path in (tmp_path / "out").iterdir())


@pytest.mark.slow
def test_nothing_heavy_is_loaded_before_it_is_needed():
    """`import emag` and `emag --version` are light, so that ctrl-c and tab completion are answered; the names are there."""
    code = ("import sys, emag, emag.lab.cli\nassert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)\n"
            "assert all(getattr(emag, name) is not None for name in emag.__all__)\nemag.samplers.sample\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torchvision" not in done.stderr


# texts


@pytest.mark.parametrize(("text", "seen"), [
    ("a frog", "a frog"), ("une grenouille à la mer", "une grenouille à la mer"), ("カエルの　写真", "カエルの　写真"),
    ("👨\u200d👩", "👨\u200d👩"), ("a\x1b[31mb", "a\\x1b[31mb"), ("a\nb\tc\r", "a\\nb\\tc\\r"), ("\x9b5m", "\\x9b5m"),
    ("\u202eevil", "\\u202eevil"), ("\ufeffa", "\\ufeffa"), ("\udc80", "\\udc80"), ("\u2028", "\\u2028"),
])
def test_visible(text, seen):
    assert shown.visible(text) == seen
    assert shown.visible(text, lines=True) == seen.replace("\\n", "\n")
    assert shown.visible(seen) == seen


def test_shortened():
    assert shown.shortened("a" * 30, 30) == "a" * 30 and shown.shortened("ab " * 30, 10) == "ab ab ab…"


def test_the_base_of_a_comparison_is_the_hosts_own():
    texts = "none", "euler", "pcg", "scale=2", "host", "emag=2"
    made = [Outcome(Column.parse(text), (), (), (), 1, 1.0) for text in texts]
    assert every.base_of(made).column.label == "host"
    assert every.base_of(made[:4]).column.label == "none"
    assert every.base_of([replace(made[0], column=Column("x"))]).column.label == "x"
