"""Published methods as settings of one object: what each is in terms of the others, and their bias on a known posterior."""

import math
import sys
from pathlib import Path

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.methods.energy.beam import beam
from emag.methods.energy.presets import PRESETS
from emag.records import recipe
from emag.samplers import sample
from test_energy_functions import PATH, TARGET, X, after, guided, quadratic

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import energy_bias as bias  # noqa: E402

close = torch.testing.assert_close


def run(*rules):
    return sample(guided(*rules), X)


def preset(name, **changes):
    return emag.Energy.preset(name, quadratic, **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_moves_something_and_is_plain_data(name):
    rule = emag.Energy.preset(name, "colour:0.9:0.1:0.1")
    assert recipe.from_data(recipe.to_data([rule])) == (rule,)
    pictured = {"decode": lambda x0: x0[:, :, None, None].expand(-1, -1, 8, 8)}
    made = guided(emag.Energy.preset(name, lambda images: quadratic(images.mean((2, 3)))), **pictured)
    assert not torch.equal(sample(made, X), run())
    assert PRESETS[name].paper and PRESETS[name].equation and PRESETS[name].source
    assert torch.equal(run(preset(name, strength=0.0, mean=0.0)), run())


def test_tfg_holds_the_others_as_special_cases():
    """(rho, mu, smooth, N_recur): DPS (rho, 0, 0), LGD (rho, 0, 1), FreeDoM (rho, 0, 0, N), MPGD (0, mu, 0)."""
    plain = {"schedule": "constant", "smooth": 0.0, "inner": 1}
    close(run(preset("tfg-cifar10", strength=0.0, mean=0.3, **plain)), run(preset("mpgd", strength=0.3)))
    rho = {"strength": 0.3, "mean": 0.0, "where": "next", "schedule": "constant"}
    for name, more in (("lgd", {"smooth": 1.0, "draws": 4}), ("freedom", {"smooth": 0.0, "recur": 2})):
        close(run(preset("tfg-cifar10", **rho, **more)), run(preset(name, strength=0.3)))
    close(run(preset("tfg-cifar10", **rho, smooth=0.0)), run(preset("dps", strength=0.3, normalise="none")))


def test_dps_divides_by_the_length_of_the_residual():
    def residual(x0):
        return -(x0 - TARGET).square().sum(1)

    made = after(guided(emag.Energy.preset("dps", residual, strength=0.2)))
    bare = after(guided(emag.Energy.preset("dps", residual, strength=0.2, normalise="none")))
    length = (guided()(X, 1) - TARGET).norm(dim=1, keepdim=True)
    close((made - after(guided())) * length, bare - after(guided()))


def test_dreamguider_over_views_of_itself_is_mpgd():
    """A score that every view leaves alone: the mean of the image."""
    def mean(images):
        return -(images.mean((1, 2, 3)) - 0.7).square()

    def seen(rule):
        image = X.view(4, 3, 1, 1).expand(4, 3, 4, 4).contiguous()
        return emag.guided(lambda x, t, c: 0.5 * x, rule, path=PATH, prediction="x0")(image, 1)

    close(seen(emag.Energy.preset("dreamguider", mean)), seen(emag.Energy.preset("mpgd", mean)))


def test_refusals():
    with pytest.raises(BadValue, match="did you mean mpgd"):
        preset("mgpd")
    with pytest.raises(BadValue, match="augment is for images"):
        run(preset("dreamguider"))


# a mixture of two Gaussians, whose posterior is known: bench/energy_bias.py measures it for docs/how-to/energy.md


@pytest.mark.parametrize("rules", [(), (emag.Energy(bias.likelihood, 1e-9, "next", True, recur=3),),
                                   (emag.Energy(bias.likelihood, 1e-9, "next", eta=1.0),)], ids=["plain", "recur", "noise"])
def test_the_mixture_is_sampled_and_repeated_or_noisy_steps_keep_it(rules):
    """What is noised back and made again has the marginal of its level, whatever it was."""
    # with noise a step of finite size ends a little narrow
    steps = 80 if rules and rules[0].eta else 20
    found = bias.Found.of(bias.drawn(*rules, count=500, steps=steps))
    assert found.upper == pytest.approx(0.5, abs=0.08) and found.mean == pytest.approx(0.0, abs=0.3)
    assert found.spread == pytest.approx(bias.SPREAD, abs=0.04)


@pytest.mark.parametrize("name", ["`classifier`, strength 1", "`tfg-cifar10`", "`dps`, undivided, strength 1"])
def test_posterior_guidance_leans_the_right_way_and_is_biased(name):
    """No setting samples the posterior: the likelihood of the mean x0 is not the mean likelihood over x0."""
    preset, changes = bias.WAYS[name]
    found = bias.Found.of(bias.drawn(emag.Energy.preset(preset, bias.likelihood, **changes), count=500))
    exact = bias.posterior()
    assert found.mean > 0.1 and found.upper > 0.52
    assert abs(found.upper - exact.upper) > 0.02 or abs(found.spread - exact.spread) > 0.02


def test_weighed_particles_are_the_posterior():
    found, exact = bias.Found.of(bias.weighed(count=1000, steps=30)), bias.posterior()
    assert found.upper == pytest.approx(exact.upper, abs=0.08) and found.mean == pytest.approx(exact.mean, abs=0.25)
    assert found.spread == pytest.approx(exact.spread, abs=0.06)


def test_the_page_tells_what_was_measured():
    page = (ROOT / "docs/how-to/energy.md").read_text()
    told = page.partition(bias.MARKS[0])[2].partition(bias.MARKS[1])[0].strip().splitlines()
    assert told[:3] == bias.table({"the posterior": bias.posterior()}).splitlines()
    assert [row.split(" | ")[0].removeprefix("| ") for row in told[4:]] == [*bias.WAYS, bias.WEIGHED]


# the search of TFG for its strengths


def searched(wanted, width=2, rounds=6, **start):
    tried = []

    def measure(rule):
        tried.append((rule.strength, rule.mean, rule.smooth))
        return -sum((math.log2(a) - math.log2(b)) ** 2 for a, b in zip(tried[-1], wanted, strict=True))

    rule = preset("tfg-cifar10", strength=0.5, mean=0.5, smooth=0.01, **start)
    return *beam(measure, rule, width, rounds), tried


def test_a_beam_finds_what_is_best_within_reach_and_measures_nothing_twice():
    best, value, tried = searched((4.0, 1.0, 0.1))
    assert (best.strength, best.mean, best.smooth) == (4.0, 1.0, 0.1) and value == 0 and best.inner == 4
    assert len(tried) == len(set(tried)) and all(a <= 8 and b <= 8 and c <= 10 for a, b, c in tried)


def test_a_beam_is_never_worse_than_its_start_and_a_wide_one_is_brute_force():
    best, _, tried = searched((0.5, 0.5, 0.01))
    assert (best.strength, best.mean, best.smooth) == tried[0]
    best, _, tried = searched((8.0, 8.0, 10.0), width=200, rounds=20)
    grid = {(0.5 * 2**i, 0.5 * 2**j, 0.01 * 10**k) for i in range(5) for j in range(5) for k in range(4)}
    assert len(tried) == len(grid) and best.strength == 8.0


def test_a_beam_that_cannot_move_is_refused():
    with pytest.raises(BadValue, match=r"can be multiplied within strength 0\.5 to 8"):
        beam(lambda rule: 0.0, emag.Energy(quadratic, 0.1))
    with pytest.raises(BadValue, match="width and rounds of at least 1"):
        beam(lambda rule: 0.0, preset("tfg-cifar10"), width=0)
