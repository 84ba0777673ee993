"""From images to noise and back, by CFG++."""

import math

import pytest
import torch

import emag
from emag.errors import BadValue, Unsupported
from emag.hosts.own_loop import Loop, loop_model
from emag.maths.predictions import to_x0
from emag.samplers import CFGppEuler, Euler, Path, invert, sample
from emag.samplers.inversion import step_undone
from emag.samplers.solvers import advance, to_epsilon
from paths import CURVED, EXACT, PAIRS, PLAIN, WIDE, Steady, Tanh, Toy, close, every_pair, path, points

held = pytest.mark.parametrize(("kind", "space"), [pair for pair in PAIRS if pair[1] != "x0"])
"""x0 predictions are held as noise."""


@held
def test_it_undoes_a_step_of_held_predictions(kind, space):
    levels, x, guided, kept = path(kind), points(), points(16, 5), points(16, 6)
    for i in range(len(levels)):
        (alpha, sigma), (after, rest) = levels.at(i), levels.at(i + 1)
        down = after * to_x0(guided, x, alpha, sigma, space) + rest * to_epsilon(kept, x, alpha, sigma, space)
        close(step_undone(down, guided, kept, levels, i, space), x, **EXACT)


@held
def test_predictions_that_do_not_depend_on_x_come_back(kind, space):
    """Constant ones, as published: inversion and then sampling is the identity."""
    model = Toy(path(kind), space, cond=Steady(0.7), uncond=Steady(-0.4))
    x = points()
    close(sample(model, invert(model, x, 0.6), solver=CFGppEuler(0.6)), x, **EXACT)


@every_pair
def test_a_linear_denoiser_comes_back_exactly(kind, space):
    """Gaussian data: predictions are linear in x, and settle; each iteration brings x nearer."""
    levels, x = path(kind), points()

    def miss(iterations):
        model = Toy(levels, space)
        return (sample(model, invert(model, x, 0.6, iterations=iterations), solver=CFGppEuler(0.6)) - x).abs().max().item()

    assert miss(0) > 2 * miss(9) > 0 and miss(400) < 1e-9


@every_pair
def test_cfgs_inversion_is_ddims(kind, space):
    """At one scale for both predictions and at scale 0 the two are one; in epsilon it is the plain step taken upwards."""
    levels, x = path(kind), points()
    model = Toy(levels, space, cond=CURVED, uncond=WIDE)
    assert torch.equal(invert(model, x, 0.0), invert(model, x, 0.0, "cfg"))
    assert not torch.allclose(invert(model, x, 0.6), invert(model, x, 0.6, "cfg"))
    if space == "epsilon":
        alone = Toy(Path(levels.alphas[:2], levels.sigmas[:2]), space)
        up = advance(x, alone.branches(x, 0)["cond"], alone.path, 1, 0, space)
        close(invert(alone, x, 1.0, "cfg"), up, **EXACT)


def test_cfgpp_comes_nearer_than_cfg():
    """At the authors' pair of equal strength, 0.6 and 7.5, where the condition is one of two modes; images of either."""
    levels, fields = path("flow", 50), {"cond": CURVED.components[1], "uncond": CURVED}
    model, guided = (Toy(levels, "flow", scale, **fields) for scale in (1.0, 7.5))
    x = torch.cat([sample(guided, 0.98 * points()), sample(model, 0.98 * points(), solver=CFGppEuler(0.6))])
    ours = sample(model, invert(model, x, 0.6), solver=CFGppEuler(0.6)) - x
    theirs = sample(guided, invert(model, x, 7.5, "cfg"), solver=Euler()) - x
    assert ours.square().mean() < 0.5 * theirs.square().mean()


def test_counts_rows_and_dtype():
    for iterations in (0, 2):
        model = Toy(path("flow"), "flow", cond=Tanh(1.0), uncond=Tanh(0.3))
        x = points(3, shape=(2, 3, 3))
        together = invert(model, x, iterations=iterations)
        assert model.beside == len(model.path) * (iterations + 1) and model.calls == 0
        for row in range(3):
            close(invert(model, x[row:row + 1], iterations=iterations), together[row:row + 1], **EXACT)
        assert invert(model, x.float()).dtype == torch.float32
    assert model.levels[0] == model.path.at(len(model.path) - 1)  # the level that is gone to


@pytest.mark.slow
def test_an_image_of_the_embedded_model_comes_back_nearer_than_by_cfg():
    pipe = emag.load("tiny")
    prompts = ["a photo of a frog", "a photo of a truck"]
    plain, cfg = (loop_model(pipe, Loop(rules, steps=12), prompts, [None] * 2) for rules in ((), (emag.CFG(7.5),)))
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    image = sample(cfg, noise)
    found = sample(plain, invert(plain, image), solver=CFGppEuler())
    other = sample(cfg, invert(plain, image, 7.5, "cfg"))
    far = [(back - image).square().mean().sqrt() / image.std() for back in (found, other)]
    assert far[0] < 0.8 * far[1]
    better = sample(plain, invert(plain, image, iterations=3), solver=CFGppEuler())
    assert (better - image).square().mean().sqrt() / image.std() < far[0]


def test_what_cannot_be_inverted_is_refused_before_an_evaluation():
    flow, x = Toy(path("flow"), "flow"), points()
    for wrong in ({"scale": -1.0}, {"scale": math.nan}, {"steps": "ddim"}, {"iterations": -1}, {"iterations": 1.5}):
        with pytest.raises(BadValue, match="invert"):
            invert(flow, x, **wrong)
    assert flow.beside == 0
    noisy = Path((0.0, 1.0), (1.0, 0.0))
    for model, words in ((Toy(noisy, "x0"), "at alpha 0"), (Toy(noisy, "epsilon"), "at alpha 0"),
                         (Toy(path("flow"), "flow", cond=PLAIN), "needs the unconditional")):
        with pytest.raises(Unsupported, match=words):
            invert(model, x)
    guided = emag.guided(lambda x, t, c: x, emag.CFG(2.0), path=(1.0, 0.0), conditions={"cond": 1.0, "uncond": 0.0})
    with pytest.raises(Unsupported, match="cfg would have no effect"):
        invert(guided, x)
