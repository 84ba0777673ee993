"""SCG: of n noises a step, the one whose outcome a score likes best; any score, each image alone, priced before the run."""

import json

import pytest
import torch

import emag
from emag.errors import BadValue, NoEffect, Unsupported
from emag.maths.energies import first_order_step, noised_back, posterior_spread
from emag.samplers import Path, ReverseSDE, sample
from emag.scores import Colour
from shell import emag as shell
from test_energy_functions import NETS, PATH, X, guided, linear, plain, quadratic
from tiny import CASES

close = torch.testing.assert_close
RED = Colour(0.9, 0.1, 0.1)


def scg(score=quadratic, n=5, **settings):
    return emag.SCG(score, n, **{"interval": (0.0, 1.0), **settings})


def candidates(model, i, n, eta=1.0, pred=None, x=X):
    """The n samples of level i + 1 by hand: alpha' x0 + (sigma'^2 - s^2)^(1/2) epsilon + s z."""
    (a, s), (b, r) = PATH.at(i), PATH.at(i + 1)
    pred = plain(x) if pred is None else pred
    # the variance of q(x' | x, x0) for alpha^2 + sigma^2 = 1: (1 - abar') / (1 - abar) (1 - abar / abar')
    spread = eta * (r**2 / s**2 * (1 - a**2 / b**2)) ** 0.5
    mean = b * pred + (r**2 - spread**2) ** 0.5 * (x - a * pred) / s
    return [mean + spread * model._streams.normal(f"scg/{at}", x).double() for at in range(n)]


def reached(model, i, x=X):
    return first_order_step(x, model(x, i), PATH.at(i), PATH.at(i + 1))


@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_the_kept_one_is_the_best_of_the_candidates(eta):
    model = guided(scg(eta=eta))
    found = reached(model, 1)
    tried = candidates(model, 1, 5, eta)
    scores = torch.stack([quadratic(linear(x, None, NETS["cond"])) for x in tried])
    best = scores.argmax(0)
    assert len(best.unique()) > 1
    close(found, torch.stack(tried)[best, torch.arange(4)])
    close(quadratic(plain(found)), scores.amax(0))


def test_of_one_it_is_ddpm_with_the_same_noise():
    model = guided(scg(n=1))
    close(reached(model, 1), candidates(model, 1, 1)[0])
    assert model.evaluations == 1
    outside = guided(scg(interval=(0.6, 1.0)))
    close(reached(outside, 1), candidates(outside, 1, 1)[0])
    assert outside.evaluations == 1


@pytest.mark.parametrize(("here", "after"), [((0.6, 0.8), (0.8, 0.6)), ((0.2, 0.8), (0.5, 0.5)), ((0.0, 1.0), (0.3, 0.7))])
def test_the_noise_keeps_the_marginal_of_the_level(here, after):
    """alpha' x0 + (sigma'^2 - s^2)^(1/2) epsilon + s z has variance sigma'^2; and s is the spread of x' given x and x0."""
    spread = posterior_spread(here, after)
    assert 0 < spread <= after[1]
    one = torch.ones(1, dtype=torch.float64)
    # Gaussian posterior: 1 / s^2 = 1 / sigma'^2 + ratio^2 / (noise that is added on the way back)^2
    added, ratio = noised_back(0 * one, one, here, after).item(), here[0] / after[0]
    assert 1 / spread**2 == pytest.approx(1 / after[1] ** 2 + ratio**2 / added**2)


def test_the_last_step_adds_no_noise_where_the_sampler_ends_above_sigma_0_either():
    """As DDIM does on Stable Diffusion (set_alpha_to_one=False)."""
    model = emag.guided(linear, scg(), path=Path.variance_preserving((0.95, 0.5, 0.2, 0.05)), prediction="x0",
                        conditions=NETS)
    for i in range(2):
        assert not torch.equal(model(X, i), plain())
    assert torch.equal(model(X, 2), plain())


def test_without_noise_it_is_off():
    assert torch.equal(sample(guided(scg(eta=0.0)), X), sample(guided(), X))


def test_a_rising_function_of_the_score_chooses_the_same():
    runs = [sample(guided(scg(lambda x, f=f: f(quadratic(x)))), X) for f in (lambda v: v, torch.exp, lambda v: 7 * v**3 - 2)]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_scores_without_gradients_serve():
    def program(x0):
        return torch.from_numpy((x0.numpy() > 0.3).sum(1).astype("float64"))

    found = program(sample(guided(scg(program, 16)), X)).mean()
    assert found > program(sample(guided(scg(program, 1)), X)).mean()


def test_more_candidates_score_higher():
    x = torch.randn(512, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = [quadratic(sample(guided(scg(n=n)), x)).mean() for n in (1, 4, 64)]
    assert scores[0] < scores[1] < scores[2]


def test_a_row_is_the_same_alone():
    together = sample(guided(emag.CFG(2.0), scg()), X)
    close(sample(guided(emag.CFG(2.0), scg()), X[2:3]), together[2:3])


@pytest.mark.parametrize(("of", "network"), [
    ("cond", NETS["cond"]), ("uncond", NETS["uncond"]), ("guided", torch.lerp(NETS["uncond"], NETS["cond"], 3.0))])
def test_whose_estimate_is_scored_is_said(of, network):
    guidance, model = torch.lerp(NETS["uncond"], NETS["cond"], 3.0), guided(emag.CFG(3.0), scg(of=of))
    found = reached(model, 1)
    tried = candidates(model, 1, 5, pred=plain(network=guidance))
    best = torch.stack([quadratic(plain(x, network)) for x in tried]).argmax(0)
    close(found, torch.stack(tried)[best, torch.arange(4)])


def test_candidates_are_evaluated_at_their_own_level():
    told = []

    def watched(x, sigma, network):
        told.append(sigma)
        return linear(x, sigma, network)

    model = emag.guided(watched, scg(n=3), path=PATH, prediction="x0", conditions=NETS)
    sample(model, X)
    levels = PATH.sigmas
    assert told == [level for i in range(3) for level in (levels[i], *[levels[i + 1]] * 3)] + [levels[3]]


@pytest.mark.parametrize("case", ["sd3", "pixart", "true-cfg", "dit", "flux"])
def test_on_pipelines_it_costs_what_was_planned_and_each_image_is_alone(case):
    pipe = CASES[case].pipe()
    if case in ("pixart", "dit"):
        from diffusers import EulerDiscreteScheduler
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    combine = [emag.CFG(3.0)] if CASES[case].uncond else []
    with emag.guide(pipe, *combine, scg(RED, 3)) as run:
        found = CASES[case].run(pipe, (8, 9), num_inference_steps=3)
    assert run.stats.evaluations == run.stats.planned > run.stats.clean
    with emag.guide(pipe, *combine, scg(RED, 1)):
        assert not torch.equal(found, CASES[case].run(pipe, (8, 9), num_inference_steps=3))
    with emag.guide(pipe, *combine, scg(RED, 3)):
        alone = CASES[case].run(pipe, (9,), num_inference_steps=3)
    close(alone, found[1:], rtol=0, atol=2e-3 * float(found.abs().max()))


def test_a_pipelines_estimate_ahead_is_its_next_one():
    """The clean estimate that won is the one that the next step begins with."""
    from emag.engine.access import RuleAccess
    pipe, ahead, begun = CASES["sd3"].pipe(), [], []

    def estimate(self, x, of, ahead_=False, original=RuleAccess.estimate, **more):
        found = original(self, x, of, **more)
        ahead.append((self.step.index, x, found))
        return found

    class Told(emag.SCG):
        def apply(self, pred, branches, step, state):
            begun.append((step.x, pred))
            return super().apply(pred, branches, step, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RuleAccess, "estimate", estimate)
        with emag.guide(pipe, emag.CFG(3.0), Told(RED, 4, interval=(0.0, 1.0))):
            CASES["sd3"].run(pipe, (8,), num_inference_steps=4)
    for i in range(3):
        x, pred = begun[i + 1]
        near = min((other for other in ahead if other[0] == i), key=lambda other: float((other[1] - x).abs().max()))
        close(near[1], x, atol=1e-5, rtol=1e-5)
        close(near[2], pred, atol=2e-4, rtol=2e-3)


def test_in_a_shell_it_is_planned_and_drawn_again(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        return shell(monkeypatch, capsys, *arguments)

    search = "scg=classifier:frog,n=3,interval=0+1"
    found = json.loads(run("plan", "-g", "cfg=2", "-g", search, "-n", 4, "--json")[1])
    # the last step searches nothing
    assert found["evaluations"] == found["clean"] + 3 * 3 * found["clean"] // 4 and found["backward"] == 0
    code, out, _ = run("generate", "a photo of a ship", "-n", 4, "-s", "8", "-g", "cfg=2", "-g", search, "--json", "-o",
                       tmp_path / "a")
    stats = json.loads(out)["run"]
    assert code == 0 and stats["evaluations"] == stats["planned"]
    assert run("again", next((tmp_path / "a").glob("*.png")), "-o", tmp_path / "b")[0] == 0


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: scg(3.0), BadValue, "a function or the name of a score"), (lambda: scg(n=0), BadValue, "n must be at least 1"),
    (lambda: scg(eta=1.5), BadValue, r"eta must lie in \[0, 1\]"),
    (lambda: scg(interval=(1.0, 0.5)), BadValue, "two shares"),
    (lambda: guided(scg(None)), BadValue, "scg has no default score"),
    (lambda: sample(guided(scg(interval=(1.0, 1.0))), X), BadValue, "searches at no step"),
    (lambda: sample(guided(scg(lambda x: x.sum())), X), BadValue, "one number for each"),
    (lambda: sample(guided(scg(lambda x: x.sum(1) / 0)), X), BadValue, "not finite for image 0"),
    (lambda: sample(guided(scg(lambda x: torch.ones(len(x)))), X), NoEffect, "nothing to choose by"),
    (lambda: sample(guided(scg()), X, solver=ReverseSDE()), Unsupported, "first-order")])
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()
