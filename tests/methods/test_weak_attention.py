"""Perturbed attention: dense maps, diffusers where it is right, the smallest call where it is not, and the whole network."""

import inspect

import diffusers
import pytest
import torch
from diffusers import guiders
from diffusers.hooks import HookRegistry, LayerSkipConfig, apply_layer_skip
from diffusers.models.attention_processor import PAGJointAttnProcessor2_0

import emag
from emag.errors import BadValue, NoEffect
from emag.methods import METHODS as C
from emag.methods.common.rectified import RectifiedAttention
from emag.methods.weak.asag import SinkhornAttention
from emag.methods.weak.pag import IdentityAttention
from emag.methods.weak.seg import SmoothedQueries
from emag.schedules import Interval
from reference import Handmade, softmax_map, tensors
from spy import scheduler_steps
from tiny import CASES, sd3
from weak import (
    ORDERS,
    H,
    call_of,
    identity,
    near,
    perturbed,
    rectify,
    sdpa_of,
    sinkhorn,
    smooth,
    through_seam,
    weak_predictions,
    written_out,
)

PAG = C["pag"]
close = torch.testing.assert_close
as_read = pytest.mark.skipif(diffusers.__version__ != "0.42.1", reason="defects of diffusers 0.42.1")

BRANCHES = {
    "pag": (IdentityAttention((1,)), identity()),
    "pag-joint": (IdentityAttention((1,), "joint"), identity(joint=True)),
    "soft": (IdentityAttention((1,), strength=0.3), identity(0.3)),
    "soft-joint": (IdentityAttention((1,), "joint", 0.7), identity(0.7, joint=True)),
    "heads": (IdentityAttention((1,), heads=(1, 0)), identity(heads=(0, 1))),
    "seg": (SmoothedQueries((1,), 1.0), smooth(1.0)),
    "seg-mean": (SmoothedQueries((1,), 1e7), smooth(1e7)),
    "erg": (RectifiedAttention((1,), 0.01), rectify(0.01)),
    "erg-steps": (RectifiedAttention((1,), 0.3, 0.9, 0.5, 3), rectify(0.3, 0.9, 0.5, 3)),
    "asag": (SinkhornAttention((1,), 2), sinkhorn(2)),
}
named = pytest.mark.parametrize("name", BRANCHES)


@named
@pytest.mark.parametrize("order", ORDERS)
def test_one_attention_against_dense_maps(name, order):
    branch, see = BRANCHES[name]
    call = call_of(order)
    made, differed = perturbed(branch, call)
    assert differed and near(made, see(call.q, call.k, call.v, call.image), 1e-6)


@named
@pytest.mark.parametrize("order", ["image-text", "text-image"])
def test_text_rows_are_the_live_ones(name, order):
    call = call_of(order, dtype=torch.float32)
    made, live = perturbed(BRANCHES[name][0], call)[0], sdpa_of(call)(call.q)
    text = [i for i in range(call.q.shape[2]) if not call.image.start <= i < call.image.stop]
    assert torch.equal(made[:, :, text], live[:, :, text]) != name.endswith("joint")


@named
def test_samples_do_not_see_each_other(name):
    call = call_of("text-image")
    both = perturbed(BRANCHES[name][0], call)[0]
    close(perturbed(BRANCHES[name][0], call.rows(slice(1, 2)))[0], both[1:])


@named
def test_grouped_heads_and_a_scale(name):
    call = call_of(groups=2, scale=0.2)
    whole = call_of(scale=0.2)
    k, v = (t.repeat_interleave(2, dim=1) for t in (call.k, call.v))
    spread = type(whole)(call.q, k, v, call.image, None, 0.2)
    assert near(perturbed(BRANCHES[name][0], call)[0], perturbed(BRANCHES[name][0], spread)[0], 1e-6)


@named
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_finite_and_itself(name, dtype):
    call = call_of(dtype=dtype)
    made, differed = perturbed(BRANCHES[name][0], call)
    expected = BRANCHES[name][1](call.q.double(), call.k.double(), call.v.double(), call.image)
    assert differed and made.dtype == dtype and near(made, expected, 0.03)


SIZES = {"sd3": {"width": 12}, "dit": {}}


@named
@pytest.mark.parametrize("case", SIZES)
def test_a_weak_prediction_against_a_network_written_out(name, case):
    """The wide sd3 has 4x6 tokens; its queries have a norm, so that scaling or blurring them before it would not pass."""
    branch, see = BRANCHES[name]
    grid = (4, 6) if SIZES[case] else (4, 4)
    see = {"seg": smooth(1.0, grid), "seg-mean": smooth(1e7, grid)}.get(name, see)
    rule = {IdentityAttention: lambda b: PAG(2.0, b.layers, b.form, b.strength, b.heads),
            SmoothedQueries: lambda b: C["seg"](2.0, b.layers, b.sigma),
            RectifiedAttention: lambda b: C["erg-push"](2.0, b.layers, b.tau, b.alpha, b.gamma, b.steps),
            SinkhornAttention: lambda b: C["asag"](2.0, b.layers, b.iterations)}[type(branch)](branch)
    expected = written_out(case, 1, see, **SIZES[case])
    assert near(weak_predictions(case, rule, **SIZES[case])[0], expected, 2e-5)
    assert not near(written_out(case, 1, lambda q, k, v, image: softmax_map(q, k) @ v, **SIZES[case]), expected, 1e-3)


def test_methods_share_one_pass_and_stay_themselves():
    """Resumed at one block they are rows of one batch; the pushes add up."""
    rules = (PAG(2.0, (1,)), C["seg"](1.5, (1, 2), 1.0), C["asag"](1.5, (1,)))
    case, first = CASES["sd3"], []
    for guidance in ((), *((rule,) for rule in rules), rules):
        pipe = case.pipe()
        with scheduler_steps(pipe) as seen, emag.guide(pipe, *guidance, emag.CFG(3.0)):
            case.run(pipe, num_inference_steps=2)
        first.append(seen[0].double())
    plain, *apart, together = first
    assert near(together - plain, sum(one - plain for one in apart), 1e-4)


# the identity


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_joint_form_is_v_exactly_whatever_the_keys(dtype):
    call = call_of(groups=2, dtype=dtype)
    made = perturbed(IdentityAttention((0,), "joint"), call)[0]
    moved = type(call)(call.q, call.k.flip(2), call.v, call.image)
    assert torch.equal(made, call.v.repeat_interleave(2, dim=1))
    assert torch.equal(perturbed(IdentityAttention((0,), "joint"), moved)[0], made)


def test_without_text_both_forms_are_v():
    call = call_of("image")
    close(perturbed(IdentityAttention((0,)), call)[0], call.v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_one_image_token_is_no_effect(dtype):
    call = call_of("image-text", dtype=dtype)
    keep = slice(11, None)  # one image token, five of text
    one = type(call)(call.q[:, :, keep], call.k[:, :, keep], call.v[:, :, keep], slice(0, 1))
    made, differed = perturbed(IdentityAttention((0,)), one)
    close(made, sdpa_of(one)(one.q))
    assert not differed


@pytest.mark.parametrize("form", ["image", "joint"])
def test_soft_maps_blend_the_outputs(form):
    call = call_of()
    live, whole = sdpa_of(call)(call.q), perturbed(IdentityAttention((0,), form), call)[0]
    for strength in (0.0, 0.25, 1.0):
        close(perturbed(IdentityAttention((0,), form, strength), call)[0], (1 - strength) * live + strength * whole)


def test_only_the_listed_heads_change():
    call = call_of()
    live, whole = sdpa_of(call)(call.q), perturbed(IdentityAttention((0,)), call)[0]
    made = perturbed(IdentityAttention((0,), heads=(1, 3)), call)[0]
    assert torch.equal(made[:, [0, 2]], live[:, [0, 2]]) and torch.equal(made[:, [1, 3]], whole[:, [1, 3]])
    assert torch.equal(perturbed(IdentityAttention((0,), heads=tuple(range(H))), call)[0], whole)
    with pytest.raises(BadValue, match="heads 0 to 3"):
        perturbed(IdentityAttention((0,), heads=(1, 4)), call)


@pytest.mark.parametrize("change", [{"scale": -1.0}, {"scale": float("nan")}, {"form": "both"}, {"strength": 1.1},
                                    {"strength": -0.1}, {"strength": float("nan")}, {"heads": ()}, {"heads": 3},
                                    {"heads": (-1,)}, {"heads": (1.0,)}, {"layers": ()}, {"layers": 3}])
def test_values_that_make_no_sense_are_refused(change):
    with pytest.raises(BadValue):
        PAG(**change)


# diffusers


def recorded(case, rule):
    """Arguments and answers of all network calls in a run of two steps without CFG, all of as many rows."""
    pipe, seen = case.pipe(), []
    original = pipe.transformer.forward
    signature = inspect.signature(original)

    def forward(*args, **kwargs):
        answer = original(*args, **kwargs)
        seen.append((dict(signature.bind(*args, **kwargs).arguments), answer[0].clone()))
        return answer

    pipe.transformer.__dict__["forward"] = forward
    with emag.guide(pipe, rule):
        case.run(pipe, num_inference_steps=2, guidance_scale=1.0)
    del pipe.transformer.__dict__["forward"]
    return pipe.transformer, seen


@pytest.mark.parametrize("name", ["pixart", "dit"])
@torch.no_grad()
def test_a_weak_prediction_is_that_of_diffusers_hook(name):
    net, seen = recorded(CASES[name], PAG(2.0, (1, 2), "joint"))
    plain = net(**seen[1][0])[0]
    apply_layer_skip(net, LayerSkipConfig([1, 2], "transformer_blocks", False, True, False))
    for kwargs, weak in seen[1::2]:
        assert near(weak, net(**kwargs)[0], 1e-6)
    assert not near(plain, seen[1][1], 1e-2)


def joint_attention(norm):
    attention = sd3(qk_norm=norm).transformer.transformer_blocks[0].attn
    return attention, *(tensors(seed, 1, 2, count, 16)[0] for seed, count in ((1, 12), (2, 5)))


@torch.no_grad()
def test_the_image_form_is_that_of_diffusers_joint_processor():
    attention, hidden, text = joint_attention(None)
    made = through_seam(IdentityAttention((0,)), attention, hidden, text)
    attention.set_processor(PAGJointAttnProcessor2_0())
    theirs = attention(hidden_states=torch.cat([hidden] * 2), encoder_hidden_states=torch.cat([text] * 2))
    for mine, other in zip(made, theirs):
        close(mine, other[2:], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_query_and_key_norms_stay():
    attention, hidden, text = joint_attention("rms_norm")
    made, plain = through_seam(IdentityAttention((0,)), attention, hidden, text), attention(hidden, text)
    attention.set_processor(Handmade(lambda q, k, v, image: identity()(q, k, v, image).to(q.dtype)))
    for mine, other in zip(made, attention(hidden, text)):
        close(mine, other, atol=1e-5, rtol=1e-5)
    if diffusers.__version__ == "0.42.1":  # its processor leaves the norms out, of the clean half too
        attention.set_processor(PAGJointAttnProcessor2_0())
        theirs = attention(hidden_states=torch.cat([hidden] * 2), encoder_hidden_states=torch.cat([text] * 2))
        assert not near(theirs[0][:2], plain[0], 0.05) and not near(theirs[0][2:], made[0], 0.05)


def passes_with_hooks(guider, net):
    """For each pass of one step of a modular pipeline, whether the guider put a hook into the network."""
    guider.set_state(5, 10, torch.tensor(500))
    found = []
    for _ in guider.prepare_inputs({"x": (torch.zeros(1), torch.zeros(1))}):
        guider.prepare_models(net)
        registries = [getattr(module, "_diffusers_hook", None) for module in net.modules()]
        found.append(any(registry.hooks for registry in registries if isinstance(registry, HookRegistry)))
        guider.cleanup_models(net)
    return found


@as_read
@pytest.mark.parametrize(("scale", "expected"), [(5.0, [False, False, True]), (1.0, [False, False])])
def test_diffusers_guider_needs_cfg(scale, expected):
    guider = guiders.PerturbedAttentionGuidance(scale, 3.0, 0.0, 1.0, [1])
    assert passes_with_hooks(guider, CASES["pixart"].pipe().transformer) == expected


@pytest.mark.parametrize("name", ["sd3", "dit", "pixart", "flux"])
@pytest.mark.parametrize("steps", [2, 3])
def test_it_acts_without_cfg_and_in_few_steps(name, steps):
    """On every network (diffusers' guider knows neither SD3 nor Flux), with CFG off, at the first step too."""
    case, pipe = CASES[name], CASES[name].pipe()
    plain = case.run(pipe, num_inference_steps=steps, **{case.scale: 1.0})
    with emag.guide(pipe, PAG(2.0, (1,), "joint")) as run:
        made = case.run(pipe, num_inference_steps=steps, **{case.scale: 1.0})
    assert not near(made, plain, 1e-3)
    depth = case.depth(pipe)
    assert run.stats.evaluations == steps * (depth + depth - 1)


def test_one_layer_as_a_number_is_a_clear_error():
    """diffusers fails on a bare number deep inside, at the first step."""
    with pytest.raises(BadValue, match=r"e\.g\. \(6, 7, 8\)"):
        PAG(2.0, 1)


def test_a_window_spares_its_weak_passes():
    pipe = CASES["sd3"].pipe()
    with emag.guide(pipe, PAG(Interval(2.0, 0.25, 0.5, "progress"), (3,))) as run:
        CASES["sd3"].run(pipe)
    assert run.stats.evaluations == 8 * 2 * 4 + 2 * 1


def test_a_window_without_a_step_is_an_error():
    pipe = CASES["sd3"].pipe()
    with pytest.raises(NoEffect), emag.guide(pipe, PAG(Interval(2.0, 0.9, 1.0, "progress"), (3,))):
        CASES["sd3"].run(pipe)
