"""A second network named by where it is: the same as handing it in, loaded once, recorded, refused where unfit."""

import shutil

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.hosts import second as seconds
from emag.hosts.guider import EmagGuider
from emag.hosts.load import WEIGHTS, load
from emag.lab.labelled import Images
from emag.lab.train import checkpoint
from emag.lab.train.trainer import Trainer, TrainSettings
from emag.methods import METHODS
from modular import MODULAR
from shell import emag as shell
from tiny import CASES, generators, sd3

Autoguidance = METHODS["autoguidance"]


def trained(out, **settings):
    """A network after two steps of training, its words those of the embedded model unless said otherwise."""
    pixels = torch.randint(0, 255, (10, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    small = {"layers": 2, "heads": 1, "batch_size": 5, "lr": 0.05, "warmup": 1, "words": "tiny", **settings}
    images = Images(pixels.permute(0, 3, 1, 2), torch.arange(10))
    trainer = Trainer(TrainSettings(**small), images, torch.device("cpu"), torch.float32)
    for _ in range(2):
        trainer.advance(0.0)
    checkpoint.export(trainer, out, 1.0)
    return out


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("guide"))


@pytest.fixture
def tiny():
    pipe = load("tiny", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, *rules, **more):
    with emag.guide(pipe, *rules, **more) as run:
        made = pipe(["frog", "ship"], num_inference_steps=3, output_type="pt", generator=generators((1, 2))).images
    return made, run


def test_named_by_its_place_it_is_the_one_handed_in(tiny, guide):
    named, run = draw(tiny, Autoguidance(2.0, model=f"load:{guide}"))
    handed, _ = draw(tiny, Autoguidance(2.0), models={"guide": load(guide, device="cpu").transformer})
    assert torch.equal(named, handed) and run.record["unrecorded"] == []
    assert not torch.equal(named, draw(tiny)[0])


def test_it_is_loaded_once_for_a_pipeline(tiny, guide, monkeypatch):
    rule, loaded = Autoguidance(2.0, model=f"load:{guide}"), []
    original = seconds._loaded
    monkeypatch.setattr(seconds, "_loaded", lambda *args: loaded.append(args) or original(*args))
    first, again = draw(tiny, rule)[0], draw(tiny, rule)[0]
    assert torch.equal(first, again) and len(loaded) == 1
    draw(load("tiny", device="cpu"), rule)
    assert len(loaded) == 2


def test_it_takes_the_dtype_of_the_pipeline(guide):
    pipe = load("tiny", device="cpu", dtype="bfloat16")
    assert seconds.second(pipe, pipe.transformer, f"load:{guide}").dtype == torch.bfloat16


def test_it_follows_a_pipeline_to_another_device(tiny, guide):
    assert seconds.second(tiny, tiny.transformer, f"load:{guide}").device.type == "cpu"
    tiny.to("meta")
    assert seconds.second(tiny, tiny.transformer, f"load:{guide}").device.type == "meta"


def test_a_folder_of_diffusers(tmp_path):
    other = sd3(seed=1)
    other.save_pretrained(tmp_path)
    pipe = sd3()
    with emag.guide(pipe, Autoguidance(2.0, model=f"load:{tmp_path}")):
        named = CASES["sd3"].run(pipe, num_inference_steps=2)
    with emag.guide(pipe, Autoguidance(2.0), models={"guide": other.transformer}):
        assert torch.equal(named, CASES["sd3"].run(pipe, num_inference_steps=2))


def test_in_a_modular_pipeline(tmp_path):
    modular = MODULAR["sd3"]
    modular.case.pipe(seed=1).save_pretrained(tmp_path)
    pipe, rules = modular.case.pipe(), (Autoguidance(2.0, model=f"load:{tmp_path}"), emag.CFG(3.0))
    with emag.guide(pipe, *rules):
        want, inputs = modular.standard(pipe)
    assert modular.near(modular.run(modular.pipe(pipe, EmagGuider(*rules)), inputs), want)


def test_words_of_its_own_are_given_the_prompts(tiny, tmp_path):
    """The other network under its own states of the call's prompts: the same as a function that puts them in by hand."""
    place = trained(tmp_path, words=None)
    other = load(place, device="cpu")
    states = other.encode_prompt(["frog", "ship"], do_classifier_free_guidance=False)
    asked = []

    def by_hand(**given):
        asked.append(len(given["hidden_states"]))
        return other.transformer(**{**given, "encoder_hidden_states": states[0], "pooled_projections": states[2]})

    named, run = draw(tiny, Autoguidance(2.0, model=f"load:{place}"))
    handed, _ = draw(tiny, Autoguidance(2.0), models={"guide": by_hand})
    unread, _ = draw(tiny, Autoguidance(2.0), models={"guide": other.transformer})
    assert torch.equal(named, handed) and asked == [2] * 3 and not torch.equal(named, unread)
    assert run.record["unrecorded"] == []


def test_words_of_its_own_are_asked_the_prompt_alone(tiny, tmp_path):
    name = f"load:{trained(tmp_path, words=None)}"
    with pytest.raises(BadValue, match=r"domain asks .* another condition than the prompt"):
        draw(tiny, METHODS["domain"](model=name))
    with pytest.raises(BadValue, match=r"cads changes the condition, .* leave one out"):
        draw(tiny, METHODS["cads"](), Autoguidance(2.0, model=name))
    found = dict(zip(("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
                     tiny.encode_prompt(["frog"])))
    with emag.guide(tiny, Autoguidance(2.0, model=name)), pytest.raises(BadValue, match="call the pipeline with a prompt"):
        tiny(**found, num_inference_steps=2)


@pytest.mark.parametrize(("settings", "says"), [
    ({"scale": 1.0}, "its pixels are scaled by 1.0, not 2.0")])
def test_a_network_that_would_be_asked_in_another_language(tiny, tmp_path, settings, says):
    place = trained(tmp_path, **settings)
    with pytest.raises(BadValue, match=says):
        draw(tiny, Autoguidance(2.0, model=f"load:{place}"))


def test_other_inputs_and_classes(tiny, tmp_path):
    sd3().save_pretrained(tmp_path / "sd3")
    CASES["pixart"].pipe().save_pretrained(tmp_path / "pixart")
    with pytest.raises(BadValue, match="joint_attention_dim is 12, not 64"):
        draw(tiny, Autoguidance(2.0, model=f"load:{tmp_path / 'sd3'}"))
    with pytest.raises(BadValue, match="it is a PixArtTransformer2DModel, not a SD3Transformer2DModel"):
        draw(tiny, Autoguidance(2.0, model=f"load:{tmp_path / 'pixart'}"))


def test_the_same_network_is_no_weaker_one(tiny, tmp_path):
    shutil.copytree(WEIGHTS / "tiny", tmp_path / "copy")
    with pytest.raises(emag.NoEffect, match="predicts what the pipeline's own does"):
        draw(tiny, Autoguidance(2.0, model=f"load:{tmp_path / 'copy'}"))


@pytest.mark.parametrize("name", ["load:", ""])
def test_a_place_needs_a_name(name):
    with pytest.raises(BadValue, match="'load:a folder or hub id'"):
        Autoguidance(2.0, model=name)


def test_from_a_shell_and_made_again(tmp_path, guide, monkeypatch, capsys):
    rule = f"autoguidance=2,model=load:{guide}"
    assert shell(monkeypatch, capsys, "generate", "a frog", "-n", 3, "-g", rule, "-o", tmp_path / "first")[0] == 0
    picture, = (tmp_path / "first").glob("*.png")
    assert shell(monkeypatch, capsys, "again", picture, "-o", tmp_path / "again")[0] == 0
    again, = (tmp_path / "again").glob("*.png")
    assert picture.read_bytes() == again.read_bytes()


def test_a_run_refuses_it_before_any_image(tmp_path):
    from emag.lab.evaluate.run import run
    from emag.lab.evaluate.spec import parse

    spec = parse({"classes": ["frog"], "images": 1, "steps": 2, "out": str(tmp_path / "run"),
                  "recipes": {"guided": "autoguidance=2,model=load:nowhere"}})
    with pytest.raises(BadValue, match="recipe guided: no model 'nowhere'"):
        run(spec)
    assert not (tmp_path / "run/run.json").exists()


def test_a_run_with_it_is_the_pipeline(tmp_path, guide):
    from emag.lab.evaluate.run import run
    from emag.lab.evaluate.spec import parse

    rules = [{"autoguidance": {"scale": 2.0, "model": f"load:{guide}"}}]
    folder = run(parse({"classes": ["frog"], "images": 1, "steps": 2, "out": str(tmp_path / "run"),
                        "recipes": {"guided": {"rules": rules}, "plain": {}}}))
    assert folder.image("guided", 0).tobytes() != folder.image("plain", 0).tobytes()
