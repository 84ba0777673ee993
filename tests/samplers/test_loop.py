"""The loop."""

from dataclasses import replace

import pytest
import torch

from emag.errors import BadValue, Unsupported
from emag.maths.streams import Streams, digest
from emag.samplers import (
    CORRECTORS,
    SOLVERS,
    DCSolver,
    Euler,
    Path,
    RectifiedCFGpp,
    ReverseSDE,
    UniPC,
    guided_prediction,
    sample,
    sampled_path,
)
from exact import power_product
from paths import CURVED, PLAIN, WIDE, Tanh, Toy, close, geometric, path, points, start

# the loop


def test_guided_is_exact_at_its_ends():
    p = {"cond": points().float(), "uncond": points(16, 4).float()}
    assert guided_prediction({"cond": p["cond"]}, 1.0, "x") is p["cond"]
    assert torch.equal(guided_prediction(p, 0.0, "x"), p["uncond"])
    close(guided_prediction(p, 7.0, "x"), p["uncond"] + 7 * (p["cond"] - p["uncond"]))
    with pytest.raises(Unsupported, match="pcg at scale 2 needs the unconditional prediction"):
        guided_prediction({"cond": p["cond"]}, 2.0, "pcg")


def test_loop_calls_the_model_once_per_step_and_reports():
    model, seen, states = Toy(path("vp"), "v"), [], []
    end = sample(model, points(), solver=UniPC(2), on_step=lambda *at: seen.append(at), states=states)
    assert seen == [(n, 8) for n in range(1, 9)] and model.calls == 8 and model.beside == 0
    assert len(states) == 1 and set(states[0]) == {"past", "order", "x", "predicted"}
    every = list(sampled_path(model, points(), solver=UniPC(2)))
    assert len(every) == 8 and torch.equal(every[-1], end)
    assert torch.equal(sample(model, points()), sample(model, points(), solver=Euler()))


def test_loop_starts_every_run_afresh():
    solver = UniPC(2)
    ends = [sample(Toy(path("flow"), "flow", cond=CURVED), points(), solver=solver) for _ in range(2)]
    assert torch.equal(*ends)


def test_loop_refuses_a_space_that_does_not_fit():
    for kind, space in (("edm", "flow"), ("flow", "v"), ("vp", "flow")):
        model = Toy(path(kind), space)
        with pytest.raises(BadValue, match=f"{space} predictions do not fit this path"):
            sampled_path(model, points())
        assert model.calls == 0


EVERY = [Euler(), UniPC(2), DCSolver(ratios=(1.0, 1.0) + (0.9,) * 6), RectifiedCFGpp(), ReverseSDE()]


@pytest.mark.parametrize("solver", EVERY)
def test_rows_are_their_own_samples_in_any_shape(solver):
    """Row i of a batch is the sample made alone, for images too, in fp32 and fp64."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = points(3, shape=(2, 4, 4)).to(dtype)

        def run(rows):
            model = Toy(path("flow"), "flow", 2.0, cond=Tanh(1.0), uncond=Tanh(0.3))
            streams = Streams([digest(row) for row in rows])
            model.noise = lambda name, like: streams.normal(name, like)
            return sample(model, rows, solver=solver)

        together = run(x)
        assert together.dtype == dtype and together.shape == x.shape
        for i in range(3):
            close(together[i:i + 1], run(x[i:i + 1]), rtol=tolerance, atol=tolerance)


def test_registries():
    assert set(SOLVERS) == {"euler", "reverse-sde", "unipc", "dc-solver", "rectified-cfg++", "characteristic", "cfg++-euler",
                            "cfg++-2m", "cfg++-2s"}
    assert set(CORRECTORS) == {"pcg", "fkc", "fkc-product", "fkc-anneal", "fkc-reward", "z-sampling", "w2sd", "fsg",
                               "cfg-mp", "fds", "style-moments", "ctrl-z"}
    for name, part in {**SOLVERS, **CORRECTORS}.items():
        assert part.name == name and part.equation and part.paper.startswith("arXiv ") and part.cost and part.__doc__
    assert {part.kind for part in SOLVERS.values()} == {"solver"}
    assert {part.kind for part in CORRECTORS.values()} == {"corrector"}
    assert replace(UniPC(3), order=2) == UniPC()


def test_guided_euler_misses_the_power_product():
    """CFG on the ODE does not sample p^(1 - w) p(.|c)^w: the reason for the correctors."""
    model = Toy(Path.edm(geometric(40.0, 0.02, 200)), scale=2.0)
    end, true = sample(model, start(model, 4096)), power_product(WIDE, PLAIN, 2.0)
    assert end.var().item() < 0.6 * true.matrix.item() and end.mean().item() > true.mean.item() + 0.2
