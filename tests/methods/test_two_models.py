"""Networks that give the unconditional prediction, and two networks in one CFG."""

from copy import deepcopy

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

import emag
from emag.core import COND, UNCOND
from emag.errors import BadValue, NoEffect, Unsupported
from emag.maths.predictions import convert
from emag.methods.combining.core2 import CoRe2
from emag.methods.combining.hm_cfg import HMCFG
from emag.methods.common.other_model import OtherModel, check_network, interpolated, other
from emag.methods.null.domain import Domain
from emag.methods.null.personalization import Personalization
from emag.methods.null.priors import Priors
from emag.methods.null.rlg import RLG
from emag.methods.null.unguide import UnGuide, unguide_weight, unlearned_distance
from emag.methods.weak.autoguidance import Autoguidance
from emag.methods.weak.sine import SINE
from emag.samplers import Path, advance
from emag.schedules import MAMBOG
from reference import at_step, tensors
from second_network import CFG, close, draw, evaluate, made_up, never, plain, same, tuned, with_lora, without_lora
from spy import changes, network_outputs, scheduler_steps, snapshot
from tiny import CASES, dit, noise, sd3


def merged(pipe):
    """The same weights, the LoRA merged into them, as a plain network."""
    net, found = deepcopy(pipe.transformer), sd3().transformer
    for layer in net.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    weights = {name.replace(".base_layer", ""): value for name, value in net.state_dict().items() if "lora_" not in name}
    found.load_state_dict(weights)
    return found


# the unconditional prediction of another network


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Domain, Priors, Personalization])
@pytest.mark.parametrize("ours", [True, False], ids=["our CFG", "the host's"])
def test_the_same_network_gives_cfg(kind, ours):
    rules = (kind("twin"), *((CFG(4.0),) if ours else ()))
    made, stats = draw(sd3(), *rules, models={"twin": sd3().transformer})
    same(made, plain(sd3()))
    assert stats.evaluations == 3 * 2 * 4


def test_the_formula_with_two_networks():
    """q(null) + w (p - q(null)): the other network on the unconditional rows, the pipeline's on the conditional ones."""
    pipe, base, seen = tuned(), sd3().transformer, []

    def recording(**call):
        seen.append((call, base(**call)))
        return seen[-1][1]

    with network_outputs(pipe) as own, scheduler_steps(pipe) as steps:
        draw(pipe, Priors("base"), models={"base": recording})
    empty = CASES["sd3"].call()["negative_prompt_embeds"]
    for cond, (call, answer), step in zip(own, seen, steps, strict=True):
        assert len(cond) == 2 and torch.equal(call["encoder_hidden_states"], empty)
        close(step, answer[0] + 4 * (cond - answer[0]), atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [Domain, Priors])
def test_at_scale_one_the_other_network_does_not_matter(kind):
    made = [draw(tuned(), kind("base"), CFG(1.0), models={"base": sd3(seed=seed).transformer})[0] for seed in (0, 5)]
    assert torch.equal(*made) and torch.equal(made[0], plain(tuned(), guidance_scale=1.0))


def test_a_label_of_the_pretraining_instead_of_the_null_one():
    pipe, base, seen = dit(), dit(seed=1).transformer, []

    def recording(**call):
        seen.append(call["class_labels"].tolist())
        return base(**call)

    draw(pipe, Domain("base", "prompt:281"), models={"base": recording}, case="dit")
    assert seen == [[281, 281]] * 3
    seen.clear()
    draw(pipe, Domain("base"), models={"base": recording}, case="dit")
    assert seen == [[1000, 1000]] * 3


def test_another_architecture_may_predict_in_another_space():
    """The same network, its noise told as a v prediction, is converted back at the step's level."""
    pipe, twin = dit(), dit().transformer
    bars = pipe.scheduler.alphas_cumprod.double()

    def as_v(**call):
        bar = float(bars[int(call["timestep"].flatten()[0])])
        x, sample = call["hidden_states"], twin(**call)[0].clone()
        sample[:, :4] = convert(sample[:, :4].double(), x.double(), bar**0.5, (1 - bar)**0.5, "epsilon", "v").float()
        return (sample,)

    same(draw(dit(), Priors("base", prediction="v"), models={"base": as_v}, case="dit")[0], plain(dit(), "dit"), 1e-3)
    wrong, _ = draw(dit(), Priors("base"), models={"base": as_v}, case="dit")
    assert not torch.allclose(wrong, plain(dit(), "dit"), atol=1e-2)


@pytest.mark.parametrize("omega", [0.0, 0.3, 1.7])
def test_less_lora_is_the_network_between(omega):
    """Exact for a LoRA: the adapter's scale times omega, and weights (1 - omega) W0 + omega W1, are one."""
    pipe = with_lora(sd3())
    between = interpolated(sd3().transformer, merged(pipe), omega)
    one, _ = draw(pipe, Personalization(f"lora:{omega}"))
    two, _ = draw(pipe, Personalization("between"), models={"between": between})
    same(one, two, 1e-3)


def test_personalization_ends_at_cfg_and_at_domain_guidance():
    pipe = with_lora(sd3())
    assert Personalization("lora:1").neutral and not Personalization().neutral
    assert torch.equal(draw(pipe, Personalization("lora:1"))[0], plain(pipe))
    near, _ = draw(pipe, Personalization("lora:0.9999999"))
    same(near, plain(pipe), 1e-3)
    same(draw(pipe, Personalization("lora:0"))[0], draw(pipe, Domain("base"), models={"base": without_lora(pipe)})[0])


def test_interpolation_has_exact_ends_and_touches_neither_network():
    one, two = sd3().transformer, tuned().transformer
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in (one, two)]
    for omega, expected in ((0.0, before[0]), (1.0, before[1])):
        made = interpolated(one, two, omega).state_dict()
        assert all(torch.equal(made[name], value) for name, value in expected.items())
    made = interpolated(one, two, 0.25).state_dict()
    for name, value in made.items():
        close(value, 0.75 * before[0][name] + 0.25 * before[1][name])
    for net, held in zip((one, two), before):
        assert all(torch.equal(net.state_dict()[name], value) for name, value in held.items())


def test_networks_that_do_not_match_are_not_interpolated():
    with pytest.raises(BadValue, match="same weights by name and shape"):
        interpolated(sd3().transformer, sd3(layers=3).transformer, 0.5)
    with pytest.raises(BadValue, match="same weights by name and shape"):
        interpolated(sd3().transformer, with_lora(sd3()).transformer, 0.5)
    with pytest.raises(BadValue, match="omega"):
        interpolated(sd3().transformer, sd3().transformer, float("nan"))


# UnGuide


def test_unguide_ends_at_the_two_networks():
    full, unlearned = sd3(), tuned()
    assert torch.equal(draw(full, UnGuide(1.0, "unlearned"), models={"unlearned": never})[0], plain(sd3()))
    same(draw(full, UnGuide(0.0, "unlearned"), models={"unlearned": unlearned.transformer})[0], plain(unlearned))


def test_unguide_from_either_side():
    """The pipeline's network may be the full one (w) or the unlearned one (1 - w)."""
    full, unlearned = sd3(), tuned()
    one, _ = draw(full, UnGuide(2.0, "other"), models={"other": tuned().transformer})
    two, _ = draw(unlearned, UnGuide(-1.0, "other"), models={"other": sd3().transformer})
    same(one, two)


def test_the_weight_depends_on_how_much_the_prompt_lost():
    empty = torch.tensor([1.0, 3.0])
    assert unguide_weight(torch.tensor([1.0, 3.1]), empty) == -1
    assert unguide_weight(torch.tensor([1.0, 3.0]), empty) == 2  # equal: nothing was unlearned
    assert unguide_weight(torch.tensor([9.0]), empty, erase=-0.5, keep=1.5) == -0.5


def test_the_distance_is_measured_on_the_way():
    sigmas = tuple(1 - i / 6 for i in range(7))
    full, unlearned = (lambda x, t, c: t * x + c), (lambda x, t, c: t * x.sin() + 2 * c)
    run = emag.guided(full, CFG(3.0), path=sigmas, conditions={COND: 0.3, UNCOND: 0.1})
    start = noise(5, 3, 4, 8, 8).double()
    x, path = start, Path.flow(sigmas)
    for i in range(2):
        x = advance(x, sigmas[i] * x + 0.1 + 3 * 0.2, path, i, i + 1, "flow")
    apart = sigmas[2] * (x.sin() - x) + 0.3
    found = unlearned_distance(run, full, unlearned, start, 0.3, steps=2)
    close(found, apart.flatten(1).norm(dim=1), atol=1e-10, rtol=1e-10)
    assert torch.equal(unlearned_distance(run, full, full, start, 0.3, 2), torch.zeros(3).double())


# two networks in one CFG


def test_hm_cfg_is_its_formula():
    for text in (COND, "word"):
        for minus in ("base null", "base", "own null"):
            rule = HMCFG(3.0, 2.0, text=text, minus=minus)
            found = made_up(rule)
            null, base = found[other("base", UNCOND)], found[other("base", text)]
            q = {"base null": null, "base": base, "own null": found[UNCOND]}[minus]
            expected = null + 2 * (base - null) + 3 * (found[COND] - q)
            close(evaluate((rule,), found, at_step()), expected, atol=1e-12, rtol=1e-12)


def test_hm_cfg_without_one_of_its_terms():
    """w_p = 0 is CFG on the base; w_b = 0 with q = b(null) is the unconditional prior of the base."""
    base = sd3().transformer
    same(draw(tuned(), HMCFG(0.0, 4.0), models={"base": base})[0], plain(sd3()))
    same(draw(tuned(), HMCFG(4.0, 0.0), models={"base": base})[0],
         draw(tuned(), Priors("base"), CFG(4.0), models={"base": base})[0])
    assert torch.equal(draw(tuned(), HMCFG(1.0, 0.0), models={"base": never})[0], plain(tuned(), guidance_scale=1.0))


def test_hm_cfg_with_equal_networks_is_one_cfg_with_the_sum_of_the_scales():
    p, u = (t.double() for t in tensors(5, 2))
    for minus in ("base null", "own null"):
        rule = HMCFG(2.5, 1.5, minus=minus)
        found = {COND: p, UNCOND: u, other("base", UNCOND): u, other("base"): p}
        close(evaluate((rule,), found, at_step()), u + 4 * (p - u), atol=1e-12, rtol=1e-12)
    with pytest.raises(NoEffect, match="'base' predicts what the pipeline's own does"):
        draw(sd3(), HMCFG(2.5, 1.5), models={"base": sd3().transformer})


def test_hm_cfg_evaluates_what_has_a_weight():
    assert HMCFG(3.0, 2.0).weak == (other("base", UNCOND), other("base"))
    assert HMCFG(3.0, 0.0).weak == (other("base", UNCOND),)
    assert HMCFG(2.0, 1.0, minus="own null").weak == (other("base"),)
    assert HMCFG(2.0, 1.0, minus="own null").reads_null(at_step()) and not HMCFG(2.0, 1.0).reads_null(at_step())
    assert HMCFG(MAMBOG(2.0), 2.0).weak == (other("base", UNCOND), other("base"))


# nothing is left behind


def scales(net):
    return [dict(layer.scaling) for layer in net.modules() if isinstance(layer, BaseTunerLayer)]


@pytest.mark.parametrize("rule", [Autoguidance(2.0, "lora:0.3"), Personalization(), RLG(1.6)], ids=lambda rule: rule.name)
def test_a_swap_is_undone_after_an_exception(rule):
    """In the middle of the weak pass: LoRA scales, weights and everything else are as before, and the next run is."""
    pipe = with_lora(sd3())
    expected, _ = draw(pipe, rule)
    factors, swapped = scales(pipe.transformer), []
    weights = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}

    def fail(module, args, kwargs):
        if scales(pipe.transformer) != factors:
            swapped.append(scales(pipe.transformer))
            raise KeyboardInterrupt

    hook = pipe.transformer.transformer_blocks[2].register_forward_pre_hook(fail, with_kwargs=True)
    before = snapshot(pipe)
    with pytest.raises(KeyboardInterrupt):
        draw(pipe, rule)
    assert swapped and swapped[0][0]["default"] == factors[0]["default"] * float(rule.model.removeprefix("lora:"))
    assert scales(pipe.transformer) == factors and changes(before, snapshot(pipe), own=False) == []
    assert all(torch.equal(pipe.transformer.state_dict()[name], value) for name, value in weights.items())
    hook.remove()
    assert torch.equal(draw(pipe, rule)[0], expected)


def test_the_clean_pass_never_sees_the_other_scale():
    pipe = with_lora(sd3())
    factors, at = scales(pipe.transformer), []
    block = pipe.transformer.transformer_blocks[1]
    block.register_forward_pre_hook(lambda module, args: at.append(scales(module)[0]["default"]))
    draw(pipe, Autoguidance(2.0, "lora:0.5"))
    full = factors[0]["default"]
    assert at == [full, full * 0.5] * 3


def test_models_and_loras_that_are_not_there_are_named():
    with pytest.raises(BadValue, match=r"the model 'guide', which was not given: .*models=\{'guide'"):
        draw(sd3(), Autoguidance(2.0))
    with pytest.raises(Unsupported, match="no LoRA adapter"):
        draw(sd3(), RLG(2.0))


# values


def test_a_network_is_a_name_or_a_share_of_lora():
    branch = OtherModel("lora:-1.5")
    assert branch.model is None and branch.lora_scale == -1.5
    assert OtherModel("base").model == "base" and OtherModel("base").lora_scale is None
    assert other("base", UNCOND) == OtherModel("base", null=True) and other("base", "word").condition == "word"
    for odd in ("", "lora:", "lora:nan", "lora:inf", "lora:half", 3, None):
        with pytest.raises(BadValue, match="rlg model"):
            check_network("rlg", odd)


# a network that has learnt guidance


def test_core2_goes_from_what_was_learnt_through_the_guided_prediction():
    rule = CoRe2(1.5, 3.0, until=0.5, model="base")
    found = made_up(rule)
    plain, null = found[other("base")], found[other("base", UNCOND)]
    learnt, guided_ = found[COND], null + 3 * (plain - null)
    close(evaluate((rule,), found, at_step(index=1)), learnt + 1.5 * (guided_ - learnt), atol=1e-12, rtol=1e-12)
    assert torch.equal(evaluate((rule,), {COND: learnt}, at_step(index=5)), learnt)  # later what was learnt is enough


def test_core2_ends_at_cfg_of_the_plain_network_and_at_what_was_learnt():
    plainly = sd3().transformer
    made, stats = draw(tuned(), CoRe2(1.0, 4.0, 1.0, "base"), models={"base": plainly})
    same(made, plain(sd3()))
    assert stats.evaluations == 3 * 3 * 4  # p, q_c and q_u, four blocks each
    _, stats = draw(tuned(), CoRe2(1.5, 4.0, 0.4, "base"), models={"base": plainly}, num_inference_steps=5)
    assert stats.evaluations == (2 * 3 + 3) * 4
    assert torch.equal(draw(tuned(), CoRe2(0.0, model="base"), models={"base": never})[0],
                       plain(tuned(), guidance_scale=1.0))


@pytest.mark.parametrize("make", [
    lambda: CoRe2(-1.0), lambda: CoRe2(1.0, float("inf")), lambda: CoRe2(1.0, until=1.5), lambda: CoRe2(1.0, null=""),
    lambda: CoRe2(MAMBOG(2.0)),
    lambda: Autoguidance(-1.0), lambda: Autoguidance(float("nan")), lambda: Autoguidance(2.0, "lora:x"), lambda: SINE(1.5),
    lambda: SINE(0.5, source=""), lambda: RLG(float("inf")), lambda: RLG(2.0, null=""), lambda: RLG(2.0, null="cond"),
    lambda: Priors(prediction="noise"), lambda: Priors(""), lambda: Domain("base", "cond"), lambda: HMCFG(-1.0),
    lambda: HMCFG(2.0, float("nan")), lambda: HMCFG(2.0, minus="all"), lambda: HMCFG(2.0, text="")])
def test_odd_values_are_refused(make):
    with pytest.raises(BadValue):
        make()
