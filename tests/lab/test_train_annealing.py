"""Training the head of annealing guidance: its losses, what they ask for, and the file that the scale reads."""

import io

import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import emag
from emag.errors import BadValue, Unsupported
from emag.hosts.own_loop import Loop, loop_model
from emag.lab.train.annealing_head import HeadSettings, HeadTrainer, command, opened
from emag.samplers import Path, sample
from emag.schedules.annealing import features
from paths import CURVED, PLAIN, Toy, path, points

close = torch.testing.assert_close
SMALL = HeadSettings(hidden=16, layers=1, lr=5e-3, seed=3)
LEVELS = Path.flow(tuple(1 - i / 8 for i in range(9)))


def toy(cond=PLAIN, uncond=CURVED):
    return Toy(LEVELS, "flow", cond=cond, uncond=uncond)


def scales(trainer, sigma, strength):
    """w over a spread of differences."""
    with torch.no_grad():
        return trainer.scale(sigma, torch.linspace(0.0, 0.4, 9).double(), torch.full((9,), strength))


@pytest.mark.parametrize("i", [1, 4, 6])
def test_the_losses_are_their_formulas(i):
    """By hand, on epsilon: |u + w (c - u) - e|^2 here, |c - u|^2 where x0(w) and the noise u lead."""
    trainer, model, x0, noise, lam = HeadTrainer(SMALL, 1.7), toy(), points(6), points(6, 9), torch.linspace(0, 1, 6)
    (a, s), (b, t) = LEVELS.at(i), LEVELS.at(i + 1)
    x = a * x0 + s * noise
    c, u = (field.predict(x, a, s, "epsilon") for field in (PLAIN, CURVED))
    guided = u + 1.7 * (c - u)  # the last layer begins at 0
    there = b * (x - s * guided) / a + t * u
    apart = PLAIN.predict(there, b, t, "epsilon") - CURVED.predict(there, b, t, "epsilon")
    true, agree = trainer.losses(model, i, x0, noise, lam)
    close(true, (guided - noise).square()[:, 0])
    close(agree, apart.square()[:, 0])


@pytest.mark.slow
def test_the_noise_alone_asks_for_the_conditional_prediction():
    """c is the mean of the noise given x, so that the first loss is least at w = 1, wherever it starts."""
    trainer, model = HeadTrainer(SMALL, 2.5), toy()
    x0 = PLAIN.sample(512, torch.Generator().manual_seed(0))
    for step in range(250):
        true, _ = trainer.losses(model, 1 + step % 6, x0, points(512, 1000 + step), torch.zeros(512))
        trainer.optimizer.zero_grad()
        true.mean().backward()
        trainer.optimizer.step()
    found = scales(trainer, 0.5, 0.0)
    assert (found.mean() - 1).abs() < 0.25 < (scales(HeadTrainer(SMALL, 2.5), 0.5, 0.0).mean() - 1).abs()


def test_agreement_alone_lessens_how_far_the_branches_are_apart_later():
    trainer, model, x0 = HeadTrainer(SMALL), toy(), PLAIN.sample(256, torch.Generator().manual_seed(0))
    seen = []
    for _ in range(60):
        _, agree = trainer.losses(model, 3, x0, points(256, 1), torch.ones(256))
        trainer.optimizer.zero_grad()
        agree.mean().backward()
        trainer.optimizer.step()
        seen.append(float(agree.mean()))
    assert seen[-1] < 0.95 * seen[0]


def test_samples_have_a_strength_of_their_own():
    trainer = HeadTrainer(SMALL)
    with torch.no_grad():
        trainer.head[-1][0].add_(0.3)
    apart, lam = torch.tensor([0.1, 0.1, 0.3]).double(), torch.tensor([0.2, 0.9, 0.2])
    found = trainer.scale(0.5, apart, lam)
    assert len(found.unique()) == 3
    close(found.flip(0), trainer.scale(0.5, apart.flip(0), lam.flip(0)))


def test_a_seed_decides_all_and_the_balance_follows_the_ratio():
    runs = []
    for _ in range(2):
        trainer = HeadTrainer(SMALL)
        losses = [trainer.advance(toy(), points(8)) for _ in range(4)]
        runs.append((losses, trainer.tensors(), trainer.rho))
    assert runs[0][0] == runs[1][0] and runs[0][2] == runs[1][2] > 0
    assert all(torch.equal(value, runs[1][1][name]) for name, value in runs[0][1].items())


@pytest.mark.slow
def test_the_scale_reads_what_was_trained(tmp_path):
    """On the embedded model, end to end: its weights stay, the file gives the trainer's w, and the images are its own."""
    pipe, trainer = opened("tiny"), HeadTrainer(SMALL)
    before = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    model = loop_model(pipe, Loop(steps=6), ["frog", "truck"], [None] * 2)
    x0 = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        trainer.advance(model, x0)
    assert all(torch.equal(value, before[name]) for name, value in pipe.transformer.state_dict().items())
    save_file(trainer.tensors(), file := tmp_path / "head.safetensors")
    head = emag.schedules.annealing.read_head(str(file))
    apart = torch.tensor([0.3, 1.2]).double()
    found = 1 + emag.schedules.annealing.evaluate(head, features(0.5, apart, 0.4))
    close(found, trainer.scale(0.5, apart, torch.full((2,), 0.4)).detach(), atol=1e-4, rtol=1e-4)
    ends = [sample(loop_model(pipe, Loop((emag.CFG(scale),), steps=6), ["frog", "truck"], [None] * 2), x0)
            for scale in (emag.Annealing(0.4, weights=str(file)), emag.CFGpp(1.0))]
    assert ends[0].isfinite().all() and (ends[0] - ends[1]).abs().max() > 1e-4


def test_what_it_refuses():
    with pytest.raises(Unsupported, match="time of a flow"):
        HeadTrainer(SMALL).losses(Toy(path("vp"), "v"), 1, points(), points(16, 2), torch.zeros(16))
    with pytest.raises(BadValue, match="no model of these"):
        opened("shapes")


def test_the_command_writes_a_head_and_refuses_before_it_works(tmp_path):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    buffer = io.BytesIO()
    Image.effect_noise((32, 32), 90).convert("RGB").save(buffer, format="PNG")
    rows = [{"img": {"bytes": buffer.getvalue()}, "label": label} for label in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    app, out = typer.Typer(), tmp_path / "head.safetensors"
    app.command()(command)
    done = CliRunner().invoke(app, [str(out), "--data", str(tmp_path), "--steps", "2"])
    assert done.exit_code == 0 and "2 steps" in done.output, done.output
    assert len(emag.schedules.annealing.read_head(str(out))) == 5  # the authors' 3 layers, one into and one out of them
    missing = CliRunner().invoke(app, [str(tmp_path / "other.safetensors"), "--data", str(tmp_path / "none")])
    assert missing.exit_code == 2 and "no train*.parquet" in missing.output and not (tmp_path / "other.safetensors").exists()
