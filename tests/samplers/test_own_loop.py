"""A pipeline's network in our own loop: prompts drawn together, conditions by name, weak branches beside correctors."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import emag
from emag.errors import BadValue, Unsupported
from emag.hosts import own_loop
from emag.hosts.own_loop import Loop, loop_model
from emag.lab.draw.columns import Column
from emag.lab.draw.columns import run as draw_column
from emag.lab.draw.sampling import DrawSettings, jobs
from emag.methods import METHODS
from emag.samplers import FKC, PCG, FKCAnneal, FKCProduct, Path, RectifiedCFGpp, Reflection, ReverseSDE, sample
from shell import emag as run_emag

FROG, TRUCK = "a photo of a frog", "a photo of a truck"


@pytest.fixture(scope="module")
def pipe():
    made = emag.load("tiny")
    made.set_progress_bar_config(disable=True)
    return made


def pixels(images):
    return np.stack([np.asarray(image, float) for image in images])


def draw(pipe, *rules, parts=(), solver=None, prompts=(FROG, FROG), steps=3, **more):
    loop = Loop(rules, tuple(parts), solver, steps, **more)
    return pixels(own_loop.run(pipe, loop, prompts, [None] * len(prompts), range(len(prompts)))[0])


def test_prompts_drawn_together_do_not_mix(pipe):
    """A prompt's images are those of a run of their own, in whatever order prompts come; more of its own change them."""
    fkc = FKC(5.0)
    both = draw(pipe, parts=[fkc], solver=fkc.solver, prompts=[FROG, TRUCK, FROG, FROG])
    alone = pixels(own_loop.run(pipe, Loop((), (fkc,), fkc.solver, 3), [FROG] * 3, [None] * 3, [0, 2, 3])[0])
    assert np.abs(both[[0, 2, 3]] - alone).max() < 8 and np.ptp(alone) > 50


def test_negative_prompts_tell_groups_apart(pipe):
    fkc = FKC(5.0)
    loop = Loop((), (fkc,), fkc.solver, 3)
    mixed = pixels(own_loop.run(pipe, loop, [FROG] * 4, [None, TRUCK, TRUCK, None], range(4))[0])
    alone = pixels(own_loop.run(pipe, loop, [FROG] * 2, [TRUCK] * 2, [1, 2])[0])
    assert np.abs(mixed[1:3] - alone).max() < 8


@pytest.mark.slow
def test_images_do_not_depend_on_the_batch_size(pipe):
    work, column = jobs([FROG, TRUCK], [], [1, 2, 3]), Column.parse("cfg=4 fkc,scale=4 reverse-sde")
    assert column.joint and not Column.parse("cfg=4 pcg").joint
    made = [draw_column(pipe, column, work, DrawSettings(3), size) for size in (6, 4, 1)]
    assert all(np.abs(pixels(one.images) - pixels(made[0].images)).max() < 8 for one in made[1:])
    assert len({one.evaluations for one in made}) == 1 and len(made[0].images) == 6


def test_a_product_of_named_conditions(pipe):
    """It is drawn from pure noise; the names may be given apart, or written out, or read from the short form."""
    def product(name, **more):
        made = FKCProduct(branches=("cond", name))
        return draw(pipe, parts=[made], solver=made.solver, **more)

    plain = draw(pipe, solver=ReverseSDE(spread=1.0))
    found = product("truck", conditions={"truck": TRUCK})
    assert np.abs(found - plain).max() > 8 and found.std((1, 2, 3)).min() > 5
    assert np.array_equal(found, product(f"prompt:{TRUCK}"))
    with pytest.raises(BadValue, match="the condition 'truck' was not given: say Loop"):
        product("truck")
    column = Column.parse("fkc-product,branches=cond+prompt:truck reverse-sde")
    assert column.correctors[0].branches == ("cond", "prompt:truck")


def test_annealing_from_pure_noise(pipe):
    plain = draw(pipe, solver=ReverseSDE(spread=1.0))
    for power, same in ((1.0, True), (2.0, False)):
        anneal = FKCAnneal(power)
        assert np.array_equal(draw(pipe, parts=[anneal], solver=anneal.solver), plain) == same


def test_conditions_a_function_was_given_are_evaluated_when_a_sampler_reads_them():
    asked = []

    def denoiser(x, sigma, condition):
        asked.append(condition)
        return x - condition

    model = emag.guided(denoiser, path=Path.flow((1.0, 0.5, 0.0)), conditions={"cond": 0.0, "a": 1.0, "b": 2.0})
    x = torch.randn(3, 2)
    sample(model, x, solver=ReverseSDE((("a", 1.0), ("b", 0.5))))
    assert asked == [0.0, 1.0, 2.0] * 2
    asked.clear()
    sample(model, x)
    assert asked == [0.0] * 2
    with pytest.raises(BadValue, match="reads the condition 'c', which was not given"):
        sample(model, x, solver=ReverseSDE((("c", 1.0),)))
    assert len(asked) == 2


@pytest.mark.parametrize(("condition", "labels"), [
    (None, [0, 0, 0]), (1.0, [0, 0, 0]), (torch.tensor([[1.0], [2.0], [1.0]]), [0, 1, 0]), (["a", "b", "b"], [0, 1, 1]),
    ({"text": torch.tensor([1.0, 1.0, 2.0]), "shared": torch.zeros(1, 4)}, [0, 0, 2]), (torch.zeros(2, 4), [0, 0, 0]),
    ({"a": torch.tensor([1.0, 1.0, 2.0]), "b": [0, 1, 1]}, [0, 1, 2]), (torch.tensor(1.0), [0, 0, 0]), ({}, [0, 0, 0]),
])
def test_samples_with_equal_conditions_are_one_group(condition, labels):
    model = emag.guided(lambda x, t, c: x, path=(1.0, 0.0), conditions={"cond": condition})
    assert model.groups(3) == labels
    with_null = emag.guided(lambda x, t, c: x, path=(1.0, 0.0), conditions={"cond": condition, "uncond": [1, 2, 3]})
    assert with_null.groups(3) == [0, 1, 2]


WEAK = [emag.EMAG(2.0, layers=(2, 3, 4)), emag.EMAG(2.0, "map", (2,)), METHODS["slg"](3.0, (2,)), METHODS["pladis"]()]


@pytest.mark.parametrize("corrector", [
    pytest.param(PCG(scale=2.0), marks=pytest.mark.slow), pytest.param(Reflection(2.5, 0.0), marks=pytest.mark.long)])
@pytest.mark.parametrize("rule", WEAK)
def test_a_weak_branch_beside_a_corrector(pipe, rule, corrector):
    plain = draw(pipe, emag.CFG(2.5), parts=[corrector], steps=6)
    weak = draw(pipe, rule, emag.CFG(2.5), parts=[corrector], steps=6)
    assert np.abs(weak - plain).max() > 3 and weak.std((1, 2, 3)).min() > 5


class Heard:
    """A model, and what its steps were asked and answered."""

    def __init__(self, model):
        self.model, self.steps = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, x, i):
        self.steps.append((x, self.model(x, i)))
        return self.steps[-1][1]


@pytest.mark.parametrize("corrector", [PCG(2, 2.0), Reflection(2.5, 0.0)])
@pytest.mark.parametrize("rules", [(emag.EMAG(2.0, layers=(2, 3, 4)), emag.CFG(2.5)), (emag.EMAG(2.0, "map", (2,)),),
                                   (emag.CFG(2.5), emag.Momentum(1.5))], ids=["emag", "map", "momentum"])
def test_what_rules_remember_is_of_the_steps_alone(pipe, rules, corrector):
    """The guided predictions follow from the x of the steps, whatever a corrector evaluated between them."""
    heard = Heard(loop_model(pipe, Loop(rules, steps=6), [FROG], [None]))
    sample(heard, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), corrector)
    again = loop_model(pipe, Loop(rules, steps=6), [FROG], [None])
    assert heard.beside > 0 and again.beside == 0
    assert all(torch.equal(again(x, i), pred) for i, (x, pred) in enumerate(heard.steps))


@pytest.mark.parametrize("off", [PCG(0), Reflection(until=0)])
def test_a_corrector_that_is_off_leaves_a_weak_branch_alone(pipe, off):
    rules = emag.EMAG(2.0, layers=(2, 3, 4)), emag.CFG(2.5)
    assert np.array_equal(draw(pipe, *rules, parts=[off]), draw(pipe, *rules))


@pytest.mark.slow
def test_a_weak_branch_and_a_corrector_cost_their_sum(pipe):
    def cost(text):
        return draw_column(pipe, Column.parse(text), jobs([FROG], [], [1]), DrawSettings(6), 1).evaluations

    plain, weak, corrected = map(cost, ("cfg=2.5 euler", "emag=2 cfg=2.5 euler", "cfg=2.5 pcg"))
    assert cost("emag=2 cfg=2.5 pcg") - plain == (weak - plain) + (corrected - plain) and plain < weak < corrected


@pytest.mark.slow
def test_generate_draws_a_corrector_beside_a_weak_branch(pipe, tmp_path, monkeypatch, capsys):
    def made(*guidance):
        words = [*(word for text in guidance for word in ("-g", text)), "-n", 6, "-s", "1-2"]
        code, out, err = run_emag(monkeypatch, capsys, "generate", FROG, *words, "-o", tmp_path, "--json")
        assert code == 0, err
        return pixels([Image.open(path) for path in json.loads(out)["images"]])

    both = made("emag=2", "cfg=2.5", "pcg=1,scale=2")
    column = Column.parse("emag=2 cfg=2.5 pcg=1,scale=2")
    assert np.array_equal(both, pixels(draw_column(pipe, column, jobs([FROG], [], [1, 2]), DrawSettings(6), 2).images))
    assert np.abs(both - made("cfg=2.5", "pcg=1,scale=2")).max() > 3


def test_weak_branches_are_those_of_the_pipeline(pipe):
    """Our Euler is the pipeline's sampler: with a weak branch it draws what the pipeline draws."""
    work, settings = jobs([FROG], [], [1]), DrawSettings(6)
    ours, theirs = (draw_column(pipe, Column.parse(f"emag=2 cfg=2.5 {more}"), work, settings, 1) for more in ("euler", ""))
    assert np.abs(pixels(ours.images) - pixels(theirs.images)).max() <= 1
    assert ours.evaluations == theirs.evaluations


def test_a_solver_that_guides_takes_no_cfg_beside_it(pipe, caplog):
    with pytest.raises(BadValue, match=r"rectified-cfg\+\+ guides by its own scale, and cfg would guide once more"):
        draw(pipe, emag.CFG(2.0), solver=RectifiedCFGpp(), steps=2)
    work, column = jobs([FROG], [], [1]), Column.parse("rectified-cfg++=3")
    with_scale, without = (draw_column(pipe, column, work, DrawSettings(2, scale), 1) for scale in (4.0, None))
    assert np.array_equal(pixels(with_scale.images), pixels(without.images)) and "is not used" in caplog.text


def test_particles_and_weak_branches_are_refused_before_the_network(pipe):
    calls = []
    handle = pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    fkc = FKC(2.0)
    try:
        with pytest.raises(Unsupported, match="emag moves the prediction"):
            draw(pipe, emag.EMAG(2.0, layers=(2,)), emag.CFG(2.0), parts=[fkc], solver=fkc.solver)
    finally:
        handle.remove()
    assert not calls
