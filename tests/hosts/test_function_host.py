"""A plain denoiser function under a guidance, in somebody's own loop."""

import pytest
import torch

import emag
from emag.core import Conditioned
from emag.errors import BadValue, NoEffect, Unsupported
from emag.maths.predictions import convert
from emag.methods import METHODS
from emag.samplers import CORRECTORS, Path, sample
from emag.schedules import Interval
from plain_function import SIGMAS, first, flow, loop
from tiny import sd3, sd3_call

close = torch.testing.assert_close
MEANS = {"cond": 1.0, "uncond": -0.5, "other": 3.0}


def guided(*rules, **more):
    return emag.guided(flow, *rules, path=SIGMAS, **{"conditions": MEANS, **more})


def test_without_rules_it_is_the_function():
    close(loop(guided(), first()), loop(lambda x, i: flow(x, SIGMAS[i], 1.0), first()), atol=0, rtol=0)


def test_cfg_is_cfg():
    def by_hand(x, i):
        return torch.lerp(flow(x, SIGMAS[i], -0.5), flow(x, SIGMAS[i], 1.0), 3.0)

    close(loop(guided(emag.CFG(3.0)), first()), loop(by_hand, first()), atol=1e-12, rtol=1e-12)


def test_evaluations_are_counted_and_spared():
    for rules, expected in (((), 5), ((emag.CFG(3.0),), 10), ((emag.CFG(1.0),), 5),
                            ((emag.CFG(Interval(3.0, 0.2, 0.6, "sigma")),), 7), ((METHODS["ag"](-2.0), emag.CFG(3.0)), 6)):
        model = guided(*rules)
        loop(model, first())
        assert model.evaluations == expected


def test_a_run_begins_anew_at_level_0():
    model = guided(emag.APG(3.0, 0.0, 5.0, 0.7))
    assert torch.equal(loop(model, first()), loop(model, first()))


def test_rows_are_independent():
    rules = (emag.CADS(0.5, 0.1, 0.9, 0.5), emag.APG(3.0, 0.0, 5.0, 0.7))
    given = {name: torch.full((3, 4, 6, 6), value) for name, value in MEANS.items()}
    together = loop(guided(*rules, conditions=given), first())
    for i in range(3):
        alone = {name: value[i:i + 1] for name, value in given.items()}
        close(loop(guided(*rules, conditions=alone), first()[i:i + 1]), together[i:i + 1], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("space", ["epsilon", "x0"])
def test_spaces(space):
    path = Path.flow(SIGMAS[1:])

    def other(x, t, mean):
        return convert(flow(x, t, mean), x, 1 - t, t, "flow", space)

    rule = emag.APG(3.0, 0.0, 5.0, 0.7)
    ours = emag.guided(other, rule, path=path, prediction=space, conditions=MEANS)
    theirs = emag.guided(flow, rule, path=path, conditions=MEANS)
    x = first()
    for i in range(4):
        alpha, sigma = path.at(i)
        close(convert(ours(x, i), x, alpha, sigma, space, "flow"), theirs(x, i), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_prediction_has_the_dtype_of_x(dtype):
    assert guided(emag.CFG(3.0))(first().to(dtype), 0).dtype == dtype


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda: guided(emag.CFG(3.0), conditions={"cond": 1.0}), BadValue, "uncond"),
    (lambda: guided(emag.EMAG(1.5, layers=(0,), window=emag.Window.progress())), Unsupported, "plain function"),
    (lambda: guided(METHODS["tcfg"]()), BadValue, "combining"),
    (lambda: guided(emag.CFG()), BadValue, "default scale"),
    (lambda: guided(emag.CADS(0.5, 0.1, 0.9, 0.5), conditions={"cond": 1.0}), BadValue, "tensor"),
    (lambda: guided(METHODS["rescale"](0.7), emag.CFG(3.0)), BadValue, "before"),
    (lambda: emag.guided(flow, path=SIGMAS, prediction="noise"), BadValue, "prediction"),
    (lambda: emag.guided(flow, path=SIGMAS, prediction="epsilon"), BadValue, "Path"),
    (lambda: guided(1.5), BadValue, "rules"),
    (lambda: guided()(first(), 5), BadValue, "level 5"),
])
def test_what_cannot_work_is_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "layers" in method.__dataclass_fields__])
def test_what_names_blocks_needs_a_network(name):
    """Said before any default is looked for, which a plain function has none of."""
    with pytest.raises(Unsupported, match=f"^{name} looks into the network"):
        guided(METHODS[name](**{"spg": {"style": "a"}, "neg-to-me": {"reference": "a"}}.get(name, {})))


@pytest.mark.parametrize("corrector", CORRECTORS.values(), ids=CORRECTORS)
def test_a_pipeline_refuses_correctors_and_says_where_they_work(corrector):
    made = object.__new__(corrector)
    with pytest.raises(Unsupported, match=r"emag\.sample"), emag.guide(sd3(), made):
        pass
    with pytest.raises(BadValue, match=r"emag\.sample"):
        guided(made)


def test_our_loop_drives_it():
    close(sample(guided(emag.CFG(3.0)), first()), loop(guided(emag.CFG(3.0)), first()), atol=1e-12, rtol=1e-12)


def test_further_conditions_in_a_pipeline():
    """One more evaluation of the conditional rows a step; the image's own condition is told apart from another."""

    class Away(emag.CFG):
        """Away from another condition."""

        name = "away"
        kind = "weak"

        @property
        def weak(self):
            return (Conditioned("other"),)

        def apply(self, pred, branches, step, state):
            return pred + (self.scale - 1) * (branches["cond"] - branches[self.weak[0]])

    pipe, call = sd3(), sd3_call()
    own = {"encoder_hidden_states": call["prompt_embeds"], "pooled_projections": call["pooled_prompt_embeds"]}
    other = {name: value.flip(0) for name, value in own.items()}
    plain = pipe(**call).images
    with emag.guide(pipe, Away(1.5), conditions={"other": other}) as run:
        made = pipe(**sd3_call()).images
    assert run.stats.evaluations == run.stats.planned == 8 * 3 * 4
    assert not torch.allclose(made, plain, atol=1e-3)
    with pytest.raises(NoEffect, match="'other'"), emag.guide(pipe, Away(1.5), conditions={"other": own}):
        pipe(**sd3_call())
