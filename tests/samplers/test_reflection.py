"""Reflection."""

import math

import pytest
import torch

from emag.errors import BadValue, Unsupported
from emag.maths.streams import Streams, digest
from emag.samplers import (
    PCG,
    W2SD,
    Path,
    Reflection,
    UniPC,
    sample,
)
from emag.samplers.reflection import reflect
from paths import EXACT, PAIRS, PLAIN, WIDE, Steady, Tanh, Toy, close, path, points

# reflection


@pytest.mark.parametrize(("kind", "space"), [pair for pair in PAIRS if pair[1] in ("epsilon", "flow")])
def test_a_steady_field_reflects_onto_itself(kind, space):
    levels, x, steady = path(kind), points(), points(16, 4)
    for i in range(8):
        close(reflect(x, lambda y: steady, lambda y: steady, levels, i, space, repeats=3), x, **EXACT)


def test_reflection_formulas():
    """Flow: x + (sigma' - sigma) (u_s(x) - u_w(x')). Noise: x + (b/a) (e_s(x) - e_w(x')) where x' = a x + b e_s(x)."""
    strong, weak, x = torch.tanh, torch.sin, points()
    levels = path("flow")
    dt = levels.sigmas[3] - levels.sigmas[2]
    down = x + dt * torch.tanh(x)
    close(reflect(x, strong, weak, levels, 2, "flow"), x + dt * (strong(x) - weak(down)), **EXACT)
    levels = path("vp")
    (alpha, sigma), (alpha2, sigma2) = levels.at(2), levels.at(3)
    a = alpha2 / alpha
    b = sigma2 - a * sigma
    close(reflect(x, strong, weak, levels, 2, "epsilon"), x + b / a * (strong(x) - weak(a * x + b * strong(x))), **EXACT)


def test_equal_scales_reflect_to_second_order():
    def error(step):
        levels, x = Path.flow((0.5, 0.5 - step)), points()
        return (reflect(x, torch.tanh, torch.tanh, levels, 0, "flow") - x).abs().max().item()

    assert math.log2(error(0.02) / error(0.01)) == pytest.approx(2, abs=0.1)


def test_reflection_off_is_bit_identical():
    for kind, space in PAIRS:
        model = Toy(path(kind), space)
        plain = sample(model, points())
        for corrector in (Reflection(until=0), W2SD(model, until=0)):
            assert torch.equal(sample(model, points(), corrector), plain)
        assert model.beside == 0
        assert not torch.equal(sample(model, points(), Reflection()), plain)


def test_reflection_uses_its_scales_at_the_level_of_the_step():
    model, x = Toy(path("flow"), "flow", 2.0), points()
    cond, null = (lambda y, f=f: f.predict(y, *model.path.at(1), "flow") for f in (PLAIN, WIDE))
    by_hand = reflect(x, lambda y: null(y) + 4 * (cond(y) - null(y)), lambda y: null(y) + 0.5 * (cond(y) - null(y)),
                      model.path, 1, "flow", 2)
    close(Reflection(4.0, 0.5, repeats=2).before(x, 1, model, {}), by_hand, **EXACT)
    assert model.levels == [model.path.at(1)] * 4 and model.calls == 0


def test_reflection_counts():
    """Two evaluations beside each reflected step: all steps but the last, or the first `until`."""
    for until, steps in ((None, 7), (3, 3), (8, 8), (99, 8)):
        model = Toy(path("flow"), "flow")
        sample(model, points(), Reflection(until=until, repeats=2))
        assert model.beside == 4 * steps and model.calls == 8


def test_w2sd_with_the_model_itself_is_z_sampling():
    model, weaker = Toy(path("flow"), "flow"), Toy(path("flow"), "flow", cond=WIDE)
    z = sample(model, points(), Reflection(4.0, 0.5))
    assert torch.equal(sample(model, points(), W2SD(model, 4.0, 0.5)), z)
    assert not torch.equal(sample(model, points(), W2SD(weaker, 4.0, 1.0)), z)
    assert weaker.beside == 7 and weaker.calls == 0


def test_reflection_pushes_from_weak_to_strong():
    """A stronger condition on the way down than up moves x along cond - uncond."""
    model = Toy(path("flow"), "flow", cond=Steady(-1.0), uncond=Steady(0.0))
    x = Reflection(5.5, 0.0).before(points(), 0, model, {})
    close(x, points() + (model.path.sigmas[1] - model.path.sigmas[0]) * -5.5, **EXACT)
    assert (x > points()).all()


def test_reflection_on_unipc_is_not_undone():
    model = Toy(path("flow"), "flow")
    plain = sample(model, points(), solver=UniPC(2))
    assert (sample(model, points(), Reflection(), solver=UniPC(2)) - plain).abs().max() > 1e-2


def test_reflection_refuses():
    for wrong in ({"high": -1.0}, {"low": math.nan}, {"high": math.inf}, {"until": -1}, {"repeats": 0}):
        with pytest.raises(BadValue, match=f"z-sampling {next(iter(wrong))}"):
            Reflection(**wrong)
        with pytest.raises(BadValue, match=f"w2sd {next(iter(wrong))}"):
            W2SD(Toy(path("flow"), "flow"), **wrong)
    with pytest.raises(Unsupported, match="needs the unconditional prediction"):
        sample(Toy(path("flow"), "flow", cond=PLAIN), points(), Reflection())
    with pytest.raises(Unsupported, match="same path"):
        sample(Toy(path("flow"), "flow"), points(), W2SD(Toy(path("flow", 9), "flow")))


@pytest.mark.parametrize("corrector", [PCG(2), Reflection(), W2SD(Toy(path("flow"), "flow", cond=Tanh(0.2)))])
def test_rows_are_their_own_samples(corrector):
    x = points(3, shape=(2, 3, 3))

    def run(rows):
        model, streams = Toy(path("flow"), "flow", cond=Tanh(1.0), uncond=Tanh(0.3)), Streams([digest(row) for row in rows])
        model.noise = lambda name, like: streams.normal(name, like)
        return sample(model, rows, corrector)

    together = run(x)
    for i in range(3):
        close(together[i:i + 1], run(x[i:i + 1]), **EXACT)
    assert run(x.float()).dtype == torch.float32
