"""Energy guidance on plain functions: closed forms on linear networks, identities, and what is refused."""

from dataclasses import replace

import pytest
import torch

import emag
from emag.errors import BadValue, NoEffect, Unsupported
from emag.samplers import Path, ReverseSDE, sample
from plain_function import SIGMAS, first, flow

close = torch.testing.assert_close
DIM, PATH = 3, Path.variance_preserving((0.95, 0.8, 0.5, 0.2, 0.0))
RANDOM = torch.Generator().manual_seed(5)


def draw(*shape):
    return torch.randn(shape, generator=RANDOM, dtype=torch.float64)


NETS = {"cond": 0.5 * draw(DIM, DIM), "uncond": 0.5 * draw(DIM, DIM)}
SHARP = (lambda a: a @ a.T / 4)(draw(DIM, DIM))
TARGET, X = draw(DIM), draw(4, DIM)


def linear(x, t, network):
    """A linear estimate of the clean sample."""
    return x @ network.T


def quadratic(x0):
    """-(x0 - m)' A (x0 - m) / 2: its gradient is A (m - x0)."""
    return -((x0 - TARGET) @ SHARP * (x0 - TARGET)).sum(1) / 2


def rising(x0):
    return (TARGET - x0) @ SHARP


def guided(*rules, path=PATH, **more):
    return emag.guided(linear, *rules, path=path, prediction="x0", conditions=NETS, **more)


def after(model, x=X, i=1):
    """The sample of the next level, by the plain step."""
    (a, s), (b, r) = model.path.at(i), model.path.at(i + 1)
    x0 = model(x, i)
    return b * x0 + r * (x - a * x0) / s


def plain(x=X, network=NETS["cond"]):
    return x @ network.T


@pytest.mark.parametrize("path", [PATH, Path.flow((0.9, 0.7, 0.4, 0.0))], ids=["vp", "flow"])
def test_a_velocity_is_moved_by_its_own_formula(path):
    """v' = v - sigma / alpha rho grad_x - mu grad_x0, v noise minus data."""
    alpha, sigma = path.at(1)
    made = guided(emag.Energy(quadratic, 0.3, "velocity", True, mean=0.2), path=path)(X, 1)
    slope = rising(plain())
    velocity = (X - plain()) / sigma * 1.0 if path is not PATH else None
    moved = sigma / alpha * 0.3 * slope @ NETS["cond"] + 0.2 * slope
    close(made, plain() + sigma / (alpha + sigma) * moved)
    if velocity is not None:
        close((X - made) / sigma, velocity - moved)


def test_the_share_of_the_pull_in_a_velocity_may_be_said():
    """lam = sigma / alpha is the default; 1 is that of networks that predict x0."""
    (alpha, sigma), settings = PATH.at(1), {"where": "velocity", "through_network": True}
    bare = guided()(X, 1)
    pull = guided(emag.Energy(quadratic, 0.3, **settings))(X, 1) - bare
    close(guided(emag.Energy(quadratic, 0.3, **settings, lam=1.0))(X, 1) - bare, pull * alpha / sigma)


@pytest.mark.parametrize("settings", [{}, {"where": "next"}, {"where": "x_t", "through_network": True, "mean": 0.2}])
def test_noise_in_a_step_is_ddpms(settings):
    """x' = alpha' x0 + sqrt(sigma'^2 - s^2) epsilon + s z, and on top of it the moves of the step without noise."""
    (a, s), (b, r) = PATH.at(1), PATH.at(2)
    found = guided(emag.Energy(quadratic, 0.3, eta=0.7, **settings))
    noisy, still = after(found), after(guided(emag.Energy(quadratic, 0.3, **settings)))
    noise, spread = found._streams.normal("energy/step/0", X).double(), 0.7 * r / s * (s**2 - (a / b * r) ** 2) ** 0.5
    epsilon = (X - a * plain()) / s
    close(noisy - still, ((r**2 - spread**2) ** 0.5 - r) * epsilon + spread * noise)
    # out of its interval too, and not in the last step
    late = guided(emag.Energy(quadratic, 0.3, eta=0.7, interval=(0.9, 1.0), **settings))
    close(after(late) - after(guided()), noisy - still)
    last = emag.Energy(quadratic, 0.3, interval=(0.9, 1.0), **settings)
    assert torch.equal(guided(replace(last, eta=0.7))(X, 3), guided(last)(X, 3))


def test_the_total_move_of_a_velocity_does_not_grow_with_the_steps():
    """One straight line with a constant slope: 4 and 40 steps end at one sample, which moves of x_t do not."""
    def ends(where, steps):
        path = Path.flow(tuple(0.8 - 0.8 * i / steps for i in range(steps + 1)))
        model = emag.guided(lambda x, t, c: 0 * x, emag.Energy(lambda x0: x0.sum(1), 0.1, where=where), path=path,
                            prediction="flow", conditions={"cond": torch.zeros(1)})
        return sample(model, X)

    close(ends("velocity", 4), ends("velocity", 40))
    assert (ends("next", 40) - X).mean() > 5 * (ends("next", 4) - X).mean()


@pytest.mark.parametrize("inner", [1, 4])
def test_moves_of_x0_have_their_closed_form(inner):
    """N steps of size mu up a quadratic: x0 - (1 - (1 - mu A)^N) (x0 - m)."""
    left = torch.linalg.matrix_power(torch.eye(DIM, dtype=torch.float64) - 0.3 * SHARP, inner)
    expected = plain() - (plain() - TARGET) @ (torch.eye(DIM, dtype=torch.float64) - left)
    close(guided(emag.Energy(quadratic, 0.3, inner=inner))(X, 1), expected)


def test_mpgd_moves_the_next_sample_by_alpha_times_that():
    model = guided(emag.Energy(quadratic, 0.3, where="next"))
    close(after(model) - after(guided()), PATH.at(2)[0] * 0.3 * rising(plain()))


def test_through_the_network_the_gradient_is_its_transpose_times_that():
    pull = 0.3 * rising(plain()) @ NETS["cond"]
    close(after(guided(emag.Energy(quadratic, 0.3, "next", True))) - after(guided()), pull)
    (a, s), (b, _) = PATH.at(1), PATH.at(2)
    # x_t moved under the noise it had: x' by alpha' / alpha
    close(after(guided(emag.Energy(quadratic, 0.3, "x_t", True))) - after(guided()), b / a * pull)
    # classifier guidance: epsilon - sigma G
    moved = guided(emag.Energy(quadratic, 0.3, "x0", True))(X, 1)
    close((X - a * moved) / s, (X - a * plain()) / s - s * pull)


def test_evaluated_again_the_moved_sample_is_what_the_step_starts_from():
    model = guided(emag.Energy(quadratic, 0.3, "x_t", True, again=True, inner=2))
    moved, evaluated = X, model.evaluations
    for _ in range(2):
        moved = moved + 0.3 * rising(plain(moved)) @ NETS["cond"]
    close(after(model), after(guided(), moved))
    assert model.evaluations - evaluated == 1 + 2 + 1


@pytest.mark.parametrize("settings", [{"where": "next"}, {"where": "x_t"}, {"where": "x_t", "inner": 3}])
def test_both_kinds_of_guidance_add_up_as_in_tfg(settings):
    """x' = DDIM(x_t, x0) + (the gradient through the network) + alpha' (the moves of x0), both from the same x0."""
    both = after(guided(emag.Energy(quadratic, 0.3, through_network=True, mean=0.2, **settings)))
    parts = [emag.Energy(quadratic, 0.3, settings["where"], True),
             emag.Energy(quadratic, 0.2, "next", inner=settings.get("inner", 1))]
    close(both - after(guided()), sum(after(guided(part)) - after(guided()) for part in parts))


def test_dreamguider_is_mpgd_with_another_step():
    """x0 moved by c g and epsilon by -d dr/depsilon, dr/depsilon = -(s/a) g: x' moves by (a' c - s' d s / a) g, of sign."""
    (a, s), (b, r) = PATH.at(1), PATH.at(2)
    c, d, g = 0.3, 0.1, rising(plain())
    by_hand = b * (plain() + c * g) + r * ((X - a * plain()) / s - d * (s / a) * g)
    close(after(guided(emag.Energy(quadratic, c - r * d * s / (a * b), where="next"))), by_hand)


@pytest.mark.parametrize(("of", "scored"), [
    ("cond", NETS["cond"]), ("uncond", NETS["uncond"]), ("guided", torch.lerp(NETS["uncond"], NETS["cond"], 3.0))])
@pytest.mark.parametrize("through", [False, True])
def test_whose_estimate_is_scored_is_said(of, scored, through):
    slope = rising(plain(network=scored))
    expected = slope @ scored if through else PATH.at(2)[0] * slope
    made = after(guided(emag.CFG(3.0), emag.Energy(quadratic, 0.3, "next", through, of)))
    close(made - after(guided(emag.CFG(3.0))), 0.3 * expected)


def test_a_repeated_step_starts_from_the_noised_end_of_the_last():
    model = guided(emag.Energy(quadratic, 0.3, "next", True, recur=2))
    found, noise = after(model), model._streams.normal("energy/turn/1", X).double()
    (a, s), (b, r) = PATH.at(1), PATH.at(2)
    share, once = a / b, guided(emag.Energy(quadratic, 0.3, "next", True))
    back = share * after(once) + (s**2 - share**2 * r**2) ** 0.5 * noise
    close(found, after(once, back))
    assert not torch.allclose(found, after(once))


RULES = {
    "plain": {}, "next": {"where": "next"}, "through": {"through_network": True},
    "all": {"where": "x_t", "through_network": True, "mean": 0.5, "inner": 2, "recur": 3, "smooth": 0.2, "draws": 3},
    "sized": {"through_network": True, "where": "next", "normalise": "norm", "clip": 0.5}}


@pytest.mark.parametrize("settings", RULES.values(), ids=RULES)
def test_a_row_is_the_same_alone(settings):
    rule = emag.Energy(quadratic, 0.3, schedule="decrease", **settings)
    together = sample(guided(rule), X)
    close(sample(guided(rule), X[2:3]), together[2:3])
    assert not torch.allclose(together, sample(guided(), X))


@pytest.mark.parametrize("settings", RULES.values(), ids=RULES)
@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.inference_mode])
def test_no_surrounding_takes_the_gradients_away(settings, surrounding):
    rule = emag.Energy(quadratic, 0.3, **settings)
    expected = sample(guided(rule), X)
    with surrounding():
        nets = {name: net * 1.0 for name, net in NETS.items()}
        model = emag.guided(linear, rule, path=PATH, prediction="x0", conditions=nets)
        close(sample(model, X * 1.0), expected, atol=0, rtol=0)


def test_strength_0_is_the_function_bit_for_bit():
    assert torch.equal(sample(guided(emag.Energy(quadratic, 0.0, "next", True)), X), sample(guided(), X))


def test_a_repeated_step_draws_new_smoothing_noise():
    """Shared inside a repetition, and not over them."""
    seen = []

    def told(x0):
        seen.append(x0.detach())
        return quadratic(x0)

    guided(emag.Energy(told, 1e-9, "next", through_network=True, recur=2, smooth=0.5))(X, 1)
    guided(emag.Energy(told, 1e-9, "next", through_network=True, recur=2))(X, 1)
    noises = [noisy - plain for noisy, plain in zip(seen[:2], seen[2:], strict=True)]
    assert not torch.allclose(noises[0], noises[1], atol=1e-3)


def test_outside_its_interval_a_step_is_left_alone_bit_for_bit():
    model = guided(emag.Energy(quadratic, 0.3, "next", True, interval=(0.0, 0.5)))
    for i in range(4):
        assert torch.equal(model(X, i), guided()(X, i)) is (i > 1)
    assert model.evaluations == 4 + 2


def test_spaces_and_paths_give_one_result():
    """The same network told as epsilon, v and x0, on one path."""
    def told(space):
        def denoiser(x, t, network):
            a, s = (1 - t**2) ** 0.5, t
            x0 = linear(x, t, network)
            return {"x0": x0, "epsilon": (x - a * x0) / s, "v": (a * x - x0) / s}[space]
        rule = emag.Energy(quadratic, 0.3, "x_t", True, mean=0.2, recur=2)
        return sample(emag.guided(denoiser, rule, path=PATH, prediction=space, conditions=NETS), X)

    close(told("epsilon"), told("x0"))
    close(told("v"), told("x0"))


def test_on_a_flow_a_step_from_pure_noise_has_no_score_of_x_t():
    def loud(x0):
        return -(x0 - 3).square().flatten(1).sum(1)

    def run(**settings):
        return emag.guided(flow, emag.Energy(loud, 0.01, **settings), path=SIGMAS, conditions={"cond": 1.0})

    bare = emag.guided(flow, path=SIGMAS, conditions={"cond": 1.0})
    assert torch.equal(run(through_network=True)(first(), 0), bare(first(), 0))
    assert not torch.equal(run(through_network=True)(first(), 1), bare(first(), 1))
    assert not torch.equal(run(where="next")(first(), 0), bare(first(), 0))
    for where in ("x0", "next"):
        assert loud(sample(run(where=where, through_network=True), first())).mean() > loud(sample(bare, first())).mean()


@pytest.mark.parametrize(("score", "error", "match"), [
    (lambda x: x.mean(), BadValue, "one number for each"),
    (lambda x: x, BadValue, "one number for each"),
    (lambda x: 3.0, BadValue, "gave float for 4 images"),
    (lambda x: x.sum(1) / 0, BadValue, r"not finite for image 0 at step 2 of 4"),
    (lambda x: (x.sum(1) - x.sum(1)[1]).abs().log(), BadValue, "not finite for image 1"),
    (lambda x: torch.ones(len(x)), NoEffect, "does not depend on the image"),
    (lambda x: x.detach().sum(1), NoEffect, "does not depend on the image"),
    (torch.no_grad()(lambda x: x.sum(1)), NoEffect, "torch.no_grad inside it"),
    (lambda x: x.sum(1).int(), NoEffect, "does not depend on the image"),
    (lambda x: x.convert("RGB"), BadValue, r"failed on \[4, 3\] \('Tensor' object has no attribute"),
    ("classifier:frog", BadValue, r"'classifier:frog' failed on \[4, 3\]"),
    (lambda x: torch.from_numpy(x.detach().numpy()).sum(1), NoEffect, "does not depend"),
])
@pytest.mark.parametrize("through", [False, True])
def test_what_is_no_score_is_refused_by_name(score, error, match, through):
    with pytest.raises(error, match=match):
        guided(emag.Energy(score, 0.3, "next", through))(X, 1)


def test_a_strength_that_drives_the_samples_away_is_told(caplog):
    sample(guided(emag.Energy(quadratic, 0.3, "next")), X)
    assert not caplog.records
    sample(guided(emag.Energy(lambda x: x.sum(1), 1e4, "next")), X)
    assert "times its usual size: weaken the strength" in caplog.text


def test_a_flat_score_is_found_out_at_the_end():
    model = guided(emag.Energy(lambda x: x.clamp(100, 101).sum(1)))
    with pytest.raises(NoEffect, match="was 0 at all steps"):
        sample(model, X)


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: emag.Energy(3.0), BadValue, "a function or the name of a score"),
    (lambda: emag.Energy(emag.scores.Edges), BadValue, r"made first: Edges\(\.\.\.\)"),
    (lambda: guided(emag.Energy("frog")), BadValue, "did you mean classifier:frog"),
    (lambda: emag.Energy(quadratic, where="x_t"), BadValue, "needs through_network"),
    (lambda: emag.Energy(quadratic, where="up"), BadValue, "one of x0, x_t, next, velocity"),
    (lambda: emag.Energy(quadratic, mean=1.0), BadValue, "say strength"),
    (lambda: emag.Energy(quadratic, again=True), BadValue, "say where=x_t"),
    (lambda: emag.Energy(quadratic, draws=2), BadValue, "say smooth"),
    (lambda: emag.Energy(quadratic, eta=1.5), BadValue, "eta must lie in"),
    (lambda: emag.Energy(quadratic, where="next", lam=1.0), BadValue, "say where=velocity"),
    (lambda: sample(guided(emag.Energy(quadratic, eta=1.0)), X, solver=emag.UniPC(2)), Unsupported, "first-order"),
    (lambda: emag.Energy(quadratic, steps=2), BadValue, "say through_network"),
    (lambda: emag.Energy(quadratic, steps=0), BadValue, "steps must be at least 1"),
    (lambda: emag.Energy(quadratic, of="noisy", through_network=True), BadValue, "leave through_network out"),
    (lambda: emag.Energy(quadratic, inner=0), BadValue, "inner must be at least 1"),
    (lambda: emag.Energy(quadratic, interval=(0.5, 0.2)), BadValue, "two shares"),
    (lambda: guided(emag.Energy()), BadValue, "no default score"),
    (lambda: guided(emag.Energy("clasifier:frog")), BadValue, "did you mean classifier"),
    (lambda: guided(emag.Energy("classifier:frg")), BadValue, "did you mean frog"),
    (lambda: guided(emag.Energy(quadratic), emag.CFG(3.0)), BadValue, "name cfg before it"),
    (lambda: guided(emag.Energy(quadratic, interval=(0.4, 0.5)))(X, 0), BadValue, "acts at no step"),
    (lambda: guided(emag.Energy(quadratic, interval=(0.0, 0.1)))(X, 3), NoEffect, "no step that was made"),
    (lambda: sample(guided(emag.Energy(quadratic, where="next")), X, solver=ReverseSDE()), Unsupported, "first-order"),
])
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_other_solvers_serve_where_x0_alone_is_moved():
    model = guided(emag.Energy(quadratic, 0.3, through_network=True))
    assert not torch.equal(sample(model, X, solver=emag.UniPC(2)), sample(guided(), X, solver=emag.UniPC(2)))


def test_given_scores_and_decoders_are_what_a_name_means():
    seen = []

    def mine(images):
        seen.append(images.shape)
        return images.flatten(1).sum(1)

    model = guided(emag.Energy("mine", 0.3), scores={"mine": mine},
                   decode=lambda x0: x0[:, :, None, None].expand(-1, 3, 2, 2))
    close(model(X, 1), plain() + 0.3 * 4)  # four pixels each
    assert seen == [(4, 3, 2, 2)]


def test_rules_with_memory_are_as_they_were_where_the_step_is_evaluated_again():
    """A rule before it is asked several times in a step, and goes on from what it kept before."""
    rules = (emag.APG(2.0, momentum=-0.5),)  # adds to what it keeps at each call
    rule = emag.Energy(quadratic, 1e-9, "next", True)
    close(sample(guided(*rules, rule), X), sample(guided(*rules), X), atol=1e-7, rtol=1e-7)
    assert not torch.allclose(sample(guided(*rules), X), sample(guided(emag.APG(2.0, momentum=0.0)), X), atol=1e-3)
    again = emag.Energy(quadratic, 1e-9, "x_t", True, again=True)
    close(sample(guided(*rules, again), X), sample(guided(*rules), X), atol=1e-7, rtol=1e-7)
