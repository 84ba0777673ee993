"""RectifID: ends of windows moved by gradients; its telescoping sum and minimiser. NoiseRefine's use."""

import pytest
import torch

import emag
from emag.errors import BadValue, NoEffect
from emag.samplers import sample
from emag.samplers.anchored import Anchored, windowed, windowed_run
from emag.samplers.searches import Predicted, differentiable
from test_energy_functions import DIM, NETS, PATH, SHARP, TARGET, X, linear, quadratic
from test_refine import first, same

close = torch.testing.assert_close
ONE = torch.eye(DIM, dtype=torch.float64)


def straight(x, t, end):
    """A flow whose path is straight, from each x to x - end: its end point moves as its start does."""
    return torch.ones_like(x) * end


FLOW = emag.guided(straight, path=(1.0, 0.75, 0.5, 0.25, 0.0), conditions={"cond": 0.7})
BENT = emag.guided(lambda x, t, end: end + 0.2 * x, path=(1.0, 0.75, 0.5, 0.25, 0.0), conditions={"cond": 0.7})
CURVED = emag.guided(linear, path=PATH, prediction="x0", conditions=NETS)


def plain(windows=1):
    return windowed_run(FLOW, windows)(windowed(X, windows))


def test_without_moves_it_is_the_run():
    for model, windows in ((CURVED, 1), (CURVED, 2), (CURVED, 4), (FLOW, 4)):
        close(windowed_run(model, windows)(windowed(X, windows)), sample(model, X))
    found = emag.refine(windowed_run(CURVED, 2), windowed(X, 2), quadratic, Anchored(3, rate=0.0))
    assert torch.equal(found.scores, found.start) and torch.equal(found.x, windowed(X, 2))


@pytest.mark.parametrize("steps", [1, 5, 400])
def test_one_straight_window_climbs_to_the_scores_own_maximum(steps):
    """Gradient ascent of the end point on a quadratic: m + (1 - s A)^K (y - m), whose limit is m: no anchor is left."""
    run = windowed_run(FLOW, 1)
    v, search = windowed(X, 1), Anchored(steps, rate=0.5, clip=0.0)
    for _ in range(steps):
        made = run(v).detach()
        v = search.following({"x": v}, torch.stack([(TARGET - made) @ SHARP, torch.zeros_like(made)], 1), 0, None)["x"]
    left = torch.linalg.matrix_power(ONE - 0.5 * SHARP, steps)
    close(run(v), TARGET + (plain() - TARGET) @ left)
    found = emag.refine(run, windowed(X, 1), quadratic, search)
    close(found.made, run(v), atol=1e-6, rtol=1e-6)
    if steps == 400:
        assert (found.made - TARGET).norm() < 0.2 * (plain() - TARGET).norm()


def test_moves_add_up_to_the_sum_of_all_gradients():
    """Telescoping: after K runs an end has been moved by s c_i sum_j g_i / max(1, |g_i|), and the first noise not at all."""
    run, seen = windowed_run(CURVED, 2), []

    class Told(Anchored):
        def following(self, memory, gradient, at, streams):
            seen.append(gradient)
            return super().following(memory, gradient, at, streams)

    search, v = Told(4, rate=0.3, weights=(0.5, 2.0)), windowed(X, 2)
    tries = []

    def draw(x):
        tries.append(x.detach().clone())
        return run(x)

    emag.refine(draw, v, quadratic, search)
    tamed = [gradient / gradient.norm(dim=2, keepdim=True).clamp(min=1) for gradient in seen]
    assert any((gradient.norm(dim=2) > 1).any() for gradient in seen)
    total = sum(tamed)
    close(tries[-1][:, 0], X)
    close(tries[-1][:, 1], 0.3 * 0.5 * total[:, 0])
    close(tries[-1][:, 2], 0.3 * 2.0 * total[:, 1])


def test_the_gradient_of_a_window_is_that_at_its_start():
    """By the steps' matrices: from the start of window i to the end, transposed."""
    v = windowed(X, 2).requires_grad_()
    (found,) = torch.autograd.grad(quadratic(windowed_run(CURVED, 2)(v)).sum(), v)
    made, steps = sample(CURVED, X), []
    for i in range(4):
        (a, s), (b, r) = PATH.at(i), PATH.at(i + 1)
        steps.append(b * NETS["cond"] + r * (ONE - a * NETS["cond"]) / s)
    rise = (TARGET - made) @ SHARP
    close(found[:, 1], rise @ steps[3] @ steps[2])
    close(found[:, 0], rise @ steps[3] @ steps[2] @ steps[1] @ steps[0])


@pytest.mark.parametrize("search", [Anchored(6, rate=0.2), Anchored(6, rate=0.2, weights=(1.0, 0.0)),
                                    Anchored(4, rate=50.0)])
def test_it_is_never_worse_rises_and_keeps_rows_apart(search, tmp_path):
    run, v = windowed_run(BENT, 2), windowed(X, 2)
    found = emag.refine(run, v, quadratic, search, keep=tmp_path / "kept.safetensors")
    assert (found.scores >= found.start).all() and ((found.scores > found.start).all() or search.rate == 50.0)
    close(found.made, run(found.x))
    close(found.x[:, 0], X)
    close(emag.refine(run, v[1:2], quadratic, search).x, found.x[1:2])
    again = emag.refine(run, v, quadratic, search, keep=tmp_path / "kept.safetensors")
    assert torch.equal(again.x, found.x)


def test_a_refinement_is_added_to_the_first_noise():
    run = differentiable(CURVED)
    towards = 0.5 * (TARGET - X)
    found = emag.refine(run, X, quadratic, Predicted(lambda x: 0.5 * (TARGET - x)))
    with_it, without = run(X + towards), run(X)
    better = quadratic(with_it) > quadratic(without)
    close(found.made, torch.where(better[:, None], with_it, without))
    assert better.any() and found.rounds == 2
    close(emag.refine(run, X, quadratic, Predicted()).made, without)  # g = 0: the run itself


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: Anchored(-1), BadValue, "at least 0"), (lambda: windowed(X, 0), BadValue, "at least 1 window"),
    (lambda: windowed_run(CURVED, 3), BadValue, "4 steps cannot be parted into 3"),
    (lambda: windowed_run(CURVED, 2)(windowed(X, 1)), BadValue, "see windowed"),
    (lambda: emag.refine(windowed_run(CURVED, 2), windowed(X, 2), quadratic, Anchored(1, weights=(1.0,))), BadValue, "or 2"),
    (lambda: emag.refine(same, X[:, :1], first, Anchored(1)), BadValue, "windowed"),
    (lambda: emag.refine(same, X, first, Predicted(lambda x: x[:1])), BadValue, "a move for each entry"),
    (lambda: emag.refine(lambda v: windowed_run(CURVED, 2)(v).detach(), windowed(X, 2), quadratic, Anchored(1)), NoEffect,
     "no gradient")])
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()
