"""The model of the world of shapes: its words, its autoencoder, its pipeline and its training."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

import emag
from emag.errors import BadValue
from emag.hosts.load import MODELS, load
from emag.lab.forecast import forecast
from emag.lab.train import checkpoint, world
from emag.lab.train.__main__ import command, train
from emag.lab.train.autoencoder import train as train_code
from emag.lab.train.autoencoder_trainer import AutoencoderTrainer, quality
from emag.lab.train.autoencoder_trainer import Settings as Coding
from emag.lab.train.optimizers import STATE
from emag.lab.train.progress import Budget
from emag.lab.train.trainer import WORLDS, Trainer, TrainSettings
from emag.methods import METHODS
from emag.models import WEIGHTS, folder
from emag.models.patches import PatchAutoencoder
from emag.models.phrases import PhraseEncoder
from emag.models.shapes import ShapesPipeline
from emag.worlds.shapes.prompts import ids
from tiny import generators

QUIET = Console(quiet=True)
SMALL = {"layers": 2, "heads": 1, "head_dim": 16, "batch_size": 4, "warmup": 2}


@pytest.fixture(scope="module")
def pipe():
    if "shapes" not in MODELS:
        pytest.skip("its weights are not in the package")
    made = load("shapes", device="cpu")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def words():
    torch.manual_seed(0)
    return PhraseEncoder()


def draw(pipe, prompts, seeds, **more):
    return pipe(prompts, num_inference_steps=3, output_type="pt", generator=generators(seeds), **more).images


def states(words, prompt):
    return words(torch.tensor([ids(prompt)]))


def test_words_of_a_phrase_know_its_other_words_and_what_is_around(words):
    pair, moved = (states(words, f"a red circle {joint} a blue square")[0][0].detach() for joint in ("left of", "above"))
    swapped = states(words, "a red circle left of a green square")[0][0].detach()
    assert torch.equal(pair[:5], swapped[:5]) and not torch.equal(pair[5], swapped[5])
    assert not torch.equal(pair[7], swapped[7])  # "square" knows its colour
    assert not torch.equal(pair[1], moved[1])  # "red" knows the relation
    assert torch.equal(pair[3], swapped[3])  # "left" knows neither


def test_first_and_second_phrase_differ_in_what_a_relation_means_for_them(words):
    with torch.no_grad():
        words.place.weight.zero_()
    a, b = states(words, "a red circle left of a red ring")[0][0, [1, 6]]
    c, d = states(words, "a red ring left of a red circle")[0][0, [1, 6]]
    assert not torch.allclose(a, d) and not torch.allclose(b, c)
    a, b = states(words, "a red ring")[0][0, 1], states(words, "red ring")[0][0, 0]
    assert torch.allclose(b + words.tables["phrase"].weight[ids("a")[0]], a, atol=1e-5)


def test_the_pooled_vector_is_a_sum_of_words_and_the_empty_prompt_has_none(words):
    table = words.tables["pooled"].weight
    assert torch.allclose(states(words, "a red ring")[1][0], sum(table[i] for i in ids("a red ring")[:3]), atol=1e-5)
    assert states(words, "")[1].abs().max() == 0 and words.prompt_ids(["  "]).abs().max() == 0


def test_prompts_are_encoded_as_the_world_says_them(words):
    assert torch.equal(words.prompt_ids(["red circle"]), words.prompt_ids(["a red disc."]))
    with pytest.raises(BadValue, match="unknown word 'dog'"):
        words.check("a red dog")
    words.check("")


def test_whitening_is_undone_by_the_decoder():
    torch.manual_seed(1)
    model, raw = PatchAutoencoder(), torch.randn(50, 4, 6, 6) * torch.tensor([1.0, 3, 0.2, 1]).view(4, 1, 1) + 2
    raw[:, 1] += raw[:, 0]
    mean, scale = raw.mean((0, 2, 3)), 1 / raw.std((0, 2, 3))
    model.set_whitening(raw, mean, scale)
    rows = model.white(raw).permute(0, 2, 3, 1).reshape(-1, 4)
    assert torch.allclose(rows.T.cov(), torch.eye(4), atol=1e-3) and rows.mean(0).abs().max() < 1e-3
    read = (raw - mean.view(4, 1, 1)) * scale.view(4, 1, 1)
    assert torch.allclose(model.colour(model.white(raw)), read, atol=1e-3)


def test_the_embedded_autoencoder_keeps_scenes_and_has_white_latents(pipe):
    found = quality(pipe.vae, 64)
    assert found["decibels"] > 33 and found["right"] > 0.9
    pixels, _ = world.pictures(np.random.default_rng(0), 64)
    with torch.no_grad():
        rows = pipe.vae.encode(pixels).permute(0, 2, 3, 1).reshape(-1, 4)
    assert (rows.T.cov() - torch.eye(4)).abs().max() < 0.15


def test_pipeline(pipe):
    assert type(pipe) is ShapesPipeline and pipe.emag_source["model"] == "shapes" and pipe.vae_scale_factor == 4
    images = draw(pipe, ["a red circle", "two blue rings on black"], (1, 2))
    assert images.shape == (2, 3, 64, 64) and images.min() >= 0 and images.max() <= 1
    assert torch.allclose(draw(pipe, ["two blue rings on black"], (2,))[0], images[1], atol=1e-4)
    assert not torch.allclose(draw(pipe, ["two green rings on black"], (2,))[0], images[1], atol=1e-2)


@pytest.mark.parametrize(("arguments", "says"), [
    ({"prompt": "a dog"}, "unknown word"), ({"prompt": "a red circle", "negative_prompt": "blurry"}, "unknown word"),
    ({"prompt": "a red circle", "height": 128}, "at most 64x64"),
    ({"prompt": "a red circle", "width": 60}, "divisible by 8"),
    ({"prompt": ["two red circles and a blue ring"]}, "between one object")])
def test_bad_calls_end_before_the_network_runs(pipe, arguments, says, monkeypatch):
    monkeypatch.setattr(pipe.transformer, "forward", lambda *a, **k: pytest.fail("the network ran"))
    with pytest.raises(BadValue, match=says):
        pipe(**arguments)


def test_its_plan_knows_its_sizes(pipe):
    found = forecast("shapes", [emag.EMAG()], 8)
    assert (found["image_tokens"], found["text_tokens"], found["blocks"]) == (64, 12, 6)
    assert forecast("shapes", [], 8, 32, 64)["image_tokens"] == 32 and forecast("tiny", [], 8)["text_tokens"] == 8


@pytest.mark.parametrize("rule", [emag.EMAG(scale=1.5), METHODS["pag"](scale=1.5), emag.CFG(scale=3.0),
                                  emag.APG(scale=3.0)])
def test_guidance_acts_on_it(pipe, rule):
    plain = draw(pipe, ["a red circle"], (1,))
    with emag.guide(pipe, rule):
        guided = draw(pipe, ["a red circle"], (1,))
    assert not torch.equal(plain, guided)


def test_save_pretrained_and_back(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = load(str(tmp_path), device="cpu")
    again.set_progress_bar_config(disable=True)
    assert type(again) is ShapesPipeline
    assert torch.equal(draw(pipe, ["a red circle"], (1,)), draw(again, ["a red circle"], (1,)))


@pytest.mark.parametrize(("facts", "says"), [({"world": "cubes"}, "of the world 'cubes'"),
                                             ({"vocab": ["a"]}, "other words")])
def test_folders_of_other_worlds_are_refused(pipe, tmp_path, facts, says):
    for file in (WEIGHTS / "shapes").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "prompt.json").write_text(json.dumps({**json.loads((tmp_path / "prompt.json").read_text()), **facts}))
    with pytest.raises(BadValue, match=says):
        load(tmp_path, device="cpu")
    (tmp_path / "autoencoder.json").unlink()
    with pytest.raises(BadValue, match=r"lacks autoencoder.json|of the world|other words"):
        load(tmp_path, device="cpu")


@pytest.fixture
def few(monkeypatch, pipe):
    monkeypatch.setattr(world, "PART", 8)
    monkeypatch.setattr(world, "CHUNK", 4)
    return lambda out, count=16: world.Scenes(out, count, pipe.vae)


def test_scenes_are_drawn_once_and_by_number(few, tmp_path, monkeypatch):
    first = few(tmp_path)
    assert len(first) == 16 and first.latents.shape == (16, 4, 16, 16) and first.ids.shape == (16, 12)
    monkeypatch.setattr(world, "encoded", lambda number, model: pytest.fail("drawn again"))
    assert torch.equal(few(tmp_path, 8).latents, first.latents[:8])
    monkeypatch.undo()
    monkeypatch.setattr(world, "PART", 8)
    monkeypatch.setattr(world, "CHUNK", 4)
    (tmp_path / "0001.safetensors").unlink()
    assert torch.equal(few(tmp_path).latents, first.latents)


def trainer(few, tmp_path, **more):
    return Trainer(TrainSettings(**{**vars(WORLDS["shapes"]), **SMALL, **more}), few(tmp_path / "pool"), torch.device("cpu"),
                   torch.float32)


def test_training_on_a_world_resumes_with_both_optimizers(few, tmp_path):
    def go(out, **more):
        return train(trainer(few, tmp_path), tmp_path / out, Budget(6, None), sheet_minutes=0, console=QUIET, **more)
    assert go("whole", keep=(0.5, 0.99))
    stopped = iter([False, False, True])
    assert not go("parts", stopped=lambda: next(stopped)) and go("parts")
    whole, parts = (load_file(tmp_path / out / checkpoint.FILE) for out in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert {name.split("/")[0] for name in whole} == {"parameter", "average", *STATE}
    kept = load(tmp_path / "whole/kept/0.5", device="cpu")
    assert type(kept) is ShapesPipeline and json.loads((tmp_path / "whole/kept/0.5/prompt.json").read_text())["steps"] == 3


def test_training_on_a_world_lowers_the_loss_and_what_comes_out_loads(few, tmp_path):
    small = trainer(few, tmp_path, lr=3e-3)
    losses = [float(small.advance(0.0)) for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    checkpoint.export(small, tmp_path / "out", 1.0)
    made, mine = load(tmp_path / "out", device="cpu"), small.pipeline()
    made.set_progress_bar_config(disable=True)
    assert torch.allclose(draw(made, ["a red ring"], (1,)), draw(mine, ["a red ring"], (1,)), atol=0.08)


def test_a_guide_shares_words_and_latents(few, tmp_path, pipe):
    guide = trainer(few, tmp_path, words="shapes")
    guide.advance(0.0)
    checkpoint.export(guide, tmp_path / "guide", 1.0)
    plain = draw(pipe, ["a red ring"], (1,))
    with emag.guide(pipe, METHODS["autoguidance"](2.0, model=f"load:{tmp_path / 'guide'}")):
        assert not torch.equal(draw(pipe, ["a red ring"], (1,)), plain)
    other = trainer(few, tmp_path, seed=5)
    checkpoint.export(other, tmp_path / "other", 1.0)
    # a checkpoint whose words are its own reads the prompts in them
    with emag.guide(pipe, METHODS["autoguidance"](2.0, model=f"load:{tmp_path / 'other'}")):
        assert not torch.equal(draw(pipe, ["a red ring"], (1,)), plain)


@pytest.mark.parametrize(("options", "says"), [
    (["--world", "cubes"], "--world must be one of shapes"), (["--world", "shapes", "--size", "32"], "--size says nothing"),
    (["--world", "shapes", "--patch", "3"], "not a multiple"), (["--keep", "half"], "--keep must be shares"),
    (["--world", "shapes", "--keep", "2"], "--keep must be shares"),
    (["--world", "shapes", "--flip"], "--flip says nothing"),
    (["--world", "shapes", "--autoencoder", "nowhere"], "lacks autoencoder")])
def test_bad_options(options, says, tmp_path):
    import typer

    app = typer.Typer()
    app.command()(command)
    found = CliRunner().invoke(app, [str(tmp_path / "out"), *options])
    assert found.exit_code == 2 and says in found.output and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_autoencoder_learns_resumes_and_keeps_its_latents(tmp_path, pipe):
    def go(out, until=9, **more):
        small = AutoencoderTrainer(Coding(batch_size=2, **more))
        return train_code(small, tmp_path / out, Budget(4, None), stopped=lambda: small.step == until, console=QUIET)
    assert go("whole") and not go("parts", 2) and go("parts")
    whole, parts = (load_file(tmp_path / out / "training.safetensors") for out in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole) and whole.keys() == parts.keys()
    with pytest.raises(BadValue, match="holds a run with"):
        go("whole", noise=0.1)
    further = AutoencoderTrainer(Coding(batch_size=2), pipe.vae)
    losses = [float(further.advance(1.0)) for _ in range(2)]
    after, pixels = further.averaged(), world.pictures(np.random.default_rng(0), 4)[0]
    assert np.isfinite(losses).all() and torch.equal(after.encode(pixels), pipe.vae.encode(pixels))
    assert not torch.equal(after.decode(after.encode(pixels))[0], pipe.vae.decode(pipe.vae.encode(pixels))[0])


def test_an_autoencoder_in_a_folder(tmp_path):
    torch.manual_seed(0)
    model = PatchAutoencoder(width=16, fine=8)
    folder.write_autoencoder(tmp_path, model)
    again, x = folder.autoencoder(tmp_path), torch.randn(1, 4, 16, 16)
    assert again.config.width == 16 and torch.allclose(again.decode(x)[0], model.decode(x)[0], atol=1e-2)
    (tmp_path / "autoencoder.safetensors").write_bytes(b"")
    with pytest.raises(BadValue, match="cannot be read"):
        folder.autoencoder(tmp_path)
