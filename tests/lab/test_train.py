"""Training: data, resuming, and that what comes out loads."""

import io
import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from emag.errors import BadValue
from emag.hosts.load import load
from emag.lab import labelled as data
from emag.lab.train import checkpoint
from emag.lab.train.__main__ import train
from emag.lab.train.progress import Budget, Clock, stop_on_signals
from emag.lab.train.trainer import Trainer, TrainSettings

SMALL = {"classes": ("disc", "box"), "size": 8, "layers": 2, "heads": 1, "patch": 4, "batch_size": 4, "warmup": 2}
QUIET = Console(quiet=True)
pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    import pyarrow
    import pyarrow.parquet

    rng, rows = np.random.default_rng(0), []
    for i in range(10):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 12 if i == 3 else 8, 3), dtype=np.uint8)).save(buffer, "PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": i % 2})
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def trainer(parquet):
    return lambda **more: Trainer(TrainSettings(**{**SMALL, **more}), data.read(str(parquet), 8, 2), torch.device("cpu"),
                                  torch.float32)


def run(trainer, out, steps, **more):
    return train(trainer, out, Budget(steps, None), console=QUIET, **{"sheet_minutes": 0, **more})


def tensors(out):
    return load_file(out / checkpoint.FILE)


def same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_data_from_a_file_or_its_folder(parquet):
    images = data.read(str(parquet), 8, 2)
    assert images.pixels.shape == (10, 3, 8, 8) and images.pixels.dtype == torch.uint8
    assert images.labels.tolist() == [0, 1] * 5
    assert torch.equal(data.read(str(parquet.parent), 8, 2).pixels, images.pixels)


def test_bad_data(parquet, tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"nothing")
    for source, classes, says in ((parquet, 1, "labels from 0 to 1"), (tmp_path, 2, "not a parquet file"),
                                  ("nobody/nothing", 2, "nobody/nothing")):
        with pytest.raises(BadValue, match=says):
            data.read(str(source), 8, classes)
    (tmp_path / "train.parquet").unlink()
    with pytest.raises(BadValue, match="no parquet file"):
        data.read(str(tmp_path), 8, 2)


def test_training_lowers_the_loss(trainer):
    small = trainer(flip=False, lr=3e-3)
    losses = [float(small.advance(0.0)) for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_an_epoch_shows_each_image_once(trainer):
    small = trainer(batch_size=5)
    picks = []
    for small.step in range(4):
        picks.append(small._pick())
    assert sorted(torch.cat(picks[:2]).tolist()) == list(range(10)) == sorted(torch.cat(picks[2:]).tolist())
    assert not torch.equal(torch.cat(picks[:2]), torch.cat(picks[2:]))


def test_words_and_pixels_of_a_batch(trainer):
    small = trainer(drop=0.0, flip=False, batch_size=10)
    x0, eps, s, ids = small.batch()
    assert x0.abs().max() <= 2 and x0.shape == eps.shape == (10, 3, 8, 8) and ((s > 0) & (s < 1)).all()
    assert torch.equal(ids[:, 4] - 4, small.task.images.labels[small._pick()])
    assert trainer(drop=1.0).batch()[3].eq(0).all()


def test_words_of_another_model_stay_as_they_are(trainer, tmp_path):
    other, small = tmp_path / "other", {"flip": False, "lr": 3e-3}
    run(trainer(**small), other, 3)
    guide = trainer(words=str(other), seed=1, **small)
    theirs = load(other, device="cpu").text_encoder_3.embedding.weight
    run(guide, tmp_path / "guide", 2)
    run(trainer(words=str(other), seed=1, **small), tmp_path / "guide", 4)
    mine = load(tmp_path / "guide", device="cpu").text_encoder_3.embedding.weight
    assert torch.equal(mine, theirs) and not any("words" in name for name in guide.parameters)
    assert torch.equal(guide.pipeline().text_encoder_3.embedding.weight, theirs)
    with pytest.raises(BadValue, match="the words of tiny are not those of disc, box"):
        trainer(words="tiny")


def test_resuming_ends_where_an_uninterrupted_run_does(trainer, tmp_path):
    run(trainer(), tmp_path / "whole", 8)
    stopped = trainer()
    assert not run(stopped, tmp_path / "parts", 8, stopped=lambda: stopped.step == 5)
    assert json.loads((tmp_path / "parts/prompt.json").read_text())["steps"] == 5
    assert run(trainer(), tmp_path / "parts", 8)
    same(tensors(tmp_path / "whole"), tensors(tmp_path / "parts"))
    same(load_file(tmp_path / "whole/diffusion_pytorch_model.safetensors"),
         load_file(tmp_path / "parts/diffusion_pytorch_model.safetensors"))


def test_a_kill_while_saving_leaves_the_last_whole_files(trainer, tmp_path, monkeypatch):
    run(trainer(), tmp_path, 2)
    before = tensors(tmp_path)
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(BadValue, match="killed"):
        run(trainer(), tmp_path, 4)
    monkeypatch.undo()
    same(before, tensors(tmp_path))
    again = trainer()
    assert checkpoint.restore(again, tmp_path) > 0 and again.step == 2


def test_a_folder_with_another_run_is_refused(trainer, tmp_path):
    run(trainer(), tmp_path, 1)
    with pytest.raises(BadValue, match="holds a run with layers=2"):
        run(trainer(layers=3), tmp_path, 2)
    assert checkpoint.restore(trainer(), tmp_path) > 0
    (tmp_path / checkpoint.FILE).write_bytes(b"garbage")
    with pytest.raises(BadValue, match="no checkpoint that can be read"):
        run(trainer(), tmp_path, 2)
    (tmp_path / checkpoint.FILE).unlink()
    with pytest.raises(BadValue, match="no checkpoint"):
        run(trainer(), tmp_path, 2)


def test_what_was_trained_loads_and_draws(trainer, tmp_path):
    small = trainer()
    run(small, tmp_path, 3, sheet_minutes=99, save_minutes=0)
    assert [file.name for file in (tmp_path / "samples").iterdir()] == ["step-0000003.png"]
    pipe = load(tmp_path, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.classes == ("disc", "box")
    latents = torch.randn(2, 3, 8, 8)
    call = {"prompt": ["a disc", "boxes"], "latents": latents, "num_inference_steps": 3, "output_type": "pt"}
    assert torch.allclose(pipe(**call).images, small.pipeline()(**call).images, atol=0.05)
    facts = json.loads((tmp_path / "prompt.json").read_text())
    assert facts["steps"] == 3 and facts["images_seen"] == 12
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("*.p*kl*"))


def test_a_loss_that_is_no_number_ends_the_run(trainer, tmp_path):
    broken = trainer()
    broken.model["words"].embedding.weight.data.fill_(float("nan"))
    with pytest.raises(BadValue, match="no longer a number"):
        run(broken, tmp_path, 2)
    assert not (tmp_path / checkpoint.FILE).exists()


def test_a_signal_stops_after_the_step():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGTERM)
        assert stopped() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def test_budget_and_clock():
    assert Budget(10, None).fraction(5, 1e9) == 0.5 and Budget(10, 1.0).fraction(1, 45) == 0.75
    assert Budget(None, 0.0).fraction(0, 0) >= 1
    clock = Clock(before=100.0)
    assert clock.seconds >= 100 and clock.due("save", 0) and not clock.due("save", 1)


def command(*arguments):
    import typer

    from emag.lab.train.__main__ import command as entry

    app = typer.Typer()
    app.command()(entry)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_command_trains_continues_and_explains(parquet, tmp_path):
    options = ("--data", parquet, "--classes", "disc,box", "--size", 8, "--layers", 2, "--heads", 1, "--batch-size", 4,
               "--sheet-minutes", 0, "--device", "cpu")
    assert command(tmp_path, *options, "--steps", 2).exit_code == 0
    result = command(tmp_path, *options, "--steps", 3)
    assert result.exit_code == 0 and "continues at step 2" in result.output and "saved at step 3" in result.output


@pytest.mark.parametrize(("options", "says"), [
    (("--data", "/no/such/file"), "/no/such/file"), (("--classes", "a,a"), "only once"), (("--patch", 5), "not a multiple"),
    (("--device", "abacus"), "unknown device"), (("--dtype", "float16"), "--dtype"), (("--layers", 1), "layers")])
def test_bad_options_are_one_line_and_code_2(parquet, tmp_path, options, says):
    result = command(tmp_path / "out", "--data", parquet, *options)
    assert result.exit_code == 2 and says in result.output
    assert not (tmp_path / "out").exists()
