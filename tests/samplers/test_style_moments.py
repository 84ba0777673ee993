"""Mean and spread of a style image after each step: identity, the moments themselves, each sample alone, refusals."""

import numpy as np
import pytest
import torch

import emag
from emag.errors import BadValue, Unsupported
from emag.hosts import own_loop
from emag.hosts.own_loop import Loop
from emag.samplers import Path, StyleMoments, sample
from emag.samplers.style import with_moments
from paths import EXACT, Steady, Toy, close, points
from styles import latents, style

LEVELS = Path.flow((0.9, 0.5, 0.0))


def test_its_own_moments_change_nothing():
    x = points(3, shape=(4, 8, 8))
    close(with_moments(x, x), x, rtol=1e-6, atol=1e-6)


def test_the_moments_are_the_styles_in_every_channel():
    x, other = points(3, shape=(4, 8, 8)), 2.5 + 3 * points(3, seed=5, shape=(4, 8, 8))
    found = with_moments(x, other)
    close(found.mean((2, 3)), other.mean((2, 3)), rtol=1e-5, atol=1e-5)
    close(found.std((2, 3)), other.std((2, 3)), rtol=1e-5, atol=1e-5)
    close(with_moments(x[1:2], other[1:2]), found[1:2], **EXACT)  # a row alone
    close(with_moments(5 * x - 1, other), found, rtol=1e-5, atol=1e-5)  # scale and shift of x are of no matter


@pytest.mark.parametrize(("level", "sigma"), [("left", 0.5), ("reached", 0.0)])
def test_a_run_ends_with_the_moments_of_its_level(level, sigma):
    file = style()
    model = Toy(LEVELS, "flow", cond=Steady(0.3))
    noise = []
    model.noise = lambda name, like: noise.append(points(len(like), seed=len(noise), shape=like.shape[1:])) or noise[-1]
    found = sample(model, points(2, shape=(4, 8, 8)), StyleMoments(file, level))
    noised = (1 - sigma) * latents().double() + sigma * noise[-1]
    close(found.mean((2, 3)), noised.mean((2, 3)).expand(2, -1), rtol=1e-5, atol=1e-5)
    close(found.std((2, 3)), noised.std((2, 3)).expand(2, -1), rtol=1e-5, atol=1e-5)
    assert len(noise) == 2


def test_refusals():
    model = Toy(LEVELS, "flow", cond=Steady(0.3))
    with pytest.raises(BadValue, match="needs a style"):
        sample(model, points(2, shape=(4, 8, 8)), StyleMoments())
    with pytest.raises(BadValue, match="cannot read"):
        sample(model, points(2, shape=(4, 8, 8)), StyleMoments("none.safetensors"))
    with pytest.raises(BadValue, match="have shape"):
        sample(model, points(2, shape=(4, 6, 8)), StyleMoments(style()))
    with pytest.raises(Unsupported, match="spatial latents"):
        sample(model, points(2, shape=(8, 16)), StyleMoments(style()))
    assert model.calls == 2  # the shapes alone are known by then


def test_in_the_loop_of_the_embedded_model():
    """Pictures take on the mean of the style, channel by channel; the model takes pixels twice as large."""
    pipe = emag.load("tiny")
    red = torch.tensor([0.8, -0.6, -0.6]).view(1, 3, 1, 1) + 0.2 * latents(shape=(1, 3, 32, 32))
    loop = Loop((emag.CFG(2.5),), (StyleMoments(style(2 * red), "reached"),), None, 4)
    picture = np.asarray(own_loop.run(pipe, loop, ["a photo of a frog"], [None], [0])[0][0], float) / 127.5 - 1
    assert np.abs(picture.mean((0, 1)) - [0.8, -0.6, -0.6]).max() < 0.1
