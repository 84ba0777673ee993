"""Methods that are sums of several conditions, against their formulas."""

import math
from dataclasses import replace

import pytest
import torch

import emag
from emag.core import COND, UNCOND, combine, needs_null
from emag.errors import BadValue
from emag.methods.after.rescale import Rescale
from emag.methods.combining.compose import Compose, Term
from emag.methods.combining.compositional import (
    compositional,
    cs_cfg,
    ds_cfg,
    fcfg,
    hg_f,
    hg_t,
    hg_v,
    instruct_g2i,
    instruct_pix2pix,
    late_negative,
    mask_cfg,
    phase_negative,
    sync_cfg,
)
from emag.methods.combining.cs_apg import CSAPG
from emag.methods.condition.phase_negative import PhaseNegative
from exact import Gaussian
from reference import SPACES, at_step, tensors
from several import NAMES, asked, cfg, close, guided, keyed, made
from tiny import CASES

# M30 to M38


def test_pix2pix_is_cfg_on_both_conditions_where_the_scales_agree():
    values = made()
    close(guided(instruct_pix2pix("a", 3.0, 3.0), values), cfg(values, 3.0))
    assert asked(instruct_pix2pix("a", 3.0, 3.0)) == {UNCOND}
    assert guided(instruct_pix2pix("a", 1.0, 1.0), values) is values[COND]
    close(guided(instruct_pix2pix("a", 0.0, 1.5), values), cfg(values, 1.5, strong="a"))
    assert asked(instruct_pix2pix("a")) == {UNCOND, "a"}
    expected = values[UNCOND] + 1.5 * (values["a"] - values[UNCOND]) + 7.5 * (values[COND] - values["a"])
    close(guided(instruct_pix2pix("a"), values), expected)


def test_compositional_of_one_is_cfg():
    values = made()
    close(guided(compositional({COND: 3.0}), values), cfg(values, 3.0))
    same = {**values, "a": values[COND], "b": values[COND]}
    close(guided(compositional({"a": 1.5, "b": 1.5}), same), cfg(values, 3.0))
    close(guided(compositional({"a": 2.0, "b": -1.0, COND: 3.0}), values),
          values[UNCOND] + 2 * (values["a"] - values[UNCOND]) - (values["b"] - values[UNCOND])
          + 3 * (values[COND] - values[UNCOND]))


def test_compositional_multiplies_densities():
    """p(x) prod_i (p(x | c_i) / p(x))^w_i for Gaussians: the score of the product is the composed one."""
    weights, x, alpha, sigma = {"a": 1.2, "b": -0.3, "c": 0.8}, tensors(5, 1, 3, 4)[0].double(), 0.8, 0.6
    generator, data = torch.Generator().manual_seed(2), {}
    for name in (UNCOND, *weights):
        root, mean = torch.randn(4, 4, generator=generator).double(), torch.randn(4, generator=generator).double()
        data[name] = Gaussian(mean, root @ root.T + torch.eye(4).double())
    values = {name: one.predict(x, alpha, sigma, "epsilon") for name, one in data.items()}
    at = {name: one.marginal(alpha, sigma) for name, one in data.items()}
    share = {UNCOND: 1 - sum(weights.values()), **weights}
    precision = sum(share[name] * torch.linalg.inv(one.matrix) for name, one in at.items())
    linear = sum(share[name] * torch.linalg.solve(one.matrix, one.mean) for name, one in at.items())
    score = linear - x @ precision
    step = at_step(x=x)
    close(guided(compositional(weights), {COND: values["a"], **values}, step), -sigma * score, atol=1e-9)


def test_graphs():
    values = made()
    same = {**values, "b": values["a"], "c": values["a"]}
    close(guided(instruct_g2i({"a": 4.0}, 4.0), values), cfg(values, 4.0, strong="a"))
    close(guided(instruct_g2i(dict.fromkeys(NAMES, 1.0), 4.0), same), guided(instruct_g2i({"a": 3.0}, 4.0), values))
    close(guided(instruct_g2i({"a": 0.0}, 4.0), values), cfg(values, 4.0))
    assert asked(instruct_g2i(("a", "b"))) == {UNCOND, "a", "b"}
    expected = cfg(values, 7.5) + 1.5 * (values["a"] - values[COND]) + 1.5 * (values["b"] - values[COND])
    close(guided(instruct_g2i(("a", "b")), values), expected)


def test_graphs_are_rescaled_against_the_text_prediction():
    values = made()
    step = at_step(x=values[COND])
    found = combine((instruct_g2i(("a",)), Rescale(1.0)), values[COND], keyed(values), step, [{}, {}])
    close(found.flatten(1).std(1), values[COND].flatten(1).std(1))


FREE = {"eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0}


@pytest.mark.parametrize(("text", "context"), [(5.0, 4.0), (2.0, 1.0), (1.0, 3.0), (0.5, 0.0)])
def test_context_style_forms_differ_by_one_in_the_context_scale(text, context):
    values = made()
    close(guided(CSAPG(text, context, "a", **FREE), values), guided(cs_cfg("a", text, context - 1), values))


def test_context_style_without_context_is_cfg_on_the_text():
    values = {**made(), "a": made()[UNCOND]}
    close(guided(cs_cfg("a", 3.0, 2.0), values), cfg(values, 3.0))
    close(guided(CSAPG(3.0, 2.0, "a", **FREE), values), cfg(values, 3.0))


def test_both_context_style_forms_have_their_neutral_scales():
    values = made()
    for rule in (cs_cfg("a", 1.0, 0.0), CSAPG(1.0, 1.0, "a")):
        assert guided(rule, values) is values[COND] and asked(rule) == set() and rule.weak == ()
    assert asked(CSAPG(1.0, 2.0, "a")) == {"a", UNCOND} and asked(CSAPG(2.0, 1.0, "a")) == {"a"}
    close(guided(CSAPG(2.0, 1.0, "a", **FREE), values), cfg(values, 2.0, "a"))


def test_context_style_projected_against_its_formula_over_three_steps():
    momentum, cap, state, sums = -0.5, 3.0, {}, {}
    rule = CSAPG(5.0, 4.0, "a", eta=0.25, norm_threshold=cap, momentum=momentum)
    for seed in range(3):
        values = made(seed)
        p, expected = values[COND], values[COND].clone()
        for name, scale, shift in (("text", 5.0, p - values["a"]), ("context", 4.0, values["a"] - values[UNCOND])):
            sums[name] = shift + momentum * sums.get(name, 0)
            for i in range(2):
                total = sums[name][i] * min(1, cap / sums[name][i].norm())
                parallel = (total * p[i]).sum() / (p[i] ** 2).sum() * p[i]
                expected[i] += (scale - 1) * (total - parallel + 0.25 * parallel)
        for _ in range(2):  # evaluated a second time, a level adds nothing to the sums
            close(guided(rule, values, at_step(x=p, index=seed), state), expected)


def test_the_projected_form_moves_across_the_prediction():
    values = made()
    found = guided(CSAPG(5.0, 4.0, "a"), values)
    dots = ((found - values[COND]) * values[COND]).flatten(1).sum(1)
    close(dots, torch.zeros_like(dots), atol=1e-9)


def test_masks_choose_between_conditions():
    values, left = made(), "box:0:0:0.5:1"
    regions = {"a": left, "b": f"rest:{left}"}
    found = guided(mask_cfg(regions, 1.0), values)
    close(found[..., :3], values["a"][..., :3])
    close(found[..., 3:], values["b"][..., 3:])
    strong = guided(mask_cfg(regions), values)
    close(strong[..., :3], cfg(values, 5.0, strong="a")[..., :3])
    moved = guided(mask_cfg(regions), {**values, "b": made(7)["b"]})
    assert torch.equal(moved[..., :3], strong[..., :3]) and not torch.allclose(moved[..., 3:], strong[..., 3:])
    close(guided(mask_cfg({COND: "box:0:0:1:1"}, 3.0), values), cfg(values, 3.0))


def test_a_masked_term_is_zero_outside_its_mask():
    values = made()
    more = Compose(UNCOND, (Term(3.0, COND), Term(2.0, "a", "b", "box:0:0.5:1:1")))
    found, plain = guided(more, values), guided(Compose(UNCOND, (Term(3.0, COND),)), values)
    assert torch.equal(found[:, :, :3], plain[:, :, :3])
    close(found[:, :, 3:], (plain + 2 * (values["a"] - values["b"]))[:, :, 3:])


def test_ds_cfg_is_a_bump_that_fades_with_the_noise():
    values = made()
    close(guided(ds_cfg(peak=3.0, low=3.0, power=0.0), values), cfg(values, 3.0))
    close(guided(ds_cfg(width=1e6, peak=3.0, low=1.0, power=0.0), values), cfg(values, 3.0), atol=1e-9)

    def share(time):
        step = at_step(x=values[COND], time=time)
        moved = guided(ds_cfg((0.5, 0.5), 0.2, 3.0, 1.0), values, step) - values[UNCOND]
        return (moved / (values[COND] - values[UNCOND]))[0, 0]

    high, low = share(1.0), share(0.25)
    close(low, high * 0.25**1.5)
    assert high.argmax() in (14, 15, 20, 21) and high.min() > 1 and 2.5 < high.max() < 3
    close(share(0.0), torch.zeros(6, 6).double())


def test_sync_cfg():
    values = made()
    assert guided(sync_cfg("a", 1.0), values) is values[COND] and asked(sync_cfg("a", 1.0)) == set()
    close(guided(sync_cfg("a", 3.0), values), cfg(values, 3.0, "a"))
    assert asked(sync_cfg("a")) == {"a"}
    same = {**values, "a": values[COND]}
    for scale in (0.0, 2.0, 7.5):
        assert torch.equal(guided(sync_cfg("a", scale), same), values[COND])


def test_history_guidance():
    values = made()
    close(guided(hg_v(4.0), values), 4 * values[COND] - 3 * values[UNCOND])
    assert guided(hg_v(1.0), values) is values[COND] and guided(hg_f("a", 1.0), values) is values[COND]
    close(guided(hg_f(COND, 4.0), values), guided(hg_v(4.0), values))
    assert guided(hg_f(UNCOND, 4.0), values) is values[COND] and asked(hg_f(UNCOND, 4.0)) == set()
    close(guided(hg_f("a", 4.0), values), values[COND] + 3 * (values["a"] - values[UNCOND]))
    assert asked(hg_f("a")) == {"a", UNCOND} and asked(hg_v()) == {UNCOND}
    close(guided(hg_t({"a": 0.5, "b": 1.5}), values),
          values[UNCOND] + 0.5 * (values["a"] - values[UNCOND]) + 1.5 * (values["b"] - values[UNCOND]))


@pytest.mark.parametrize("rule", [hg_v(4.0), hg_f("a", 4.0), hg_t({"a": 0.3, "b": 2.0}), instruct_g2i(("a", "b")),
                                  late_negative("a")], ids=str)
def test_merged_weights_sum_to_one(rule):
    """Shifting every prediction by one tensor shifts the result by it."""
    values, shift = made(), tensors(42, 1)[0].double()
    close(guided(rule, {name: value + shift for name, value in values.items()}), guided(rule, values) + shift)


def test_a_negative_prompt_acts_in_its_phase_only():
    rule, values = late_negative("a", 4.0, 0.25, 0.75), made()
    for i in range(8):
        step = at_step(x=values[COND], index=i)
        weak = "a" if 2 <= i < 6 else UNCOND
        assert asked(rule, step) == {weak}
        close(guided(rule, values, step), cfg(values, 4.0, weak))
        assert needs_null((rule,), step, [{}]) == (weak == UNCOND)
    assert guided(late_negative("a", 1.0), values) is values[COND]
    own = late_negative(UNCOND, 4.0, 0.25, 0.75, null="prompt:")
    assert [asked(own, at_step(index=i)) for i in (0, 2, 6)] == [{"prompt:"}, {UNCOND}, {"prompt:"}]


def test_a_phase_aware_negative_is_louder_in_the_first_steps():
    """EchoMimicV3: u of the negative prompt times 1.5 in the steps 0 to 2; then three branches with two scales."""
    loud, mix = phase_negative("a")
    values, text = made(), {"states": tensors(5, 1)[0]}
    close(guided(mix, values), values[UNCOND] + 4 * (values["a"] - values[UNCOND]) + 2.9 * (values[COND] - values["a"]))
    close(guided(phase_negative("a", 3.0, 3.0, 1.0)[1], values), cfg(values, 3.0))
    for accumulate, factors in ((False, [1.5, 1.5, 1.5, 1, 1]), (True, [1.5, 2.25, 3.375, 3.375, 3.375])):
        rule = replace(loud, accumulate=accumulate)
        for i, factor in enumerate(factors):
            assert rule.condition(text, at_step(index=i)) is text
            null = rule.condition(text, at_step(index=i, branch=UNCOND))
            assert torch.equal(null["states"], text["states"] * factor) and (null is text) == (factor == 1)
    assert phase_negative(factor=1.0)[0].neutral and not loud.neutral
    for wrong in ({"scale": math.inf}, {"scale": "2"}, {"steps": -1}, {"steps": 1.5}):
        with pytest.raises(BadValue, match=f"phase-negative {next(iter(wrong))}"):
            PhaseNegative(**wrong)


@pytest.mark.parametrize("name", ["sd3", "true-cfg"])
def test_a_phase_aware_negative_at_work(name):
    """As a run with a negative prompt whose embeddings are louder, while all its steps are scaled."""
    case, pipe = CASES[name], CASES[name].pipe()
    loud = {key: 1.5 * value for key, value in case.call((8, 9)).items()
            if key.startswith("negative") and isinstance(value, torch.Tensor) and value.is_floating_point()}
    for last, same in ((1, True), (0, False)):
        with emag.guide(pipe, PhaseNegative(1.5, last)):
            found = case.run(pipe, num_inference_steps=2)
        there, plain = (case.run(pipe, num_inference_steps=2, **more) for more in (loud, {}))
        far = [(found - other).abs().max() / plain.abs().max() for other in (there, plain)]
        assert (far[0] < 1e-3) == same and far[1] > 2e-3


def test_a_phase_aware_negative_needs_a_negative():
    pipe = CASES["flux"].pipe()
    with pytest.raises(BadValue, match="phase-negative is about the unconditional"), emag.guide(pipe, PhaseNegative()):
        CASES["flux"].run(pipe)
    with pytest.raises(BadValue, match="phase-negative is about the unconditional prediction"):
        emag.guided(lambda x, t, c: x * c, PhaseNegative(), path=(1.0, 0.0), conditions={"cond": torch.ones(1, 2)})


def test_groups_of_attributes():
    values = made()
    close(guided(fcfg((COND,)), values), cfg(values, 2.5))
    close(guided(fcfg(("a", "b"), ("c",)), values), guided(compositional({"a": 2.5, "b": 2.5, "c": 1.0}), values))
    close(guided(fcfg({"a": 3.0}, {"b": 0.5}), values), guided(compositional({"a": 3.0, "b": 0.5}), values))


IS_CFG = {
    "cfg": emag.CFG(3.0), "apg": emag.APG(3.0, eta=1.0, norm_threshold=0.0, momentum=0.0),
    "pix2pix": instruct_pix2pix("a", 3.0, 3.0), "compositional": compositional({COND: 3.0}),
    "mask": mask_cfg({COND: "box:0:0:1:1"}, 3.0),
    "history": hg_v(3.0), "history, not noised": hg_f(COND, 3.0), "groups": fcfg({COND: 3.0}), "sync": sync_cfg(UNCOND, 3.0),
    "ds": ds_cfg(peak=3.0, low=3.0, power=0.0), "graph": instruct_g2i({COND: 1.5}, 3.0), "context": cs_cfg(UNCOND, 3.0, 2.0),
    "phase": late_negative(UNCOND, 3.0, 0.3, 0.8)}


@pytest.mark.parametrize("name", IS_CFG)
@pytest.mark.parametrize(("path", "space"), [(path, space) for path, spaces in SPACES.items() for space in spaces])
def test_all_of_them_contain_cfg(name, path, space):
    values = made()
    close(guided(IS_CFG[name], values, at_step(path, space, values[COND])), cfg(values, 3.0), atol=1e-9)
