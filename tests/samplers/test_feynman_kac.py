"""Feynman-Kac correctors in the loop."""

import math

import pytest
import torch

import emag
from emag.errors import BadValue, Unsupported
from emag.maths.streams import Streams, digest
from emag.methods import METHODS
from emag.samplers import (
    FKC,
    PCG,
    FKCAnneal,
    FKCProduct,
    Path,
    ReverseSDE,
    UniPC,
    sample,
    sampled_path,
)
from paths import EXACT, PLAIN, Tanh, Toy, close, geometric, path, points, start

# FKC in the loop


@pytest.mark.parametrize("make", [lambda: FKC(2.0), lambda: FKCAnneal(2.0), lambda: FKCProduct(("cond", "uncond"))])
def test_paths_of_one_noise_level_agree(make):
    """In z = x / alpha the weighted SDE is one and the same on every path and in every space."""
    k, corrector, ends = geometric(9.0, 0.2, 6), make(), []
    flow, vp = tuple(v / (1 + v) for v in k), tuple(v / math.hypot(1, v) for v in k)
    for levels, spaces in ((Path.edm(k), ("x0", "epsilon")), (Path.flow(flow), ("flow", "x0")),
                           (Path.variance_preserving(vp), ("v", "epsilon"))):
        for space in spaces:
            x, states = levels.alphas[0] * 9.0 * points(64), []
            end = sample(Toy(levels, space), x, corrector, solver=corrector.solver, states=states)
            ends.append(torch.cat([end[:, 0], states[0]["log_weights"], *states[0]["ess"]]))
    for end in ends[1:]:
        close(end, ends[0], **EXACT)


def test_fkc_off_is_the_plain_sde_bit_for_bit():
    for scale in (0.0, 1.0):
        model, twin = (Toy(path("flow"), "flow", scale) for _ in range(2))
        streams = Streams([digest(row) for row in points()])
        model.noise = twin.noise = lambda name, like, streams=streams: streams.normal(name, like)
        fkc = FKC(scale)
        assert torch.equal(sample(model, points(), fkc, solver=fkc.solver),
                           sample(twin, points(), solver=ReverseSDE(spread=1.0)))


def test_fkc_follows_a_model_that_is_guided_itself():
    ends = []
    for solver, scale in ((FKC(2.0).solver, 1.0), (ReverseSDE(), 2.0)):
        ends.append(sample(Toy(path("flow"), "flow", scale), points(64), FKC(2.0), solver=solver))
    close(*ends, **EXACT)


class Named(Toy):
    """A toy that knows the condition of each of its samples."""

    def __init__(self, labels, *args, **fields):
        super().__init__(*args, **fields)
        self.labels, self.asked = labels, None

    def want(self, names):
        self.asked = names

    def groups(self, count):
        return self.labels[:count]


def test_particles_are_those_of_one_condition():
    """Samples of two conditions in turns give what each condition gives alone; explicit groups must not mix them."""
    x, fields = points(12, shape=(1, 2, 2)), {"cond": Tanh(1.0), "uncond": Tanh(0.3)}
    labels = [0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1]

    def run(rows, labels):
        model, streams = Named(labels, path("flow"), "flow", **fields), Streams([digest(row) for row in rows])
        model.noise = lambda name, like: streams.normal(name, like)
        fkc, states = FKC(3.0), []
        return sample(model, rows, fkc, solver=fkc.solver, states=states), [len(group) for group in states[0]["groups"]]

    together, sizes = run(x, labels)
    assert sizes == [5, 7]
    for label in (0, 1):
        rows = [row for row in range(12) if labels[row] == label]
        close(together[rows], run(x[rows], [label] * len(rows))[0], **EXACT)
    model = Named(labels, path("flow"), "flow", **fields)
    with pytest.raises(BadValue, match="several conditions together: 4 consecutive"):
        sample(model, x, FKC(3.0, particles=4), solver=ReverseSDE())
    assert model.calls == 0 and model.asked == ("uncond", "cond")


def test_a_lone_particle_is_told(caplog):
    sample(Named([0, 1, 1], path("flow"), "flow"), points(3), FKC(2.0), solver=ReverseSDE())
    assert "fkc has a single image of some condition" in caplog.text


def test_groups_do_not_mix():
    """A group of a batch gives what it gives alone."""
    x = points(12, shape=(1, 2, 2))
    fields, fkc = {"cond": Tanh(1.0), "uncond": Tanh(0.3)}, FKC(3.0, particles=4)

    def run(rows):
        model, streams = Toy(path("flow"), "flow", **fields), Streams([digest(row) for row in rows])
        model.noise = lambda name, like: streams.normal(name, like)
        states = []
        return sample(model, rows, fkc, solver=fkc.solver, states=states), states[0]["log_weights"]

    together, weights = run(x)
    for g in range(3):
        alone, own = run(x[4 * g:4 * g + 4])
        close(together[4 * g:4 * g + 4], alone, **EXACT)
        close(weights[4 * g:4 * g + 4], own, **EXACT)


def resampled(fkc, steps=8):
    """The steps after which a run of equally distant particles resamples."""
    model, states, found = Toy(path("edm", steps)), [], []
    for i, _ in enumerate(sampled_path(model, start(model, 64), fkc, solver=fkc.solver, states=states)):
        found += [i] if not states[0]["log_weights"].any() else []
    assert len(states[0]["ess"]) == steps
    return found


def test_when_particles_are_resampled():
    """Always, never, or where few are left: and a last time before the last step that adds noise, so that copies part."""
    assert resampled(FKC(3.0, threshold=1.0)) == [*range(6)]
    assert resampled(FKC(3.0, threshold=0.0)) == []
    some = resampled(FKC(3.0))
    assert some[-1] == 5 and 1 < len(some) < 6
    assert resampled(FKC(1.01, threshold=0.01)) == [5] and resampled(FKC(3.0), 2) == []


def test_no_two_images_are_the_same():
    model, fkc = Toy(path("edm")), FKC(20.0)
    assert len(sample(model, start(model, 64), fkc, solver=fkc.solver).unique()) == 64


def test_threshold_resamples_the_poor_groups_only():
    model, state = Toy(Path.edm((2.0, 0.5, 0.1, 0.05))), {}
    x = torch.cat([torch.full((4, 1), 0.7), torch.tensor([[-9.0], [0.0], [3.0], [9.0]])]).double()
    fkc = FKC(2.0, particles=4, threshold=0.5)
    model(fkc.before(x, 0, model, state), 0)
    moved = fkc.after(x, 0, model, state)
    assert torch.equal(moved[:4], x[:4]) and not torch.equal(moved[4:], x[4:])
    assert state["log_weights"][:4].all() and not state["log_weights"][4:].any()
    assert state["ess"][0][0] > 2 >= state["ess"][0][1]


def test_centre_and_clamp():
    model, x = Toy(Path.edm((2.0, 0.5))), torch.tensor([[-9.0], [0.0], [3.0], [9.0]], dtype=torch.float64)

    def weights(**how):
        state = {}
        fkc = FKC(2.0, particles=2, **how)
        model(fkc.before(x, 0, model, state), 0)
        fkc.after(x, 0, model, state)
        return state["log_weights"]

    plain = weights()
    centred = plain - plain.view(2, 2).mean(1).repeat_interleave(2)
    close(weights(centre=True), centred, **EXACT)
    close(weights(clamp=0.5), plain.clamp(-0.5, 0.5), **EXACT)
    close(weights(centre=True, clamp=1.0), centred.clamp(-1, 1), **EXACT)


def test_floor_in_the_loop():
    """Where the weights part by hundreds, one particle is left, unless they have a floor."""
    model, x = Toy(Path.edm((2.0, 0.5, 0.1))), torch.tensor([[-200.0], [0.0], [3.0], [9.0]], dtype=torch.float64)
    for floor, left in ((0.0, 1), (0.9, 4)):
        fkc, state = FKC(2.0, floor=floor), {}
        model(fkc.before(x, 0, model, state), 0)
        assert len(fkc.after(x, 0, model, state).unique()) == left


def test_the_noise_to_start_from_has_the_variance_of_the_power():
    x, model = points(), Toy(path("edm"))
    for corrector, total in ((FKC(3.0), 1), (FKCAnneal(0.5), 0.5), (FKCProduct(("cond", "uncond")), 2)):
        close(corrector.before(x, 0, model, {}), x / math.sqrt(total), **EXACT)
        assert corrector.before(x, 1, model, {}) is x


class Ruled(Toy):
    """A toy with rules."""

    def __init__(self, *rules):
        super().__init__(path("edm"))
        self.rules = rules


def test_fkc_refuses_what_its_theory_excludes():
    model = Toy(path("edm"))
    for corrector in (FKC(2.0), FKCAnneal(2.0), FKCProduct(("cond", "uncond"))):
        for solver in (None, UniPC(2)):
            with pytest.raises(Unsupported, match="needs a solver that adds noise"):
                sample(model, points(), corrector, solver=solver)
        for solver in (ReverseSDE((("cond", 3.0),)), ReverseSDE(spread=0.5)):
            with pytest.raises(Unsupported, match="weighs the steps of"):
                sample(model, points(), corrector, solver=solver)
    with pytest.raises(BadValue, match="fkc weighs the step itself: name pcg before it"):
        sample(model, points(), FKC(2.0), PCG(), solver=ReverseSDE())
    with pytest.raises(BadValue, match="batch of 16 into groups of 5"):
        sample(model, points(), FKC(2.0, particles=5), solver=ReverseSDE())
    assert model.calls == 0
    with pytest.raises(Unsupported, match="needs the predictions uncond"):
        sample(Toy(path("edm"), cond=PLAIN), points(), FKC(2.0), solver=ReverseSDE())


@pytest.mark.parametrize("rule", [emag.EMAG(2.0), emag.APG(3.0), METHODS["ag"](0.9), METHODS["rescale"](0.7),
                                  emag.CFG(2.0, channels=3)])
def test_fkc_refuses_rules_its_weights_do_not_know(rule):
    model = Ruled(rule)
    with pytest.raises(Unsupported, match=f"{rule.name} moves the prediction, or keeps"):
        sample(model, points(), FKC(2.0), solver=ReverseSDE())
    assert model.calls == 0


def test_fkc_says_that_another_cfg_scale_plays_no_part(caplog):
    sample(Ruled(emag.CFG(2.0), emag.CADS(0.1, 0.4, 0.8, 0.5)), points(), FKC(2.0), solver=ReverseSDE())
    assert not caplog.text
    sample(Ruled(emag.CFG(1.5)), points(), FKC(2.0), solver=ReverseSDE())
    assert "fkc steps along -1 uncond +2 cond; cfg's scale of 1.5 is not used" in caplog.text


def test_powers_refuse_a_rule_they_would_ignore():
    with pytest.raises(Unsupported, match="emag would have no effect"):
        sample(Ruled(emag.EMAG(2.0)), points(), solver=ReverseSDE((("cond", 2.0),)))


@pytest.mark.parametrize("make", [
    lambda: FKC(-1.0), lambda: FKC(math.inf), lambda: FKC(math.nan), lambda: FKC(2.0, particles=0),
    lambda: FKC(2.0, threshold=1.5), lambda: FKC(2.0, threshold=math.nan), lambda: FKC(2.0, clamp=0.0),
    lambda: FKC(2.0, clamp=math.inf), lambda: FKC(2.0, floor=1.0), lambda: FKC(2.0, floor=-0.1), lambda: FKCAnneal(0.0),
    lambda: FKCAnneal(math.inf), lambda: FKCProduct(("a",)), lambda: FKCProduct(("a", "a")),
])
def test_fkc_parameters(make):
    with pytest.raises(BadValue):
        make()
