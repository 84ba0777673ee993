"""What is kept of a run: a PNG with its recipe, the same as a command and as Python; settings from PNGs of others."""

import io
import json
import shlex
import threading

import pytest
import torch
import typer.main
from PIL import Image, PngImagePlugin

import emag
from emag.errors import BadValue
from emag.lab.cli.app import app
from emag.lab.cli.common import rules_of
from emag.lab.draw.sampling import DrawSettings
from emag.lab.web.album import MOST, Album
from emag.lab.web.dropped import LONGEST, read
from emag.lab.web.job import Ask, see
from emag.lab.web.model import example_rules, opened
from emag.lab.web.stack import parse
from emag.lab.web.told import code, python, shell
from emag.methods import METHODS
from emag.records import png
from shell import emag as run_emag

A1111 = """a ship, at sea (masterpiece:1.2)
second line
Negative prompt: blurry, low
Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 1234, Size: 512x512, Model: v1-5"""
GRAPH = {"3": {"class_type": "KSampler", "inputs": {"seed": 77, "steps": 12, "cfg": 3.5, "sampler_name": "euler",
                                                    "positive": ["9", 0], "negative": ["7", 0], "model": ["4", 0]}},
         "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd3.safetensors"}},
         "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a ship", "clip": ["4", 1]}},
         "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
         "9": {"class_type": "ConditioningSetArea", "inputs": {"conditioning": ["6", 0], "width": 64}}}


@pytest.fixture(scope="module")
def model():
    return opened("tiny")


@pytest.fixture(scope="module")
def sight(model):
    ask = Ask("a photo of a ship", parse("emag=1.5 seg=1.2,sigma=4"), "a frog", (9,), DrawSettings(3, 2.0))
    return see(model, ask, lambda *told: None, threading.Event())


def picture(**texts):
    info, sink = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, text in texts.items():
        info.add_itxt(key, text)
    Image.new("RGB", (8, 8)).save(sink, format="PNG", pnginfo=info)
    return sink.getvalue()


def test_a_kept_png_is_made_again_bit_for_bit(sight, tmp_path, monkeypatch, capsys):
    path, = Album(tmp_path).added(sight.guided, [])
    code_, text, _ = run_emag(monkeypatch, capsys, "again", path, "-o", str(tmp_path / "again.png"))
    assert code_ == 0 and "byte-identical" in text


def test_an_album_has_an_end(sight, tmp_path):
    album = Album(tmp_path)
    paths = album.added(sight.guided, [f"{i}.png" for i in range(MOST)])
    assert len(paths) == MOST and album.added(sight.guided, paths) == paths
    with pytest.raises(FileNotFoundError):
        album.read("/etc/passwd")


def test_a_png_of_ours_gives_back_what_was_asked(model, sight, tmp_path):
    path, = Album(tmp_path).added(sight.guided, [])
    found = read(png.Path(path).read_bytes(), usual=model.usual)
    ask = sight.ask
    assert (found.source, found.prompt, found.negative, found.seed, found.steps, found.scale, found.model) == (
        "emag", ask.prompt, ask.negative, 9, 3, 2.0, "tiny")
    # the record has the defaults of the model filled in, so that it means the same on another day
    assert parse(found.guidance) == model.resolved(ask.rules) and not found.notes


def test_the_texts_of_others_are_read_as_far_as_they_go():
    found = read(picture(parameters=A1111))
    assert (found.source, found.prompt, found.negative) == ("AUTOMATIC1111", "a ship, at sea (masterpiece:1.2)\nsecond line",
                                                            "blurry, low")
    assert (found.seed, found.steps, found.scale, found.model) == (1234, 20, 7.5, "v1-5")
    assert "not taken over: Sampler Euler a" in found.notes
    found = read(picture(prompt=json.dumps(GRAPH)))
    assert (found.source, found.prompt, found.negative, found.seed, found.steps, found.scale, found.model) == (
        "ComfyUI", "a ship", "blurry", 77, 12, 3.5, "sd3.safetensors")


def guided(**rules):
    """GRAPH with a node of ours between model and sampler, and a LoRA on either side of it."""
    ours = {"11": {"class_type": "EmagEMAG", "inputs": {"model": ["10", 0], "scale": 2.0, "blocks": "6-8"}},
            "10": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["4", 0], "lora_name": "x"}},
            "12": {"class_type": "LoraLoaderModelOnly", "inputs": {"model": ["11", 0], "lora_name": "y"}},
            "13": {"class_type": "EmagGuidance", "inputs": {"model": ["12", 0], **rules}}}
    return {**GRAPH, **ours, "3": {**GRAPH["3"], "inputs": {**GRAPH["3"]["inputs"], "model": ["13", 0]}}}


def test_the_rules_of_our_nodes_come_back():
    found = read(picture(prompt=json.dumps(guided(rules="apg=4 seg=1.2", recipe="none"))))
    assert (found.source, found.prompt, found.seed) == ("ComfyUI", "a ship", 77)
    assert parse(found.guidance) == (emag.EMAG(2.0, layers=(6, 7, 8)), emag.APG(4.0), emag.SEG(1.2))
    assert not [note for note in found.notes if "guidance" in note]


IN_PARTS = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"}},
    "2": {"class_type": "EmagEMAG", "inputs": {"model": ["1", 0], "scale": 2.0}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a ship", "clip": ["9", 0]}},
    "4": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["3", 0], "guidance": 3.5}},
    "5": {"class_type": "BasicGuider", "inputs": {"model": ["2", 0], "conditioning": ["4", 0]}},
    "6": {"class_type": "BasicScheduler", "inputs": {"model": ["1", 0], "scheduler": "simple", "steps": 12, "denoise": 1.0}},
    "7": {"class_type": "RandomNoise", "inputs": {"noise_seed": 77}},
    "8": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "10": {"class_type": "SplitSigmas", "inputs": {"sigmas": ["6", 0], "step": 4}},
    "11": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["7", 0], "guider": ["5", 0], "sampler": ["8", 0],
                                                             "sigmas": ["6", 0], "latent_image": ["12", 0]}}}


@pytest.mark.parametrize("sigmas", ["6", "10"])
def test_a_sampler_in_parts_is_read(sigmas):
    """As workflows for Flux have it: noise, guider, solver and noise levels are nodes of their own."""
    graph = json.loads(json.dumps(IN_PARTS))
    graph["11"]["inputs"]["sigmas"] = [sigmas, 0]
    found = read(picture(prompt=json.dumps(graph)))
    assert (found.prompt, found.negative, found.seed, found.steps, found.model) == (
        "a ship", None, 77, 12, "flux1-dev.safetensors")
    assert parse(found.guidance) == (emag.EMAG(2.0),)
    graph["5"] = {"class_type": "CFGGuider", "inputs": {"model": ["2", 0], "positive": ["4", 0], "negative": ["3", 0],
                                                        "cfg": 2.5}}
    found = read(picture(prompt=json.dumps(graph)))
    assert (found.prompt, found.negative, found.scale) == ("a ship", "a ship", 2.5)


def test_a_node_that_leads_elsewhere_is_not_read():
    """Rules are those on the model of the sampler that is read, and no others."""
    graph = {**guided(rules="apg=4"), "3": GRAPH["3"]}
    assert read(picture(prompt=json.dumps(graph))).guidance == ""


def test_what_a_page_cannot_take_over_is_said():
    found = read(picture(prompt=json.dumps(guided(rules="negative=1.5,negative=other apg=4"))))
    assert parse(found.guidance) == (emag.EMAG(2.0, layers=(6, 7, 8)), emag.APG(4.0))
    assert any("negative=other, whose condition another node gives" in note for note in found.notes)
    found = read(picture(prompt=json.dumps(guided(rules="autoguidance=2,model=load:no/such"))))
    assert any("it names the second network 'no/such'" in note for note in found.notes)
    for strange in ({"rules": "nosuch=1"}, {"rules": 5}, {"rules": "apg=4", "recipe": {}}, {"width": 3},
                    {"rules": "apg=4 " * 20}):
        found = read(picture(prompt=json.dumps(guided(**strange))))
        assert found.guidance == "" and found.prompt == "a ship"
        assert any("not taken over: a guidance, for " in note for note in found.notes)


@pytest.mark.parametrize("data", [b"", b"no picture", picture(), picture(other="x"), picture(emag="{}"),
                                  picture(emag='{"rules": [{"nosuch": {}}]}'), picture(prompt="[[[["),
                                  picture(prompt='{"1": 2}'), picture(prompt="[" * 100_000), picture()[:40],
                                  picture(parameters="x" * (LONGEST + 1))])
def test_damage_is_one_short_error(data):
    with pytest.raises(BadValue) as error:
        read(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("graph", [{"3": {"inputs": {"steps": 10**9, "positive": ["3", 0], "seed": -1, "cfg": "x"}}},
                                   {"3": {"inputs": {"steps": 4, "positive": ["3"], "conditioning": ["3", 0]}}},
                                   {"3": {"inputs": {"steps": 4, "positive": 7}}}])
def test_a_strange_graph_gives_what_it_gives(graph):
    found = read(picture(prompt=json.dumps(graph)))
    assert found.prompt is None and found.seed is None and found.scale is None and found.steps in (None, 4)


def test_what_a_picture_names_is_said_and_not_loaded(sight, tmp_path):
    record = json.loads(json.dumps({**sight.guided.records[0], "rules": [
        {"autoguidance": {"scale": 2.0, "model": "load:no/such"}}]}))
    found = read(picture(emag=json.dumps(record)))
    assert "autoguidance=2,model=load:no/such" in found.guidance and any("no/such" in note for note in found.notes)


def test_the_command_is_what_was_asked(model, sight):
    words = shlex.split(shell(model, sight.ask))
    command = typer.main.get_command(app).get_command(None, "generate")
    given = command.make_context("generate", words[2:]).params
    assert given["prompts"] == ["a photo of a ship"] and given["negative"] == ["a frog"] and given["seeds"] == "9"
    assert (given["model"], given["steps"], given["scale"]) == ("tiny", 3, 2.0)
    assert rules_of(given["guidance"], None) == sight.ask.rules


def test_a_prompt_that_looks_like_an_option_is_a_prompt(model):
    ask = Ask("--out 'x'; rm -rf $HOME", settings=DrawSettings(2))
    command = typer.main.get_command(app).get_command(None, "generate")
    assert command.make_context("generate", shlex.split(shell(model, ask))[2:]).params["prompts"] == [ask.prompt]


def test_the_lines_of_python_give_the_picture(model, sight, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = {}
    exec(python(model, sight.ask), held)
    assert png.same_pixels(held["out"].images[0], sight.guided.images[0]) and list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("name", sorted(set(METHODS) & set(example_rules())))
def test_every_rule_is_a_line_of_python(name):
    for rule in example_rules()[name]:
        assert eval(code(rule), {"emag": emag, "torch": torch}) == rule


def test_schedules_and_windows_are_lines_of_python():
    for rule in parse("cfg=interval:scale=4:high=1.6 emag=2,window=progress:0:0.2:0.8,layers=2-4 fdg=4+2"):
        assert eval(code(rule), {"emag": emag}) == rule
