"""Branches under another condition or another time: ICG, TSG, and a negative prompt with a scale of its own."""

import pytest
import torch

import emag
from emag.core import COND, UNCOND, Conditioned, combine, with_null
from emag.errors import BadValue, NoEffect, Unsupported
from emag.maths.streams import Streams
from emag.methods.common.null_branch import NullBranch
from emag.methods.null.icg import ICG, Drawn, Independent, noise_like
from emag.methods.weak.negative import Negative
from emag.methods.weak.tsg import TSG, NoisyTime
from emag.schedules import Interval
from reference import at_step, tensors
from spy import network_outputs, scheduler_steps
from tiny import CASES, noise

close = torch.testing.assert_close
FEW = {"num_inference_steps": 3}
EMPTY = {"encoder_hidden_states": noise(900, 1, 5, 12), "pooled_projections": noise(950, 1, 10)}  # the cases' negative
OTHERS = {"encoder_hidden_states": noise(77, 1, 5, 12), "pooled_projections": noise(78, 1, 10)}


def draw(case, *rules, conditions=None, pipe=None, **call):
    pipe = pipe or CASES[case].pipe()
    with emag.guide(pipe, *rules, conditions=conditions) as run:
        made = CASES[case].run(pipe, **{**FEW, **call})
    return made, run.latest


def plain(case, **call):
    return CASES[case].run(CASES[case].pipe(), **{**FEW, **call})


def seen(case, *rules, conditions=None, **call):
    """What the network gave, in order, and what the scheduler got."""
    pipe = CASES[case].pipe()
    with network_outputs(pipe) as outputs, scheduler_steps(pipe) as steps:
        with emag.guide(pipe, *rules, conditions=conditions):
            CASES[case].run(pipe, **{**FEW, **call})
    return outputs, steps


# ICG


@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
@pytest.mark.parametrize("ours", [True, False], ids=["our CFG", "the host's"])
def test_icg_under_the_empty_condition_is_cfg(case, ours):
    rules = (ICG("given", ("empty",)), *((emag.CFG(4.0),) if ours else ()))
    made, _ = draw(case, *rules, conditions={"empty": EMPTY})
    close(made, plain(case), atol=2e-4, rtol=1e-4)


def test_icg_under_the_condition_itself_is_no_guidance():
    """In the algebra the conditional prediction is left as it is; in a run such a condition is refused as without effect."""
    rule, cfg, step = ICG("given", ("same",)), emag.CFG(5.0), at_step()
    cond = tensors(3, 1)[0].double()
    after = with_null((rule, cfg), {COND: cond, Conditioned("same"): cond.clone()}, step, [{}, {}])
    assert torch.equal(combine((rule, cfg), cond, after, step, [{}, {}]), cond)
    own = CASES["sd3"].call()
    same = {"encoder_hidden_states": own["prompt_embeds"], "pooled_projections": own["pooled_prompt_embeds"]}
    with pytest.raises(NoEffect, match="the one the images are made with"):
        draw("sd3", rule, conditions={"same": same})


@pytest.mark.parametrize("case", ["sd3", "pixart", "true-cfg"])
def test_icg_costs_what_cfg_costs(case):
    """The unconditional rows are never evaluated: two calls of the conditional rows a step."""
    pipe = CASES[case].pipe()
    with network_outputs(pipe) as outputs, emag.guide(pipe, ICG()) as run:
        CASES[case].run(pipe, **FEW)
    assert run.stats.evaluations == 2 * 3 * CASES[case].depth(pipe)
    assert [len(output) for output in outputs] == [2] * 6


@pytest.mark.parametrize("rule", [emag.CFG(3.0), emag.APG(3.0, 1.0, 0.0, 0.0)], ids=["cfg", "apg as cfg"])
def test_icg_guides_a_distilled_network(rule):
    """A network without unconditional rows, under u + w (c - u) with u the prediction under the drawn condition."""
    outputs, steps = seen("flux", ICG(), rule)
    assert len(outputs) == 2 * len(steps)
    for i, step in enumerate(steps):
        cond, null = outputs[2 * i], outputs[2 * i + 1]
        assert (cond - null).abs().max() > 0.1
        close(step, null + 3 * (cond - null), atol=1e-4, rtol=1e-4)


def test_a_distilled_network_still_refuses_cfg_alone_and_icg_alone():
    with pytest.raises(BadValue, match=r"cfg combines .* no unconditional rows"):
        draw("flux", emag.CFG(3.0))
    with pytest.raises(BadValue, match="icg is about the unconditional prediction"):
        draw("flux", ICG())


def drawn(seed=0, count=2, **more):
    x = noise(seed, count, 4, 8, 8)
    return Drawn(Independent(**{"form": "gaussian", "redraw": True, "classes": 1000, **more}), Streams.of(x))


def text(count=2, width=512):
    scales = torch.arange(1, count + 1).view(-1, 1, 1)
    return {"states": scales * noise(5, count, 64, width) + 3 * scales, "pooled": noise(6, count, width), "mask": scales}


def test_the_noise_has_each_samples_mean_and_deviation():
    """Of the condition tensors alone; nothing of their content is left."""
    values = text()
    made = drawn().inputs(values, ("states", "pooled", "absent"))
    assert set(made) == {"states", "pooled"}
    for name, new in made.items():
        old, rest = values[name].flatten(1), new.flatten(1)
        assert new.shape == values[name].shape
        for row in range(2):
            size = old[row].std() * old.shape[1]**-0.5
            assert abs(rest[row].mean() - old[row].mean()) < 4 * size
            assert abs(rest[row].std() / old[row].std() - 1) < 4 * (2 * old.shape[1])**-0.5
            assert abs(torch.corrcoef(torch.stack([old[row], rest[row]]))[0, 1]) < 5 * old.shape[1]**-0.5


def test_the_noise_follows_the_closed_form_and_keeps_the_dtype():
    y, n = text()["states"].bfloat16(), noise(3, 2, 64, 512)
    wide = y.float()
    expected = torch.stack([wide[i].mean() + wide[i].std(correction=0) * n[i] for i in range(2)])
    made = noise_like(y, n)
    assert made.dtype == torch.bfloat16
    close(made.float(), expected, atol=0.1, rtol=0.01)


@pytest.mark.parametrize("redraw", [True, False])
def test_a_draw_is_anew_each_step_or_kept(redraw):
    state, values = drawn(redraw=redraw), text()
    made = []
    for _ in range(3):
        state.streams.next_step()
        made.append(state.inputs(values, ("states",))["states"])
    assert torch.equal(made[0], made[1]) is not redraw and torch.equal(made[1], made[2]) is not redraw


@pytest.mark.parametrize("form", ["gaussian", "label"])
def test_a_draw_is_the_samples_own(form):
    """Row 1 of a batch draws what it draws alone; two samples differ."""
    x = noise(4, 2, 4, 8, 8)
    values = {**text(), "class_labels": torch.tensor([3, 3])}
    name = "states" if form == "gaussian" else "class_labels"

    def of(rows):
        state = Drawn(Independent(form, True, 10**6), Streams.of(x[rows]))
        return state.inputs({key: value[rows] for key, value in values.items()}, ("states",))[name]

    both = of(slice(0, 2))
    assert torch.equal(of(slice(1, 2)), both[1:]) and not torch.equal(both[0], both[1])


def test_labels_are_uniform():
    count, classes = 4000, 5
    state = Drawn(Independent("label", True, classes), Streams([bytes([i % 256, i // 256]) for i in range(count)]))
    labels = state.inputs({"class_labels": torch.zeros(count, dtype=torch.long)}, ())["class_labels"]
    assert labels.dtype == torch.long and labels.min() == 0 and labels.max() == classes - 1
    share = torch.bincount(labels, minlength=classes) / count
    assert (share - 1 / classes).abs().max() < 4 * (0.2 * 0.8 / count)**0.5


def test_given_conditions_take_turns():
    rule = ICG("given", ("prompt:a", "b", "prompt:a"))
    assert rule.weak == (Conditioned("prompt:a"), Conditioned("b"))
    names = [rule.branches(at_step(index=i))[0].name for i in range(4)]
    assert names == ["prompt:a", "b", "prompt:a", "b"]
    fixed = ICG("given", ("b", "prompt:a"), redraw=False)
    assert fixed.weak == (Conditioned("b"),) and fixed.branches(at_step(index=3)) == (Conditioned("b"),)


def test_icg_works_on_a_plain_function():
    """The given condition is evaluated in the place of the unconditional one: as many calls as CFG, and its result."""
    sigmas, conditions = tuple(1 - i / 4 for i in range(5)), {COND: 0.3, UNCOND: 0.1, "other": 0.1}
    plain_cfg = emag.guided(lambda x, t, c: x * t + c, emag.CFG(3.0), path=sigmas, conditions=conditions)
    model = emag.guided(lambda x, t, c: x * t + c, ICG("given", ("other",)), emag.CFG(3.0), path=sigmas,
                        conditions={**conditions, UNCOND: float("nan")})
    x = noise(1, 2, 4, 8, 8)
    assert torch.equal(model(x, 0), plain_cfg(x, 0)) and model.evaluations == 2


def test_icg_says_where_it_cannot_draw():
    with pytest.raises(Unsupported, match="icg=label"):
        draw("dit", ICG())
    with pytest.raises(Unsupported, match="no class labels"):
        draw("sd3", ICG("label"))


@pytest.mark.parametrize("values", [
    {"form": "zero"}, {"conditions": ("a",)}, {"form": "given"}, {"form": "given", "conditions": "ab"},
    {"form": "given", "conditions": ("",)}, {"form": "label", "classes": 0}])
def test_icg_refuses(values):
    with pytest.raises(BadValue, match="icg"):
        ICG(**values)


def test_a_null_branch_takes_the_place_of_a_prediction_that_was_evaluated_too():
    rule, step = ICG(), at_step()
    assert isinstance(rule, NullBranch)
    cond, uncond, other = tensors(3, 3)
    after = with_null((rule,), {COND: cond, UNCOND: uncond, rule.weak[0]: other}, step, [{}])
    assert torch.equal(after[UNCOND], other)


# TSG


def time_state(*spec, time=0.5, count=2):
    state = NoisyTime(*spec).start((0.5,) * 8, Streams.of(noise(4, count, 4, 8, 8)))
    state.predicted(at_step(time=time), torch.zeros(1))
    return state


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(("time", "power", "size"), [(0.5, 1.0, 0.5), (0.5, 2.0, 0.25), (0.1, 0.0, 1.0), (0.0, 1.0, 0.0)])
def test_the_embedding_gets_noise_of_size_s_t_to_the_alpha(relative, time, power, size):
    state, value = time_state(3.0, power, relative, time=time), noise(8, 2, 4096) * torch.tensor([[2.0], [5.0]])
    apart = state.output("time0", value) - value
    unit = value.std(1, correction=0) if relative else torch.ones(2)
    close(apart.std(1), 3 * size * unit, atol=1e-6, rtol=0.05)
    n = state.streams.normal("tsg", value)
    close(apart, 3 * size * unit[:, None] * n, atol=1e-5, rtol=1e-5)


def test_all_embedders_of_a_network_get_one_draw():
    state, value = time_state(1.0, 1.0, False), noise(8, 2, 64)
    assert torch.equal(state.output("time0", value), state.output("time3", value))


def test_a_timestep_given_once_for_all_rows_is_perturbed_for_each():
    """And the dtype stays."""
    state, value = time_state(1.0, 1.0, False), noise(8, 1, 64).bfloat16()
    both = state.output("time0", value)
    assert both.shape == (2, 64) and both.dtype == torch.bfloat16 and not torch.equal(both[0], both[1])


def test_no_noise_or_scale_one_is_off():
    assert TSG(3.0, 0.0).neutral and TSG(1.0).neutral and not TSG(3.0).neutral
    assert torch.equal(draw("sd3", TSG(3.0, 0.0))[0], plain("sd3"))
    with pytest.raises(NoEffect):
        draw("sd3", TSG(3.0, 1e-12))


@pytest.mark.parametrize("case", ["sd3", "dit", "flux"])
def test_tsg_is_the_network_at_a_perturbed_embedding(case, monkeypatch):
    """The weak prediction, made by hand with hooks on the embedders of a second network; the timestep itself stays."""
    monkeypatch.setattr(Streams, "normal", lambda self, name, like: torch.ones_like(like))
    pipe, calls = CASES[case].pipe(), []
    forward = pipe.transformer.forward

    def recording(*args, **kwargs):
        out = forward(*args, **kwargs)
        calls.append((args, kwargs, (out[0] if isinstance(out, tuple) else out.sample).clone()))
        return out

    pipe.transformer.__dict__["forward"] = recording
    with emag.guide(pipe, TSG(2.0, 0.7, 0.0, relative=False)):
        CASES[case].run(pipe, **FEW, **({"guidance_scale": 1.0} if case == "dit" else {}))
    clean, weak = calls[2], calls[3]
    assert torch.equal(clean[1]["timestep"][-2:], weak[1]["timestep"])
    other = CASES[case].pipe().transformer
    for name, module in other.named_modules():
        if name.endswith("timestep_embedder"):
            module.register_forward_hook(lambda module, args, out: out + 0.7)
    with torch.no_grad():
        by_hand = other(*weak[0], **weak[1])
    close(weak[2], by_hand[0] if isinstance(by_hand, tuple) else by_hand.sample, atol=1e-5, rtol=1e-4)
    assert (weak[2] - clean[2][-2:]).abs().max() > 0.05


def test_tsg_needs_no_condition_and_pushes_away():
    """On a network without guidance of its own: p + (w - 1) (p - p at the perturbed time)."""
    outputs, steps = seen("flux", TSG(2.5))
    for i, step in enumerate(steps):
        clean, weak = outputs[2 * i], outputs[2 * i + 1]
        close(step, clean + 1.5 * (clean - weak), atol=1e-4, rtol=1e-4)


def test_icg_and_tsg_together_cost_three():
    """The published combination: p_c + (w - 1) (p_c - p_t) + ..., three evaluations a step."""
    made, stats = draw("sd3", ICG(), TSG(2.0), emag.CFG(3.0))
    assert made.isfinite().all() and stats.evaluations == 3 * 3 * 4


@pytest.mark.parametrize("values", [{"strength": -1}, {"strength": float("nan")}, {"power": -1}, {"power": float("inf")},
                                    {"scale": float("nan")}, {"scale": -1}])
def test_tsg_refuses(values):
    with pytest.raises(BadValue, match="tsg"):
        TSG(**values)


# a negative prompt of its own


def test_away_from_the_empty_prompt_alone_is_cfg():
    made, _ = draw("sd3", Negative(4.0, "empty"), conditions={"empty": EMPTY}, guidance_scale=1.0)
    close(made, plain("sd3"), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
def test_a_negative_prompt_leaves_the_unconditional_branch_alone(case):
    """Under the host's CFG: u + g (c + (w - 1) (c - e) - u)."""
    outputs, steps = seen(case, Negative(2.5, "other"), conditions={"other": OTHERS})
    per = len(outputs) // len(steps)
    for i, step in enumerate(steps):
        if case == "sd3":
            (uncond, cond), weak = outputs[per * i].chunk(2), outputs[per * i + 1]
        else:
            cond, weak, uncond = outputs[per * i:per * i + 3]
        close(step, uncond + 4 * (cond + 1.5 * (cond - weak) - uncond), atol=5e-4, rtol=1e-4)


def test_outside_its_interval_a_negative_prompt_costs_nothing():
    _, stats = draw("sd3", Negative(Interval(3.0, 0.0, 0.5, "progress"), "other"), conditions={"other": OTHERS},
                    num_inference_steps=4)
    assert stats.evaluations == 4 * (2 * 4 + 2)


def test_a_negative_prompt_by_text_is_encoded():
    labels = draw("dit", Negative(2.0, "prompt:281"))[0]
    close(labels, draw("dit", Negative(2.0, "cat"), conditions={"cat": {"class_labels": torch.tensor([281])}})[0])
    assert not torch.allclose(labels, draw("dit", Negative(2.0, "prompt:7"))[0], atol=1e-3)


@pytest.mark.parametrize("values", [{"negative": ""}, {"negative": "uncond"}, {"negative": "cond"}, {"negative": 3},
                                    {"scale": float("inf")}, {"scale": -0.5}])
def test_negative_refuses(values):
    with pytest.raises(BadValue, match="negative"):
        Negative(**values)
