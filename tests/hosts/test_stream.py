"""Streams of images: the same as each image alone, as the published code, and cheaper than it by the call."""

import pytest
import torch

import emag
from emag.errors import BadValue, Unsupported
from emag.hosts.stream import Similar, Stream
from emag.maths.predictions import to_x0
from emag.samplers import Path

close = torch.testing.assert_close
PATHS = {"epsilon": Path.variance_preserving((0.9, 0.7, 0.4, 0.0)), "v": Path.variance_preserving((0.9, 0.7, 0.4, 0.0)),
         "flow": Path.flow((0.8, 0.6, 0.3, 0.0))}
STEPS = 3
SHAPE = (4, 6, 6)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IMAGES = [normal(2, *SHAPE, seed=10 + n) for n in range(5)]
NOISE = normal(STEPS, *SHAPE, seed=3)
MIX = normal(4, 4, seed=4)
TOLD = {"cond": normal(1, *SHAPE, seed=5), "uncond": normal(1, *SHAPE, seed=6), "third": normal(1, *SHAPE, seed=7)}


def network(x, times, told):
    """Each row by itself, at its own time."""
    times = torch.as_tensor(times, dtype=x.dtype).expand(len(x))[:, None, None, None]
    return torch.tanh(torch.einsum("oc,bchw->bohw", MIX, x) / 2 + times * told)


def alone(image, rules, space):
    """One image made by hand: predict, take all noise off, put that of the next level on."""
    path = PATHS[space]
    model = emag.guided(network, *rules, path=path, prediction=space, conditions=TOLD, image=image)
    x = path.alphas[0] * image + path.sigmas[0] * NOISE[0]
    for i in range(STEPS):
        clean = to_x0(model(x, i), x, *path.at(i), space)
        alpha, sigma = path.at(i + 1)
        x = alpha * clean + (sigma * NOISE[i + 1] if i + 1 < STEPS else 0)
    return x


def stream(*rules, space="epsilon", spy=network, **more):
    return Stream(spy, *rules, path=PATHS[space], prediction=space, conditions=TOLD, noise=NOISE, **more)


def run(one, images=IMAGES):
    made = [one(image) for image in images]
    assert made[:STEPS - 1] == [None] * (STEPS - 1)
    return made[STEPS - 1:] + one.finish()


RULES = [(), (emag.CFG(3.0),), (emag.RCFG(), emag.CFG(1.4)), (emag.RCFG("onetime", 0.9), emag.CFG(1.4)),
         (emag.AG(0.9), emag.CFG(3.0)), (emag.CFG(3.0), emag.Momentum()), (emag.APG(4.0),),
         (emag.Negative(2.0, "third"), emag.CFG(2.0))]


@pytest.mark.parametrize("space", PATHS)
@pytest.mark.parametrize("rules", RULES, ids=lambda rules: "+".join(rule.name for rule in rules) or "none")
def test_images_of_a_stream_are_those_made_alone(rules, space):
    """In order, each with its own memory of momenta and latches; and the stream is empty afterwards, and goes on."""
    one = stream(*rules, space=space)
    wanted = [alone(image, rules, space) for image in IMAGES]
    for _ in range(2):
        for made, want in zip(run(one), wanted, strict=True):
            close(made, want)


def published(images, scale, kind, delta=0.9):
    """The authors' batch of stages with its stock of noise, c_out 1 and c_skip 0: a row for each stage, buffers moved on."""
    alpha, sigma = (torch.tensor(values[:STEPS], dtype=torch.float64)[:, None, None, None]
                    for values in (PATHS["epsilon"].alphas, PATHS["epsilon"].sigmas))
    buffer, stock, made = torch.zeros(STEPS - 1, *SHAPE, dtype=torch.float64), torch.zeros_like(NOISE), []
    for image in images:
        x = torch.cat([alpha[:1] * image + sigma[:1] * NOISE[:1], buffer])
        stock = torch.cat([NOISE[:1], stock[:-1]])
        text = network(x, sigma[:, 0, 0, 0], TOLD["cond"])
        if kind == "initialize":
            stock = torch.cat([network(x[:1], sigma[:1, 0, 0, 0], TOLD["uncond"]), stock[1:]])
        g = delta * stock + scale * (text - delta * stock)
        clean, moved = (x - sigma * g) / alpha, (sigma * stock - sigma * g) / alpha
        one = torch.ones_like(alpha[:1])
        moved = torch.cat([alpha[1:], one]) * moved / torch.cat([sigma[1:], one])
        stock = torch.cat([NOISE[1:], NOISE[:1]]) + moved
        buffer = alpha[1:] * clean[:-1] + sigma[1:] * NOISE[1:]
        made.append(clean[-1:])
    return made


@pytest.mark.parametrize(("residual", "kind"), [("self", "self"), ("onetime", "initialize")])
def test_residual_guidance_is_that_of_the_published_stream(residual, kind):
    images = [image[:1] for image in IMAGES]
    made = run(stream(emag.RCFG(residual, 0.9), emag.CFG(1.4)), images)
    for mine, theirs in zip(made, published([*images, *images], 1.4, kind)[STEPS - 1:], strict=False):
        close(mine, theirs)


@pytest.mark.parametrize(("rules", "calls", "rows"), [
    ((), 1, 3), ((emag.CFG(3.0),), 2, 6), ((emag.RCFG(), emag.CFG(1.4)), 1, 3),
    ((emag.RCFG("onetime"), emag.CFG(1.4)), 2, 4),
], ids=["none", "full", "self", "onetime"])
def test_what_an_image_costs(rules, calls, rows):
    """One call of a row for each stage; with a negative once, one row more."""
    seen = []

    def spy(x, times, told):
        seen.append(times.tolist())
        return network(x, times, told)

    one = stream(*rules, spy=spy)
    for image in IMAGES[:STEPS]:
        one(image[:1])
    before, seen[:] = (one.calls, one.evaluations), []
    one(IMAGES[3][:1])
    assert (one.calls - before[0], one.evaluations - before[1]) == (calls, rows)
    assert seen[0] == pytest.approx([0.4, 0.7, 0.9])


def test_without_noise_to_take_off_the_image_stays():
    """A network that knows the image predicts the noise that is in x: the stream gives back what came in."""
    path, image = PATHS["epsilon"], IMAGES[0]

    def knows(x, times, told):
        return torch.cat([(part - a * image) / s for part, a, s in zip(
            x.split(len(image)), *zip(*[path.at(path.sigmas.index(t)) for t in times[::len(image)].tolist()]))])

    one = Stream(knows, path=path, noise=NOISE)
    assert one(image) is None
    close(one.finish()[0], image)


def test_noise_is_one_for_all_images_and_comes_from_the_seed():
    same = [IMAGES[0]] * 3
    first, second = (run(Stream(network, path=PATHS["epsilon"], conditions=TOLD, seed=seed), same) for seed in (1, 1))
    other = run(Stream(network, path=PATHS["epsilon"], conditions=TOLD, seed=2), same)
    assert all(torch.equal(made, first[0]) for made in [*first, *second]) and not torch.allclose(other[0], first[0])


def test_what_is_like_the_last_is_left_out():
    similar, image = Similar(0.9, longest=4), IMAGES[0]
    assert similar.chance(image, image) == pytest.approx(1) and similar.chance(-image, image) == 0
    turned = 0.95 * image + (1 - 0.95**2) ** 0.5 * _across(image)
    assert similar.chance(turned, image) == pytest.approx(0.5)
    one = stream(similar=similar)
    answers = [one(image) for _ in range(11)]
    # taken: the first, and each after four that were left out; the third taken one finishes the first image
    assert one.calls == 3 and answers[:10] == [None] * 10
    close(answers[10], alone(image, (), "epsilon"))
    assert one(image) is answers[10] and one.calls == 3
    half = [stream(similar=Similar(0.9, 1000), seed=seed) for seed in range(40)]
    for each in half:
        each(image), each(turned)
    assert 8 < sum(each.calls == 2 for each in half) < 32


def _across(image):
    """As long as each image, and orthogonal to it."""
    rows, other = image.flatten(1), IMAGES[1].flatten(1)
    other = other - (other * rows).sum(1, keepdim=True) / (rows**2).sum(1, keepdim=True) * rows
    return (other * rows.norm(dim=1, keepdim=True) / other.norm(dim=1, keepdim=True)).view_as(image)


def test_half_precision_of_still_images():
    """Constant images in fp16, alike in all: finite, in their own dtype."""
    made = run(Stream(lambda x, times, told: x * 0, emag.RCFG(), emag.CFG(1.4), path=PATHS["epsilon"],
                      conditions={"cond": 0, "uncond": 0}), [torch.zeros(1, *SHAPE, dtype=torch.float16)] * 4)
    assert all(one.dtype == torch.float16 and one.isfinite().all() for one in made)


def test_what_it_refuses():
    with pytest.raises(Unsupported, match="changes what the network is given"):
        stream(emag.CADS(), emag.CFG(3.0))
    with pytest.raises(Unsupported, match="deterministic steps only"):
        stream(emag.CFG(emag.CFGpp(0.6)))
    with pytest.raises(Unsupported, match="looks into the network"):
        stream(emag.EMAG(1.5))
    for wrong in ((1.0, 10), (0.9, -1)):
        with pytest.raises(BadValue, match="similarity filter needs"):
            Similar(*wrong)
    one = stream()
    one(IMAGES[0])
    with pytest.raises(BadValue, match="have one shape"):
        one(IMAGES[0][:1])
    with pytest.raises(BadValue, match="noise has shape"):
        Stream(network, path=PATHS["flow"], conditions=TOLD, noise=NOISE[:2])(IMAGES[0])
    with pytest.raises(BadValue, match="the image the run starts from"):
        emag.guided(network, path=PATHS["flow"], conditions=TOLD, image=IMAGES[0][:, :1])(IMAGES[0], 0)
