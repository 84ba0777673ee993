"""The judge of single natural pictures: its weights, what it must not judge, training that resumes and refuses."""

import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from emag.errors import BadValue
from emag.lab.evaluate.folder import RunFolder
from emag.lab.evaluate.metrics import measure
from emag.lab.evaluate.metrics.extractors.discriminator import Realness
from emag.lab.evaluate.spec import parse
from emag.lab.evaluate.tasks import seed_of
from emag.lab.train import discriminator as training
from emag.lab.train.discriminator import DiscriminatorSettings, Training, finish, train
from emag.lab.train.sides import Sides, sides
from emag.models import discriminator
from emag.models.discriminator import CARD, FOLDER, WEIGHTS, Discriminator, Learned, as_stored, load_discriminator
from extracting import pictures

SMALL = DiscriminatorSettings(steps=60, widths=(32, 32), batch_size=8, warmup=5, lr=1e-2)
LEARNED = Learned("small", 3, 20, 0, 16)
QUIET = Console(quiet=True)
pytest.importorskip("pyarrow")


def noise(n, seed, level):
    """Pictures [n, 3, 16, 16] of blotches (level 0) or of fine grain (40)."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((n, 3, 4, 4)).repeat(4, 2).repeat(4, 3)
    made = 128 + (40 - level) * coarse + level * rng.standard_normal((n, 3, 16, 16))
    return torch.from_numpy(made.clip(0, 255).astype(np.uint8))


@pytest.fixture
def both():
    return Sides(noise(60, 0, 40), noise(60, 1, 10), noise(40, 2, 40), noise(40, 3, 10))


@pytest.fixture
def trained(both, tmp_path):
    made = Training(both, SMALL)
    train(made, tmp_path / "judge", asdict(LEARNED), console=QUIET)
    return tmp_path / "judge", finish(made, tmp_path / "judge", LEARNED)


def test_the_embedded_one_tells_real_pictures_from_plain_ones():
    card = json.loads((FOLDER / CARD).read_text())
    assert card["pairs"] >= 0.9 and card["accuracy"] >= 0.85 and card["held_out"] == [10000, 500]
    assert (FOLDER / WEIGHTS).stat().st_size < 1e6
    model, learned = load_discriminator()
    assert (learned.model, learned.size, learned.jpeg) == ("tiny", 32, 75)
    assert model.logits(as_stored(np.full((2, 32, 32, 3), 127, np.uint8), 75)).isfinite().all()


def test_a_logit_is_of_one_picture_and_its_mirror_image():
    model, _ = load_discriminator()
    images = torch.from_numpy(pictures(1, 6, 32, 32)).permute(0, 3, 1, 2)
    whole = model.logits(images)
    assert torch.allclose(whole, torch.cat([model.logits(one[None]) for one in images]), atol=1e-4)
    assert torch.allclose(whole, model.logits(images.flip(-1)), atol=1e-5) and whole.std() > 0.01


def test_pictures_are_brought_into_the_form_of_the_real_ones():
    images = pictures(2, 3, 32, 32)
    assert (as_stored(images, 0).permute(0, 2, 3, 1).numpy() == images).all()
    sink = io.BytesIO()
    Image.fromarray(images[1]).save(sink, "JPEG", quality=75, subsampling="4:2:0")
    stored = as_stored(images, 75).permute(0, 2, 3, 1).numpy()
    assert (stored[1] == np.asarray(Image.open(sink))).all() and (stored != images).any()


def test_it_learns_what_differs_and_says_how_well_on_what_it_never_saw(trained):
    folder, card = trained
    assert card["pairs"] > 0.95 and card["accuracy"] > 0.9 and card["logits"][0] > 0 > card["logits"][1]
    model, learned = load_discriminator(folder)
    assert learned == LEARNED and model.logits(noise(30, 9, 40)).mean() > 1 > -1 > model.logits(noise(30, 9, 10)).mean()
    between = [float(model.logits(noise(30, 9, level)).mean()) for level in (10, 20, 40)]
    assert between == sorted(between)


def test_it_cannot_tell_what_does_not_differ(both, tmp_path):
    made = Training(Sides(noise(60, 0, 20), noise(60, 1, 20), noise(60, 2, 20), noise(60, 3, 20)), SMALL)
    train(made, tmp_path, {}, console=QUIET)
    assert 0.3 < finish(made, tmp_path, LEARNED)["pairs"] < 0.7


def test_resumed_it_ends_where_an_undisturbed_run_does(both, tmp_path):
    settings = replace(SMALL, steps=9)
    train(Training(both, settings), tmp_path / "whole", {}, console=QUIET)
    stopped = Training(both, settings)
    assert not train(stopped, tmp_path / "parts", {}, lambda: stopped.step == 4, QUIET)
    assert train(Training(both, settings), tmp_path / "parts", {}, console=QUIET)
    whole, parts = (load_file(tmp_path / name / training.FILE) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    other = Training(both, replace(settings, seed=1))
    train(other, tmp_path / "other", {}, console=QUIET)
    assert not torch.equal(other.model.head.weight, Training(both, settings).model.head.weight)


@pytest.mark.parametrize(("settings", "facts", "says"), [({"seed": 1}, {}, "settings"), ({}, {"images": 3}, "images")])
def test_a_folder_with_another_run_is_refused(both, tmp_path, settings, facts, says):
    made = Training(both, replace(SMALL, steps=1))
    train(made, tmp_path, {"images": 2}, console=QUIET)
    with pytest.raises(BadValue, match=f"other .*{says}"):
        train(Training(both, replace(SMALL, steps=1, **settings)), tmp_path, {"images": 2, **facts}, console=QUIET)
    (tmp_path / training.FILE).write_bytes(b"nothing")
    with pytest.raises(BadValue, match="no checkpoint"):
        train(made, tmp_path, {"images": 2}, console=QUIET)
    finish(made, tmp_path, LEARNED)
    (tmp_path / training.FILE).unlink()
    with pytest.raises(BadValue, match="to continue from"):
        train(made, tmp_path, {"images": 2}, console=QUIET)


# runs


def run_of(path, seed=3, size=16, images=20, level=10, recipes=None):
    """A finished run folder of noise."""
    recipes = recipes or {"none": {"guidance_scale": 1}}
    spec = parse({"model": "small", "classes": ["disc"], "images": images, "seed": seed, "steps": 2, "recipes": recipes})
    folder = RunFolder(str(path))
    folder.begin(spec, {"run": "x", "versions": {}, "prompts_sha256": "", "model_config_sha256": ""})
    for at, name in enumerate(recipes):
        rows = [{"number": i, "prompt": "disc", "category": "", "class": "disc", "seed": seed_of(seed, i), "model": "small",
                 "versions": "{}", "picks": [], "evaluations": 1, "seconds": 1.0} for i in range(images)]
        folder.commit(name, rows, [png(one) for one in noise(images, 50 + at, level)[..., :size, :size]])
    return folder


def png(image):
    sink = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(sink, "PNG")
    return sink.getvalue()


def test_it_judges_runs_picture_by_picture_and_pairs_them(trained, tmp_path):
    folder = run_of(tmp_path / "run", seed=4, recipes={"none": {"guidance_scale": 1}, "cfg": {"guidance_scale": 3}})
    plan = measure.plan(["discriminator"], discriminator=trained[0])
    found = {(one.recipe, one.against): one for one in measure.measure(folder, plan, against=["none"])}
    model, _ = load_discriminator(trained[0])
    logits = model.logits(noise(20, 51, 10))
    assert found["cfg", None].value == pytest.approx(float(logits.mean()), abs=1e-4)
    assert found["cfg", "none"].p is not None and found["cfg", None].version.startswith("discriminator-")
    assert "of small" in found["cfg", None].version


def test_it_refuses_pictures_of_seeds_that_it_learned_from(trained, tmp_path, monkeypatch):
    plan = measure.plan(["discriminator"], discriminator=trained[0])
    monkeypatch.setattr(Realness, "__call__", lambda *a: pytest.fail("an image was judged"))
    with pytest.raises(BadValue, match="20 of 20 images of none have seeds that the discriminator learned from"):
        measure.measure(run_of(tmp_path / "run"), plan)
    with pytest.raises(BadValue, match="20 of 30"):
        measure.measure(run_of(tmp_path / "more", images=30), plan)


def test_it_refuses_pictures_of_another_size(trained):
    with pytest.raises(BadValue, match="16x16 pixels, not 20x12"):
        Realness(folder=trained[0])(pictures(0, 2, 12, 20), [])


def test_missing_and_damaged_folders(trained, tmp_path):
    with pytest.raises(BadValue, match="lacks"):
        load_discriminator(tmp_path)
    with pytest.raises(BadValue, match="lacks"):
        measure.plan(["discriminator"], discriminator=tmp_path)
    before = discriminator.discriminator_digest(trained[0])
    card = json.loads((trained[0] / CARD).read_text())
    (trained[0] / CARD).write_text(json.dumps({**card, "pairs": 0}))
    assert discriminator.discriminator_digest(trained[0]) != before
    for text in ("{}", json.dumps({**card, "learned": {"model": "a"}})):
        (trained[0] / CARD).write_text(text)
        with pytest.raises(BadValue, match="cannot be read"):
            load_discriminator(trained[0])


@pytest.fixture
def real(tmp_path):
    """Real pictures in two splits."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, seed in (("train", 0), ("test", 1)):
        rows = [{"image": {"bytes": png(one), "path": None}, "label": 0} for one in noise(30, seed, 40)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    return tmp_path


def test_sides_keep_the_last_pictures_and_the_test_split_apart(real, tmp_path):
    run_of(tmp_path / "run")
    learned, both = sides(real, str(tmp_path / "run"), 0)
    assert learned == LEARNED and [len(one) for one in vars(both).values()] == [30, 16, 30, 4]
    assert torch.equal(torch.cat([both.plain, both.held_plain]), noise(20, 50, 10))
    assert torch.equal(both.real, noise(30, 0, 40)) and torch.equal(both.held_real, noise(30, 1, 40))
    assert not torch.equal(sides(real, str(tmp_path / "run"), 75)[1].plain, both.plain)


@pytest.mark.parametrize(("changes", "says"), [
    ({"recipes": {"cfg": {"guidance_scale": 3}}}, "has none"), ({"images": 3}, "4 images or more"),
    ({"recipes": {"a": {"guidance_scale": 1}, "b": {"guidance_scale": 1, "steps": 3}}}, "has a, b"),
    ({"size": 8}, "16 pixels or more")])
def test_runs_that_it_cannot_learn_from_are_refused(real, tmp_path, changes, says):
    run_of(tmp_path / "run", **changes)
    with pytest.raises(BadValue, match=says):
        sides(real, str(tmp_path / "run"), 0)


def test_the_command_trains_goes_on_and_explains(real, tmp_path):
    import typer

    app = typer.Typer()
    app.command()(training.command)

    def command(*arguments):
        return CliRunner().invoke(app, [str(one) for one in arguments])

    run_of(tmp_path / "run")
    line = (tmp_path / "out", "--data", real, "--plain", tmp_path / "run", "--steps", 2, "--jpeg", 0)
    done = command(*line)
    assert done.exit_code == 0 and "of held-out pairs" in done.output, done.output
    first = (tmp_path / "out" / WEIGHTS).read_bytes()
    assert command(*line).exit_code == 0 and (tmp_path / "out" / WEIGHTS).read_bytes() == first
    assert not list((tmp_path / "out").glob("*.part"))
    for wrong, says in (((*line, "--seed", 1), "other settings"), ((tmp_path / "new", "--data", tmp_path / "out", *line[3:]),
                                                                   "no train*.parquet")):
        refused = command(*wrong)
        assert refused.exit_code == 2 and says in refused.output
    assert not (tmp_path / "new").exists()


def test_any_size_from_sixteen_pixels_on():
    for size in (16, 40):
        assert Discriminator().eval().logits(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2,)
