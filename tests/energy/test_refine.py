"""Searches over whole runs: order statistics, gradients through a run, going on, never worse."""

import math

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss

import emag
from emag.errors import BadValue, NoEffect, Unsupported
from emag.hosts.own_loop import Loop, loop_model
from emag.samplers import sample
from emag.samplers.searches import Ascent, BestOf, differentiable
from test_energy_functions import NETS, PATH, X, linear, quadratic

close = torch.testing.assert_close


def same(x):
    return x


def first(x):
    return x[:, 0]


def expected_best(n):
    """E max of n standard normals: n int x phi(x) Phi(x)^(n-1), by Gauss-Hermite quadrature."""
    x, weights = hermegauss(80)
    below = [0.5 * (1 + math.erf(value / 2**0.5)) for value in x]
    return sum(n * w * value * p ** (n - 1) for value, w, p in zip(x, weights, below)) / (2 * math.pi) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_best_of_n_is_the_true_order_statistic(n):
    x = torch.randn(3000, 1, generator=torch.Generator().manual_seed(0))
    found = emag.refine(same, x, first, BestOf(n)).scores
    assert found.mean().item() == pytest.approx(expected_best(n), abs=4 * found.std().item() / 3000**0.5)


SEARCHES = [BestOf(5), Ascent(6, rate=0.2, clip=0.0), Ascent(4, rate=20.0, clip=0.0), Ascent(5, rate=0.1, momentum=0.0)]
RUN = differentiable(emag.guided(linear, path=PATH, prediction="x0", conditions=NETS))


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_it_is_never_worse_than_the_start_and_says_what_it_found(search):
    found = emag.refine(RUN, X, quadratic, search)
    close(found.start, quadratic(RUN(X)))
    close(found.scores, quadratic(found.made))
    close(found.made, RUN(found.x))
    assert (found.scores >= found.start).all() and (found.scores > found.start).any()
    assert found.rounds == search.rounds + 1


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_a_row_is_the_same_alone(search):
    close(emag.refine(RUN, X[1:2], quadratic, search).x, emag.refine(RUN, X, quadratic, search).x[1:2])


@pytest.mark.parametrize("search", SEARCHES, ids=str)
def test_it_goes_on_where_it_was_cut_off(search, tmp_path):
    class Cut(Exception):
        pass

    def cut(done, of):
        if done == 3:
            raise Cut

    runs = []

    def counted(x):
        runs.append(1)
        return RUN(x)

    whole = emag.refine(RUN, X, quadratic, search)
    with pytest.raises(Cut):
        emag.refine(counted, X, quadratic, search, keep=tmp_path / "kept.safetensors", on_step=cut)
    found = emag.refine(counted, X, quadratic, search, keep=tmp_path / "kept.safetensors")
    assert len(runs) == search.rounds + 1 and torch.equal(found.x, whole.x) and torch.equal(found.scores, whole.scores)
    emag.refine(counted, X, quadratic, search, keep=tmp_path / "kept.safetensors")
    assert len(runs) == search.rounds + 1
    with pytest.raises(BadValue, match="another search"):
        emag.refine(RUN, X + 1, quadratic, search, keep=tmp_path / "kept.safetensors")


def test_a_run_of_ours_is_the_loops():
    close(RUN(X), sample(emag.guided(linear, path=PATH, prediction="x0", conditions=NETS), X))
    guided = differentiable(emag.guided(linear, path=PATH, prediction="x0", conditions=NETS), 3.0)
    close(guided(X), sample(emag.guided(linear, emag.CFG(3.0), path=PATH, prediction="x0", conditions=NETS), X))
    flow = emag.guided(lambda x, t, c: x @ c.T, path=(1.0, 0.7, 0.2, 0.0), conditions=NETS)
    close(differentiable(flow)(X), sample(flow, X))


def test_its_gradient_is_the_transpose_of_the_steps_product():
    x = X.clone().requires_grad_()
    (found,) = torch.autograd.grad(RUN(x).sum(), x)
    product = torch.eye(3, dtype=torch.float64)
    for i in range(len(PATH)):
        (a, s), (b, r) = PATH.at(i), PATH.at(i + 1)
        product = (b * NETS["cond"] + r * (torch.eye(3, dtype=torch.float64) - a * NETS["cond"]) / s) @ product
    close(found, torch.ones(4, 3, dtype=torch.float64) @ product)


def test_a_run_keeps_no_more_than_the_inputs_of_its_steps():
    """Each step, under two conditions, is evaluated once more in the backward pass, one after the other."""
    calls = []

    def counted(x, t, network):
        calls.append(t)
        return linear(x, t, network)

    x = X.clone().requires_grad_()
    out = differentiable(emag.guided(counted, path=PATH, prediction="x0", conditions=NETS))(x)
    forward = list(calls)
    torch.autograd.grad(out.sum(), x)
    assert len(forward) == 2 * len(PATH) and calls[len(forward):] == forward[::-1]


def test_ascent_keeps_the_norm_and_bounds_its_gradient():
    memory, streams = {"x": X}, None
    for _ in range(3):
        memory = Ascent(clip=1e-3, rate=1.0, momentum=0.9).following(memory, 100 * X.sin(), 0, streams)
        close(memory["x"].norm(dim=1), X.norm(dim=1))
    assert memory["velocity"].abs().max() <= 1e-3 * (1 + 0.9 + 0.81) + 1e-12


def test_images_of_one_prompt_share_what_is_tried(tmp_path):
    """The k best of all k n tries, by brute force; no image falls; one of its own prompt alone is the plain search."""
    x, groups = torch.randn(6, 2, generator=torch.Generator().manual_seed(3)), ["a", "b", "a", "a", "b", "c"]
    tried = []

    def draw(noise):
        tried.append(noise)
        return noise

    found = emag.refine(draw, x, first, BestOf(4), groups=groups)
    for name in "abc":
        rows = [row for row, other in enumerate(groups) if other == name]
        every = torch.cat([noise[rows] for noise in tried])
        best = first(every).sort(descending=True).values[:len(rows)]
        close(found.scores[rows].sort(descending=True).values, best)
    assert (found.scores >= found.start).all()
    close(found.made[:, 0], found.scores)
    close(found.x[5], emag.refine(same, x, first, BestOf(4)).x[5])
    assert found.scores.mean() > emag.refine(same, x, first, BestOf(4)).scores.mean()
    kept = tmp_path / "kept.safetensors"
    emag.refine(same, x, first, BestOf(4), keep=kept, groups=groups)
    with pytest.raises(BadValue, match="another search"):
        emag.refine(same, x, first, BestOf(4), keep=kept)


def test_a_pipeline_is_searched_by_a_score_of_its_images():
    pipe = emag.load("tiny")
    pipe.set_progress_bar_config(disable=True)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(8))

    def draw(latents):
        return pipe(["a photo of a ship"] * 2, latents=latents, num_inference_steps=2, output_type="pt").images

    found = emag.refine(draw, x, "classifier:ship", BestOf(3))
    assert (found.scores >= found.start).all() and (found.scores > found.start).any()


def test_the_first_noise_of_a_pipeline_climbs_by_gradients_through_its_run():
    """By the loop that makes what the pipeline makes, and its decoder."""
    pipe, prompts = emag.load("tiny"), ["a photo of a ship", "a photo of a dog"]
    pipe.set_progress_bar_config(disable=True)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    model = loop_model(pipe, Loop(steps=2), prompts, [None] * 2)
    run = differentiable(model, 2.0)
    found = emag.refine(lambda x: model.seen(run(x)), x, "classifier:frog", Ascent(1, rate=20.0))
    assert (found.scores > found.start).all()
    theirs = pipe(prompts, latents=found.x, num_inference_steps=2, guidance_scale=2.0, output_type="pt").images
    close(found.made, theirs.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: BestOf(0), BadValue, "at least 1"), (lambda: Ascent(momentum=1.0), BadValue, r"momentum in \[0, 1\)"),
    (lambda: emag.refine(same, X, lambda x: x.sum()), BadValue, "one number for each"),
    (lambda: emag.refine(same, X, lambda x: x[:, 0] / 0), BadValue, "not finite for image 0: keep"),
    (lambda: emag.refine(emag.load("tiny"), X, first), BadValue, "a function of the first noise, got TinyPipeline"),
    (lambda: emag.refine(same, [0.0], first), BadValue, "tensor of real numbers"),
    (lambda: emag.refine(lambda x: x[:1], X, first), BadValue, r"must give a tensor \[4, ...\]"),
    (lambda: emag.refine(lambda x: "picture", X, first), BadValue, "gave str"),
    (lambda: emag.refine(same, X, lambda x: x.convert("RGB")), BadValue, r"failed on \[4, 3\]"),
    (lambda: emag.refine(same, X, first, groups=["a"]), BadValue, "one for each of 4"),
    (lambda: emag.refine(same, X, first, Ascent(1), groups="abab"), BadValue, "leave groups out"),
    (lambda: emag.refine(lambda x: x.detach(), X, first, Ascent(1)), NoEffect, "no gradient comes through"),
    (lambda: differentiable(emag.guided(linear, emag.CFG(3.0), path=PATH, prediction="x0", conditions=NETS)), Unsupported,
     "cfg keeps no gradients")])
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_what_is_no_file_of_a_search_is_refused(tmp_path):
    (tmp_path / "kept").write_text("nothing")
    with pytest.raises(BadValue, match="no file of a search"):
        emag.refine(same, X, first, keep=tmp_path / "kept")
