"""Ready scores: one number an image, in [0, 1] RGB, higher is better; each image alone."""

import numpy as np
import pytest
import torch

from emag.errors import BadValue
from emag.maths.energies import slope
from emag.maths.streams import Streams
from emag.methods.energy.views import ImageView, seen
from emag.models.classifier import load_classifier
from emag.scores import Calibrated, Colour, Distance, Edges, OfClass, classes, edges, named, softened

close = torch.testing.assert_close


def images(count=3, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def masks(side=32):
    mask = torch.zeros(1, 1, side, side)
    mask[..., :8, :] = 1
    return mask


SCORES = {
    "distance": Distance(images(1, seed=1)), "each": Distance(images(3, seed=1)),
    "mask": Distance(images(1, seed=1), masks()),
    "blurred": Distance(images(1, 16, seed=1), operate=lambda x: torch.nn.functional.avg_pool2d(x, 2)),
    "colour": Colour(0.9, 0.1, 0.2), "edges": Edges(0.3), "classifier": OfClass("frog"),
    "elucd": OfClass("frog", (1.0, 0.5))}
EACH_ALONE = [name for name in SCORES if name != "each"]


@pytest.mark.parametrize("name", SCORES)
def test_one_number_an_image_with_a_gradient(name):
    value, gradient = slope(images(), SCORES[name])
    assert value.shape == (3,) and value.isfinite().all()
    assert (gradient.flatten(1).abs().sum(1) > 0).all()
    step = 1e-3 * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (SCORES[name]((images() + step).clamp(0, 1)) > value).all()


@pytest.mark.parametrize("name", EACH_ALONE)
def test_an_image_is_scored_alone(name):
    together = SCORES[name](images())
    for at in range(3):
        close(SCORES[name](images()[at:at + 1]), together[at:at + 1], atol=1e-5, rtol=1e-5)


def test_making_a_score_draws_nothing_from_the_users_generator():
    before = torch.get_rng_state()
    load_classifier()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_distance_is_the_mean_square_over_what_counts():
    reference, known = images(1, seed=1), masks()
    close(Distance(reference)(images()), -(images() - reference).square().mean((1, 2, 3)))
    close(Distance(reference, known)(images()), -(images() - reference)[..., :8, :].square().mean((1, 2, 3)))
    assert torch.equal(Distance(reference)(reference), torch.zeros(1))


def test_inpainting_leaves_the_free_pixels_alone():
    _, gradient = slope(images(), Distance(images(1, seed=1), masks()))
    assert gradient[..., 8:, :].abs().max() == 0 < gradient[..., :8, :].abs().min()


def test_colour_and_edges_know_what_they_measure():
    red = torch.tensor([0.9, 0.1, 0.2]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    close(Colour(0.9, 0.1, 0.2)(red), torch.zeros(1))
    ramp = torch.linspace(0, 1, 33)[:32].expand(1, 3, 32, 32)
    close(edges(ramp)[..., 1:-1], torch.full((1, 1, 32, 30), (1 / 32**2 + 1e-6) ** 0.5))
    close(edges(ramp.transpose(2, 3)), edges(ramp).transpose(2, 3))
    assert edges(red).max() <= 1e-3 + 1e-6


def test_the_classifier_says_what_the_judge_says():
    network, card = load_classifier()
    given = (images() * 255).round().to(torch.uint8)
    logits = network.outputs(given.permute(0, 2, 3, 1).numpy().astype(np.uint8)).logits
    for name in ("frog", "ship"):
        told = logits.log_softmax(1)[:, card["classes"].index(name)]
        close(OfClass(name)(given / 255), told.detach(), atol=1e-4, rtol=1e-4)
    only = OfClass("frog", (1.0, 0.0))(given / 255)  # t2 = 0: the logit, less the log of the number of classes
    close(only, logits[:, card["classes"].index("frog")].detach() - np.log(len(classes())), atol=1e-4, rtol=1e-4)
    assert OfClass("frog")(images(2, 64)).shape == (2,)


def test_a_reference_is_seen_in_the_view_of_the_image():
    """Image and reference mirrored and shifted alike are as far apart as before."""
    streams = Streams.of(torch.randn(3, 4))
    views = [ImageView.drawn(streams, f"{at}", 3) for at in range(4)]
    for name in ("distance", "each"):
        for view in views:
            close(seen(SCORES[name], view)(images()), SCORES[name](images()))
    assert not torch.allclose(seen(SCORES["mask"].__call__, views[0])(images()), SCORES["mask"](images()))
    close(seen(SCORES["mask"], views[0])(images()), SCORES["mask"](images()))
    alone = ImageView.drawn(Streams([streams.keys[1]]), "0", 1)
    close(alone(images()[1:2]), views[0](images())[1:2])
    assert any(view.mirrored.any() and not view.mirrored.all() for view in views)


@pytest.mark.parametrize(("text", "score"), [("colour:0.9:0.1:0.2", Colour(0.9, 0.1, 0.2)), ("edges:0.3", Edges(0.3)),
                                             ("edges", Edges()), ("classifier:frog", OfClass("frog"))])
def test_scores_by_name(text, score):
    close(named(text)(images()), score(images()))


@pytest.mark.parametrize(("make", "match"), [
    (lambda: named("beauty"), "there is no score 'beauty'"), (lambda: named("classifier:"), "knows no class ''"),
    (lambda: named("classifier:fogr"), "did you mean frog"), (lambda: named("colour:1:2"), "red:green:blue"),
    (lambda: named("colour:1:2:0"), r"in \[0, 1\]"), (lambda: named("edges:many"), "'many' is no number"),
    (lambda: Edges(-1.0), "at least 0"), (lambda: Distance(torch.rand(3, 4, 4)), "reference of a distance must be a tensor"),
    (lambda: Distance(2 * torch.ones(1, 3, 4, 4)), r"must lie in \[0, 1\]"),
    (lambda: Distance(torch.rand(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)), "0 everywhere"),
    (lambda: Distance(torch.rand(1, 3, 4, 4))(images()), "give one of their size"),
    (lambda: Distance(torch.rand(2, 3, 32, 32))(images()), "one for all or one each")])
def test_refusals(make, match):
    with pytest.raises(BadValue, match=match):
        make()


def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))


def test_temperatures_weigh_the_logit_and_its_rivals():
    """(1, 1) is log p(y); (1, 0) has the gradient of the logit alone; between them the rivals count less."""
    network, one = net(), images(2)
    close(Calibrated(network, [3, 1], (1.0, 1.0))(one), network(one).log_softmax(1)[[0, 1], [3, 1]])
    close(slope(one, Calibrated(network, 3, (1.0, 0.0)))[1], slope(one, lambda x: network(x)[:, 3])[1])
    logits = network(one)
    close(Calibrated(network, 3)(one), logits[:, 3] - (0.5 * logits).exp().sum(1).log())
    close(named("classifier@1+0.5:frog")(one), OfClass("frog", (1.0, 0.5))(one))


def test_soft_activations_stand_for_sharp_ones_in_a_copy():
    network, one = net(), images(2)
    soft = softened(network, 3.0)
    close(soft[2](torch.tensor([-1.0, 0.0, 2.0])), (1 + (3 * torch.tensor([-1.0, 0.0, 2.0])).exp()).log() / 3)
    assert isinstance(network[2], torch.nn.ReLU)
    close(softened(network, 1e4)(one), network(one), atol=1e-3, rtol=1e-3)  # its limit
    close(Calibrated(network, 3, soft=3.0)(one), Calibrated(soft, 3)(one))
    assert isinstance(softened(torch.nn.ReLU(), 3.0), torch.nn.Softplus)


@pytest.mark.parametrize(("make", "match"), [
    (lambda: Calibrated(net(), 5)(images()), "0 to 4"), (lambda: Calibrated(net(), [1, 2])(images()), "one each"),
    (lambda: Calibrated(torch.nn.Flatten(0), 1)(images()), "gives logits"),
    (lambda: Calibrated(net(), 1, soft=-1), "at least 0"), (lambda: softened(torch.nn.Flatten(), 3.0), "no ReLU"),
    (lambda: Calibrated(lambda x: x, 1, soft=3.0), "leave soft at 0"),
    (lambda: named("classifier@1:frog"), "are t1"), (lambda: named("classifier@1+x:frog"), "no number")])
def test_a_calibration_that_cannot_be_is_refused(make, match):
    with pytest.raises(BadValue, match=match):
        make()
