"""The embedded classifier: its weights, its features, and that training works, repeats and refuses bad data."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from emag.errors import BadValue
from emag.lab.evaluate.metrics import table
from emag.lab.evaluate.metrics.extractors import EXTRACTORS
from emag.lab.labelled import CIFAR10, Images, read
from emag.lab.train import classifier as train_classifier
from emag.lab.train.classifier import ClassifierSettings, Crops
from emag.models import classifier
from emag.models.classifier import FOLDER, WEIGHTS, Classifier, load_classifier
from extracting import pictures

DATA = Path(__file__).parents[2] / "../shared/data/cifar10"
SMALL = ClassifierSettings(epochs=2, widths=(4, 6, 8), batch_size=10)
close = np.testing.assert_allclose
pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def trained():
    return load_classifier()


def coloured(n=120, seed=0):
    """Images of two classes that differ by their colour."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=rng)
    pixels = torch.randint(0, 120, (n, 3, 32, 32), generator=rng, dtype=torch.uint8)
    pixels[torch.arange(n), labels] += 100
    return Images(pixels, labels)


def test_the_accuracy_that_is_wanted():
    assert json.loads((FOLDER / classifier.CARD).read_text())["test_accuracy"] >= 0.9


def test_the_card_is_of_these_weights():
    card = json.loads((FOLDER / classifier.CARD).read_text())
    assert card["bytes"] == (FOLDER / WEIGHTS).stat().st_size <= 5e6
    assert card["cpu_minutes"] <= 40 and tuple(card["classes"]) == CIFAR10 and card["widths"][-1] == 256
    weighted = np.mean(card["class_accuracy"])
    close(weighted, card["test_accuracy"], atol=1e-3)


@pytest.fixture(scope="module")
def test():
    if not DATA.is_dir():
        pytest.skip("needs the CIFAR-10 test images")
    return read(str(DATA / "test.parquet"), 32, 10)


@pytest.mark.slow
def test_it_recognises_test_images(trained, test):
    model, card = trained
    some = Images(test.pixels[:1000], test.labels[:1000])
    assert abs(train_classifier.recognised(model, some).mean() - card["test_accuracy"]) < 0.03


def test_features_do_not_depend_on_batches(trained):
    images = pictures(1, 9, 32, 32)
    whole = trained[0].outputs(images)
    assert whole.features.shape == (9, 256) and whole.logits.shape == (9, 10) and whole.features.dtype == torch.float32
    for name in ("features", "logits"):
        parts = torch.cat([getattr(trained[0].outputs(images[i:i + 1]), name) for i in range(9)])
        torch.testing.assert_close(getattr(whole, name), parts, atol=1e-4, rtol=1e-4)


def test_logits_are_the_mean_over_an_image_and_its_mirror_image(trained):
    images = pictures(2, 3, 32, 32)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        both = (trained[0](x) + trained[0](x.flip(-1))) / 2
    found = trained[0].outputs(images)
    torch.testing.assert_close(found.logits, both, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.features, trained[0].outputs(images[:, :, ::-1].copy()).features)


def test_other_sizes_and_types_are_refused(trained):
    for images in (pictures(3, 2, 16, 16), pictures(3, 2, 32, 32).astype(np.float32), pictures(3, 2, 32, 32)[0]):
        with pytest.raises(BadValue, match="uint8 images"):
            trained[0].outputs(images)


def test_whitening():
    """Patches of the images it was set from get unit covariance, up to a small constant; each filter has its negative."""
    model, images = Classifier(10, (4, 6, 8), "gelu"), classifier.pixels(coloured(30).pixels)
    model.set_whitening(images)
    out = model.whiten(images)
    torch.testing.assert_close(out[:, :12], -out[:, 12:], atol=1e-5, rtol=1e-5)
    cov = out[:, :12].permute(1, 0, 2, 3).flatten(1).cov()
    torch.testing.assert_close(cov, torch.eye(12), atol=0.02, rtol=0)


def test_crops_are_shifts_and_mirrors():
    images = coloured(20)
    crops = Crops(images, SMALL)
    padded = np.pad(images.pixels.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    views = {padded[i, :, y:y + 32, x:x + 32][..., ::step].tobytes(): (i, step)
             for i in range(20) for y in range(5) for x in range(5) for step in (1, -1)}
    seen = []
    for _ in range(2):
        for x, labels in crops.epoch():
            keys = [views[((one + 1) * 127.5).round().to(torch.uint8).contiguous().numpy().tobytes()] for one in x]
            assert labels.tolist() == [int(images.labels[i]) for i, _ in keys]
            seen += keys
    assert sorted(seen) == sorted((i, step) for i in range(20) for step in (1, -1))


def test_training_learns_repeats_and_depends_on_the_seed():
    quiet = Console(quiet=True)
    first, again = (train_classifier.train(coloured(), 2, SMALL, quiet) for _ in range(2))
    assert train_classifier.recognised(first, coloured(seed=1)).mean() > 0.9
    for a, b in zip(first.state_dict().values(), again.state_dict().values()):
        assert torch.equal(a, b)
    other = train_classifier.train(coloured(), 2, ClassifierSettings(**{**vars(SMALL), "seed": 1}), quiet)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_the_rate_rises_and_falls_to_nothing():
    rates = [train_classifier._rate(done, 0.2) for done in (0.0, 0.1, 0.2, 0.6, 1.0)]
    close(rates, [0, 0.5, 1, 0.5, 0], atol=1e-12)


@pytest.fixture
def folder(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, seed in (("train", 0), ("test", 1)):
        rows, images = [], coloured(60, seed)
        for pixels, label in zip(images.pixels, images.labels.tolist()):
            sink = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(sink, "PNG")
            rows.append({"image": {"bytes": sink.getvalue(), "path": None}, "label": label})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    return tmp_path


def command(*arguments):
    import typer

    app = typer.Typer()
    app.command()(train_classifier.command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_writes_what_loads(folder, tmp_path):
    out = tmp_path / "out"
    done = command(out, "--data", folder, "--epochs", 1)
    assert done.exit_code == 0 and "test accuracy" in done.output, done.output
    model, card = load_classifier(out)
    test = read(str(folder / "test.parquet"), 32, 10)
    found = model.outputs(test.pixels.permute(0, 2, 3, 1).numpy()).logits.argmax(1)
    close(float((found == test.labels).float().mean()), card["test_accuracy"], atol=1e-3)
    assert not list(out.glob("*.part")) and classifier.weights_digest(out) != classifier.weights_digest()


def test_bad_folders(folder, tmp_path):
    missing = command(tmp_path / "out", "--data", tmp_path / "out")
    assert missing.exit_code == 2 and "no train*.parquet" in missing.output
    with pytest.raises(BadValue, match="lacks classifier"):
        load_classifier(tmp_path)
    with pytest.raises(BadValue, match="lacks classifier"):
        classifier.weights_digest(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"nothing")
    (tmp_path / classifier.CARD).write_text("{}")
    with pytest.raises(BadValue, match="cannot be read"):
        load_classifier(tmp_path)


@pytest.mark.slow
def test_accuracy_and_distance_of_real_images(test):
    """Accuracy of the classes asked for; a small distance to other test images, a larger one to spoilt ones."""
    from emag.lab.evaluate.metrics import frechet

    made = EXTRACTORS["embedded"]("cpu")
    images = test.pixels[:1200].permute(0, 2, 3, 1).numpy()
    found = made(images[:600], [""] * 600)
    columns = {"class": [None] * 300 + [CIFAR10[i] for i in test.labels[300:600]],
               "prompt": [f"a photo of a {CIFAR10[i]}" for i in test.labels[:600]]}
    right = table.accuracy(table.Sample(found, columns, classes=made.classes))
    assert right.value > 0.85 and right.rows == 600
    columns["prompt"][7], columns["class"][7] = "", None
    with pytest.raises(BadValue, match="image 7"):
        table.accuracy(table.Sample(found, columns, classes=made.classes))
    rest = frechet.moments(made(images[600:], [])["features"])
    noise = np.random.default_rng(0).integers(-60, 60, images[:600].shape)
    spoilt = made(np.clip(images[:600] + noise, 0, 255).astype(np.uint8), [])["features"]
    assert frechet.distance(rest, frechet.moments(spoilt)) > 2 * frechet.distance(rest, frechet.moments(found["features"]))
