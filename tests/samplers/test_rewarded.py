"""Feynman-Kac particles under a reward: the tilted density, what is weighed, and whose images go on."""

import pytest
import torch

import emag
from emag.errors import BadValue, NoEffect, Unsupported
from emag.samplers import CFGMP, FKC, FKCReward, ReverseSDE, sample
from paths import Toy, geometric, normal, path, points, start

close = torch.testing.assert_close
COND = normal(0.3, 1.0)


def height(x0):
    """One number a sample: exp(strength * height) tilts a Gaussian, and moves its mean by strength * variance."""
    return x0[:, 0]


def drawn(corrector, count=4096, steps=24, seed=3):
    model, states = Toy(emag.Path.edm(geometric(20.0, 0.05, steps)), cond=COND), []
    x = sample(model, start(model, count, seed), corrector, solver=ReverseSDE(), states=states)
    return x[:, 0], states[0]["log_weights"].softmax(0)


@pytest.mark.parametrize("strength", [0.8, -1.2])
def test_a_linear_reward_moves_a_gaussian_by_its_variance(strength):
    x, weights = drawn(FKCReward(reward=height, strength=strength))
    mean = (weights * x).sum()
    assert mean.item() == pytest.approx(0.3 + strength, abs=0.12)
    assert (weights * (x - mean).square()).sum().item() == pytest.approx(1.0, abs=0.15)
    assert len(x.unique()) == len(x), "copies have parted"


def test_all_that_the_weights_grew_by_is_the_score_of_the_image():
    """Without resampling, log-weights are strength times r(x0), whatever was seen on the way."""
    model, states = Toy(path("flow"), "flow", cond=COND), []
    corrector = FKCReward(reward=height, strength=0.7, threshold=0.0)
    x = sample(model, points(32), corrector, solver=ReverseSDE(), states=states)
    close(states[0]["log_weights"], 0.7 * x[:, 0])
    assert model.beside == len(model.path) - 1  # an evaluation at each level but the ends


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_without_strength_it_is_fkc_bit_for_bit(scale):
    found = [sample(Toy(path("flow"), "flow"), points(), one, solver=ReverseSDE())
             for one in (FKCReward(scale, reward=height, strength=0.0), FKC(scale))]
    assert torch.equal(*found)


def test_a_program_may_score_what_the_model_shows():
    """Images of a function that decodes; no graph is made; the best of a prompt's images become more."""
    told = []

    def program(images):
        told.append((tuple(images.shape[1:]), images.requires_grad))
        return torch.from_numpy(images.numpy().mean((1, 2, 3)))

    def drawn(*correctors):
        model = emag.guided(lambda x, t, c: 0.5 * x + c, path=(0.98, 0.7, 0.5, 0.3, 0.1, 0.0), prediction="flow",
                            conditions={"cond": torch.tensor([[0.1]] * 3 + [[0.4]] * 3)},
                            decode=lambda x0: x0[:, :, None, None].expand(-1, 3, 2, 2))
        return sample(model, points(6).float(), *correctors, solver=ReverseSDE(spread=1.0)), model

    found, model = drawn(FKCReward(reward=program, strength=50.0))
    assert set(told) == {((3, 2, 2), False)}
    plain, _ = drawn(FKC(1.0))
    assert not torch.equal(found, plain)
    assert model.evaluations == 5 + 4  # its own steps, and the levels between


@pytest.mark.parametrize(("corrector", "error", "match"), [
    (lambda: FKCReward(), BadValue, "needs a reward"), (lambda: FKCReward(reward="clip"), BadValue, "a function of images"),
    (lambda: FKCReward(reward=lambda x: x.mean()), BadValue, "one number for each"),
    (lambda: FKCReward(reward=lambda x: x[:, 0] / 0), BadValue, "not finite for image 0 at level 1"),
    (lambda: FKCReward(reward=lambda x: x.convert("RGB")), BadValue, "has no attribute"),
    (lambda: FKCReward(reward=lambda x: torch.ones(len(x))), NoEffect, "the same for all images")])
def test_refusals(corrector, error, match):
    with pytest.raises(error, match=match):
        sample(Toy(path("flow"), "flow", cond=COND), points(), corrector(), solver=ReverseSDE())


def test_where_it_stands():
    with pytest.raises(Unsupported, match="adds none"):
        sample(Toy(path("flow"), "flow"), points(), FKCReward(reward=height))
    with pytest.raises(BadValue, match="name cfg-mp before it"):
        sample(Toy(path("flow"), "flow"), points(), FKCReward(reward=height), CFGMP(), solver=ReverseSDE())
