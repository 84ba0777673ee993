"""The options by which a model is loaded: one list for all commands, each of them reaching `emag.load`."""

import inspect
import json

import pytest
import typer.main

import emag
from emag.errors import BadValue
from emag.lab.cli.app import SECTIONS, app
from emag.lab.cli.loading import FLAGS, Loading
from emag.lab.draw.sampling import DrawSettings
from emag.lab.evaluate.protocol import read
from emag.lab.web.job import Ask
from emag.lab.web.model import opened
from emag.lab.web.told import python, shell

WITHOUT = {"bake": {"lora", "offload"}, "again": {"dtype"}, "reproduce": {"device"},
           "plan": {"device", "dtype", "offload", "lora", "variant"}}
"""What a command does not take: bake trains a LoRA, again has the record's dtype, a plan reads no weights."""
WORDS = {"generate": ("a frog",), "compare": ("a frog", "-c", "host"), "calibrate": (), "doctor": (), "web": ()}
ALL = (*WORDS, *WITHOUT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny") / "pipe"
    emag.load("tiny", device="cpu").save_pretrained(place)
    return place


def weights(folder):
    return folder / "transformer" / "diffusion_pytorch_model.safetensors"


def test_the_options_are_the_keywords_of_load():
    assert set(inspect.signature(emag.load).parameters) - {"name"} == set(vars(Loading()))


@pytest.mark.parametrize("name", ALL)
def test_every_command_with_a_model_has_them(name):
    group = typer.main.get_command(app)
    command = group.get_command(group.make_context("emag", [], resilient_parsing=True), name)
    flags = {flag for param in command.params for flag in param.opts}
    assert {f"--{FLAGS.get(one, one)}" for one in set(vars(Loading())) - WITHOUT.get(name, set())} <= flags
    assert name in {one for names in SECTIONS.values() for one in names}


@pytest.mark.parametrize("name", WORDS)
def test_they_reach_load(run, monkeypatch, name):
    def told(model, **given):
        raise BadValue(json.dumps({"model": model, **given}))

    for place in ("emag.hosts.load.load", "emag.lab.web.model.load"):
        monkeypatch.setattr(place, told)
    said = {one: f"of-{one}" for one in vars(Loading())}
    words = [word for one, value in said.items() for word in (f"--{FLAGS.get(one, one)}", value)]
    code, _, error = run(name, *WORDS[name], *(() if name == "web" else ("-m",)), "some/where", *words)
    assert code == 2 and json.loads(error.removeprefix("emag: error: ")) == {"model": "some/where", **said}


def test_a_plan_of_a_single_file_is_that_of_its_base(run, folder):
    from_file, from_folder = (json.loads(run("plan", "-m", *words, "-g", "emag=1.5,layers=1", "--json")[1])
                              for words in ((weights(folder), "--base", folder), (folder,)))
    assert {**from_file, "model": ""} == {**from_folder, "model": ""} and from_file["blocks"] == 8
    for words, says in (((weights(folder),), "--base"), ((folder / "no.gguf", "--base", folder), "there is no file"),
                        (("tiny", "--base", folder), "leave out base"),
                        ((folder, "--class", "NoSuchPipeline"), "does not have")):
        code, _, error = run("plan", "-m", *words)
        assert code == 2 and says in error and len(error.splitlines()) == 1


def test_the_page_opens_a_single_file_and_tells_how(folder):
    model = opened(str(weights(folder)), base=str(folder), device="cpu", pipeline="TinyPipeline")
    ask = Ask("a photo of a ship", settings=DrawSettings(4))
    assert f"-m {weights(folder)} --base {folder} --class TinyPipeline" in shell(model, ask)
    assert f"emag.load({str(weights(folder))!r}, base={str(folder)!r}, pipeline='TinyPipeline')" in python(model, ask)


def test_a_protocol_on_another_model_that_is_loaded_otherwise():
    asked = read("emag-table2").changed("net.gguf", ["cfg"], 4, base="some/where", dtype="float32")
    held = read("emag-table2").run["model"]
    assert asked.run["model"] == {**(held if isinstance(held, dict) else {}), "id": "net.gguf", "base": "some/where",
                                  "dtype": "float32"}
    assert read("emag-table2").changed(gguf="net.gguf").model == read("emag-table2").model


def test_options_about_no_model_are_refused(run, folder):
    for words, says in ((("doctor", "--gguf", "x.gguf"), "give -m"),
                        (("generate", "a frog", "-m", folder, "--revision", "v2"), "revision='v2' is of a hub id"),
                        (("generate", "a frog", "--revision", "v2"), "leave out revision")):
        code, _, error = run(*words)
        assert code == 2 and says in error and len(error.splitlines()) == 1
