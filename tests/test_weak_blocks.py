"""Weak branches by whole blocks and by tokens: SLG, STG, S2-Guidance, TPG."""

import inspect
from contextlib import contextmanager, suppress
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from diffusers import guiders
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks.layer_skip import _apply_layer_skip_hook

import emag
from emag.core import COND, UNCOND, combine
from emag.engine.network import Network
from emag.hosts.defaults import resolve
from emag.maths.streams import Streams
from emag.methods import METHODS as C
from emag.methods.weak.s2 import PerSample, Stochastic
from emag.methods.weak.slg import Skipped
from emag.methods.weak.tpg import Shuffled, ShuffledState, reordered
from emag.schedules import Interval
from reference import at_step, tensors
from spy import attribute, blocks_of, scheduler_steps
from tiny import CASES, noise

close = torch.testing.assert_close
SLG, STG, S2, TPG = C["slg"], C["stg"], C["s2"], C["tpg"]
ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
EQUIVARIANT = pytest.mark.parametrize("name", ["sd3", "dit", "pixart"])
LATER = Interval(2.0, 0.5, 1.0, "progress")  # the first step at which anything happens is the third of four


@contextmanager
def calls_of(pipe):
    """Every true evaluation of a pipeline's network, weak ones too: (arguments by name, prediction)."""
    seen, original = [], pipe.transformer.forward
    signature = inspect.signature(original)

    def forward(*args, **kwargs):
        values = dict(signature.bind(*args, **kwargs).arguments)
        answer = original(*args, **kwargs)
        seen.append(SimpleNamespace(values=values, out=_sample(answer).clone()))
        return answer

    with attribute(pipe.transformer, "forward", forward):
        yield seen


def _sample(answer):
    return answer[0] if isinstance(answer, tuple) else answer.sample


def evaluated(case, *rules, steps=3, seeds=(8, 9), pipe=None):
    """A guided run in float64, so that rounding hides nothing: each step's clean call and the weak ones after it."""
    pipe = (pipe or case.pipe()).to(torch.float64)
    call = {key: value.double() if key.endswith("embeds") else value for key, value in case.call(seeds).items()}
    with calls_of(pipe) as seen, emag.guide(pipe, *rules) as handle:
        pipe(**{**call, "num_inference_steps": steps})
    return seen, handle


def weak_calls(case, *rules, rows=2, **call):
    """The weak evaluations of a guided run: those of the conditional rows alone, on hosts with one doubled call."""
    seen, _ = evaluated(case, *rules, **call)
    if case.name == "true-cfg":
        return [call for i, call in enumerate(seen) if i % 3 == 1]
    if not case.uncond:
        return seen[1::2]
    return [call for call in seen if len(call.out) == rows]


def identity(block):
    """What a block returns if it hands its streams on, in its own order."""
    if "encoder_hidden_states" in inspect.signature(block.forward).parameters and hasattr(block, "attn"):
        return lambda hidden_states, encoder_hidden_states, *_, **__: (encoder_hidden_states, hidden_states)
    return lambda hidden_states, *_, **__: hidden_states


def without(pipe, layers):
    """A copy of a pipeline's network in which some blocks do nothing."""
    other = SimpleNamespace(transformer=deepcopy(pipe.transformer))
    for at in layers:
        block = blocks_of(other)[at]
        block.forward = identity(block)
    return other.transformer


@torch.no_grad()
def answer(net, values):
    return _sample(net(**values))


# SLG


@ALL
@pytest.mark.parametrize("which", ["middle", "first", "last", "all"])
def test_the_weak_branch_is_the_network_without_the_blocks(case, which):
    """All of them skipped is the embedding and the head alone. Streams are handed on in each block's own order."""
    depth = case.depth(case.pipe())
    layers = {"middle": (1, 2), "first": (0,), "last": (depth - 1,), "all": tuple(range(depth))}[which]
    weak = weak_calls(case, SLG(2.0, layers))
    assert len(weak) == 3
    net = without(case.pipe(), layers).double()
    for call in weak:
        close(call.out, answer(net, call.values), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["sd3", "pixart"])
def test_the_weak_branch_is_conditional_and_the_clean_pass_is_untouched(name):
    """STG's Wan code extrapolates from the negative prompt."""
    case = CASES[name]
    plain, _ = evaluated(case)
    seen, _ = evaluated(case, SLG(2.0, (1, 2)))
    assert torch.equal(seen[0].out, plain[0].out)
    assert torch.equal(seen[1].values["encoder_hidden_states"], seen[0].values["encoder_hidden_states"][2:])
    assert not torch.equal(seen[1].values["encoder_hidden_states"], seen[0].values["encoder_hidden_states"][:2])


@pytest.mark.parametrize(("start", "stop"), [(0.01, 0.2), (0.01, 0.7), (0.3, 1.0)])
def test_as_in_diffusers_pipeline(start, stop):
    """Theirs is on strictly after start N: the same here, where start N is no whole number."""
    case = CASES["sd3"]
    theirs = case.run(case.pipe(), skip_guidance_layers=[1, 2], skip_layer_guidance_scale=1.3,
                      skip_layer_guidance_start=start, skip_layer_guidance_stop=stop)
    pipe = case.pipe()
    with emag.guide(pipe, emag.CFG(4.0), SLG(Interval(2.3, start, stop, "progress"), (1, 2))):
        ours = case.run(pipe)
    assert not torch.allclose(theirs, case.run(case.pipe()), atol=1e-2)
    close(ours, theirs, atol=2e-5 * float(theirs.abs().max()), rtol=1e-5)


def test_as_in_diffusers_guider_on_pixart():
    case, pipe = CASES["pixart"], CASES["pixart"].pipe()
    net = deepcopy(pipe.transformer).double()
    _apply_layer_skip_hook(net, LayerSkipConfig([1, 2], fqn="transformer_blocks"))
    for call in weak_calls(case, SLG(2.0, (1, 2)), pipe=pipe):
        close(call.out, answer(net, call.values), atol=1e-9, rtol=1e-9)


def test_the_formula_of_diffusers_guider():
    cond, uncond, weak = (t.double() for t in tensors(1, 3))
    guider = guiders.SkipLayerGuidance(7.5, 2.8, 0.0, 1.0, skip_layer_config=LayerSkipConfig([1], fqn="auto"))
    guider.set_state(5, 10, torch.tensor(500))
    rules = emag.CFG(7.5), SLG(3.8, (1,))
    ours = combine(rules, cond, {COND: cond, UNCOND: uncond, Skipped((1,)): weak}, at_step(), [{}, {}])
    close(ours, guider.forward(cond, uncond, weak).pred)


def test_diffusers_skips_blocks_of_flux_with_their_streams_exchanged():
    """The smallest call that shows it: a skipped block returns (image, text) where the network unpacks (text, image)."""
    case, pipe = CASES["flux"], CASES["flux"].pipe()
    call = weak_calls(case, SLG(2.0, (0,)), pipe=pipe)[0]
    right = answer(without(pipe, (0,)), call.values)
    close(call.out, right, atol=1e-9, rtol=1e-9)
    net = deepcopy(pipe.transformer)
    _apply_layer_skip_hook(net, LayerSkipConfig([0], fqn="transformer_blocks"))
    with suppress(RuntimeError):  # other versions may refuse
        assert not torch.allclose(answer(net, call.values), right, atol=1e-2)


def test_outside_its_window_it_is_cfg():
    case, given = CASES["sd3"], []
    for rules in ((emag.CFG(4.0),), (emag.CFG(4.0), SLG(LATER, (1, 2)))):
        pipe = case.pipe()
        with scheduler_steps(pipe) as steps, emag.guide(pipe, *rules) as handle:
            case.run(pipe, num_inference_steps=4)
        given.append(steps)
    assert [torch.equal(a, b) for a, b in zip(*given)] == [True, True, False, False]
    assert handle.stats.evaluations == 4 * 2 * 4 + 2 * (4 - 1 - 2)


def test_the_default_window_is_the_published_one():
    """Steps 1 to 5 of 28, as in diffusers' pipeline; its guider leaves one out, and has none at all in a run of 8."""
    rule = resolve(SLG(), ("SD3Transformer2DModel",), 24)
    assert rule.layers == (7, 8, 9)

    def active(count):
        steps = [at_step(index=i, sigmas=(0.5,) * count) for i in range(count)]
        return [step.index for step in steps if rule.branches(step)]

    assert active(28) == [1, 2, 3, 4, 5] and active(8) == [1]


def test_a_schedule_without_a_scale_takes_the_one_of_a_default_schedule():
    rule = resolve(SLG(Interval(None, 0.0, 0.5, "progress")), ("SD3Transformer2DModel",), 24)
    assert rule.scale == Interval(3.8, 0.0, 0.5, "progress")


@pytest.mark.parametrize(("name", "call"), [("sd3", {"guidance_scale": 1.0}), ("flux", {}), ("sd3", {})])
def test_it_acts_with_cfg_off_and_in_short_runs(name, call):
    """In diffusers' guiders it does neither."""
    case, pipe = CASES[name], CASES[name].pipe()
    plain = case.run(pipe, **call)
    with emag.guide(pipe, SLG(layers=(1, 2))):
        assert not torch.allclose(case.run(pipe, **call), plain, atol=1e-3)


def test_a_run_too_short_for_the_window_is_an_error():
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    with pytest.raises(emag.NoEffect, match="never evaluated"), emag.guide(pipe, SLG(layers=(1,))):
        case.run(pipe, num_inference_steps=4)


@pytest.mark.parametrize("kind", [SLG, STG, S2, TPG])
@pytest.mark.parametrize("layers", [(), [], 7, "7", (1.0,), (True,)])
def test_layers_are_a_list_of_blocks(kind, layers):
    with pytest.raises(emag.BadValue, match="layers is a list"):
        kind(layers=layers)


@pytest.mark.parametrize("kind", [SLG, STG, S2, TPG])
def test_values_are_checked(kind):
    for scale in (-1.0, float("nan"), float("inf"), "3"):
        with pytest.raises(emag.BadValue):
            kind(scale)
    pipe = CASES["flux"].pipe()
    with pytest.raises(emag.BadValue, match="do not exist"), emag.guide(pipe, kind(2.0, layers=(1, 9))):
        CASES["flux"].run(pipe, num_inference_steps=2)


def test_a_controlnets_residual_stays_behind_a_skipped_block():
    """As in diffusers. The original code leaves it out."""
    case, pipe = CASES["sd3"], CASES["sd3"].pipe()
    residuals = [noise(i, 4, 16, 16).double() for i in range(4)]

    def add(module, args, kwargs):
        return args, {**kwargs, "block_controlnet_hidden_states": residuals}

    pipe.transformer.register_forward_pre_hook(add, with_kwargs=True)
    net = without(CASES["sd3"].pipe(), (1,)).double()
    for call in weak_calls(case, SLG(2.0, (1,)), pipe=pipe):
        given = call.values["block_controlnet_hidden_states"]
        assert all(torch.equal(a, b[2:]) for a, b in zip(given, residuals))
        close(call.out, answer(net, call.values), atol=1e-9, rtol=1e-9)
        left_out = [torch.zeros_like(r) if i == 1 else r for i, r in enumerate(given)]
        assert not torch.allclose(
            call.out, answer(net, {**call.values, "block_controlnet_hidden_states": left_out}), atol=1e-2)


# STG


@ALL
def test_stg_is_slg_or_joint_pag(case):
    for form, same in (("residual", SLG(2.0, (1, 2))), ("attention", C["pag"](2.0, (1, 2), "joint"))):
        assert STG(2.0, (1, 2), form).perturbation == same.perturbation
        made = []
        for rule in (STG(2.0, (1, 2), form), same):
            pipe = case.pipe()
            with emag.guide(pipe, rule):
                made.append(case.run(pipe, num_inference_steps=2))
        assert torch.equal(*made)


def test_stg_has_two_forms():
    with pytest.raises(emag.BadValue, match="residual, attention"):
        STG(2.0, form="temporal")


# S2-Guidance


@ALL
@pytest.mark.parametrize("per_sample", [False, True])
def test_a_fixed_mask_is_slg(case, per_sample):
    s2, slg = (weak_calls(case, rule) for rule in (S2(2.0, 1.0, (1, 2), per_sample=per_sample), SLG(2.0, (1, 2))))
    for a, b in zip(s2, slg, strict=True):
        assert torch.equal(a.out, b.out)


@ALL
def test_the_blocks_drawn_for_a_step_are_skipped(case):
    weak = weak_calls(case, S2(1.2, 0.5, (0, 1, 2, 3)), steps=4)
    spec = Stochastic((0, 1, 2, 3), 2, False, 0)
    assert len({spec.drawn(i) for i in range(4)}) > 1
    for i, call in enumerate(weak):
        close(call.out, answer(without(case.pipe(), spec.drawn(i)).double(), call.values), atol=1e-9, rtol=1e-9)


@ALL
def test_each_sample_may_have_a_draw_of_its_own(case):
    pipe = case.pipe()
    weak = weak_calls(case, S2(1.2, 0.5, (1, 2, 3), per_sample=True), pipe=pipe, seeds=(8, 9, 10), rows=3, steps=2)
    first = _first_latents(case, (8, 9, 10))
    state = PerSample(Stochastic((1, 2, 3), 2, True, 0), Streams.of(first))
    masks = []
    for call in weak:
        state.streams.next_step()
        masks += [state.dropped(first)]
        for row, mask in enumerate(masks[-1].tolist()):
            right = answer(without(pipe, [at for at, out in zip((1, 2, 3), mask) if out]), call.values)[row]
            close(call.out[row], right, atol=1e-9, rtol=1e-9)
    assert any(len(mask.unique(dim=0)) > 1 for mask in masks) and bool((torch.cat(masks).sum(1) == 2).all())


def _first_latents(case, seeds):
    """x_T of the images, as the network gets it."""
    seen, _ = evaluated(case, seeds=seeds, steps=2)
    return seen[0].values["hidden_states"][:len(seeds)]


def test_draws_are_constant_in_number_and_depend_on_seed_and_step_alone():
    spec = Stochastic(tuple(range(1, 24)), 2, False, 0)
    drawn = [spec.drawn(i) for i in range(400)]
    assert {len(blocks) for blocks in drawn} == {2}
    share = torch.bincount(torch.tensor([at for blocks in drawn for at in blocks]), minlength=24) / 400
    assert share[0] == 0 and share[1:].min() > 0.03 and share[1:].max() < 0.16
    torch.manual_seed(3)
    assert [spec.drawn(i) for i in range(3)] == drawn[:3] == [{8, 22}, {14, 15}, {5, 19}]
    assert [Stochastic(spec.layers, 2, False, 1).drawn(i) for i in range(9)] != drawn[:9]


def test_the_first_block_is_spared_and_the_share_rounded():
    rule = resolve(S2(), ("SD3Transformer2DModel",), 24)
    assert rule.layers == tuple(range(1, 24)) and rule.perturbation.count == 2 and rule.perturbation.resume == 1
    assert resolve(S2(exclude=(0, 1, 23)), ("x",), 24).layers == tuple(range(2, 23))
    assert resolve(S2(drop=0.01), ("x",), 4).perturbation.count == 1
    assert resolve(S2(), ("x",), 28).scale == Interval(1.25, 0.1, 0.9, "progress")


def test_the_cost_is_known_before_the_run():
    _, handle = evaluated(CASES["dit"], S2(2.0, 0.7), emag.CFG(3.0), steps=5)
    assert handle.stats.evaluations == handle.stats.planned == 5 * (2 * 4 + 3 - 2)
    _, handle = evaluated(CASES["dit"], S2(2.0, 0.7, per_sample=True), emag.CFG(3.0), steps=5)
    assert handle.stats.evaluations == handle.stats.planned == 5 * (2 * 4 + 3)


@pytest.mark.parametrize("rule", [SLG(3.0, (1,)), STG(3.0, (1,)), S2(3.0, layers=(1, 2)), TPG(3.0, (1,))],
                         ids=["slg", "stg", "s2", "tpg"])
def test_the_weights_sum_to_1(rule):
    """A constant network stays constant; EMAG's comparison with S2-Guidance has a sum of 1 - omega."""
    one = torch.full((2, 4, 6, 6), 0.7)
    rules = emag.CFG(4.0), rule
    made = combine(rules, one, {COND: one, UNCOND: one, rule.perturbation: one}, at_step(), [{}, {}])
    assert torch.equal(made, one)


@pytest.mark.parametrize("values", [{"drop": -0.1}, {"drop": 1.1}, {"drop": float("nan")}, {"exclude": 0},
                                    {"exclude": (0.5,)}])
def test_s2_checks_its_values(values):
    with pytest.raises(emag.BadValue, match="s2"):
        S2(2.0, **values)


# TPG


def shuffled(layers=(1,), restore=False, rows=2):
    return ShuffledState(Shuffled(layers, restore), Streams.of(noise(1, rows, 4, 8, 8)))


def test_a_shuffle_keeps_the_tokens_and_the_text():
    state, seen = shuffled(), []
    image, text = noise(2, 2, 16, 8), noise(3, 2, 5, 8)
    state.change(1, {"hidden_states": image, "encoder_hidden_states": text}, lambda t: seen.append(t) or t)
    given, = seen
    assert torch.equal(given["encoder_hidden_states"], text)
    assert not torch.equal(given["hidden_states"], image)
    for row in range(2):
        assert torch.equal(given["hidden_states"][row].unique(dim=0), image[row].unique(dim=0))
    assert torch.equal(given["hidden_states"].norm(dim=-1).sort(1).values, image.norm(dim=-1).sort(1).values)


def test_orders_are_drawn_per_sample_block_and_step():
    state, image = shuffled((1, 2)), noise(2, 2, 16, 8)
    first = state.order(1, image)
    assert torch.equal(first.sort(1).values, torch.arange(16).expand(2, 16))
    assert torch.equal(state.order(1, image), first)
    assert not torch.equal(first[0], first[1]) and not torch.equal(state.order(2, image), first)
    alone = ShuffledState(state.spec, Streams(state.streams.keys[1:]))
    assert torch.equal(alone.order(1, image[1:]), first[1:])
    state.streams.next_step()
    assert not torch.equal(state.order(1, image), first)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    evaluated(CASES["flux"], TPG(1.2, (1, 2)), S2(1.2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_order_kept_is_the_clean_branch(monkeypatch):
    kept = lambda self, block, image: torch.arange(image.shape[1]).expand(image.shape[:2])  # noqa: E731
    monkeypatch.setattr(ShuffledState, "order", kept)
    with pytest.raises(emag.NoEffect, match="never differed"):
        evaluated(CASES["flux"], TPG(2.0, (1,)))


def tokens(prediction):
    """Patches of 2x2 as tokens, [batch, tokens, numbers]."""
    height = prediction.shape[-2] // 2
    return prediction.unflatten(-1, (-1, 2)).unflatten(-3, (height, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


@EQUIVARIANT
def test_tokens_are_not_moved_where_blocks_do_not_see_where_they_are(name):
    case, calls = CASES[name], []
    pipe = case.pipe()
    pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(emag.Unsupported, match="tpg moves tokens about, and the blocks of this"), emag.guide(pipe, TPG(2.0)):
        case.run(pipe, (8,))
    assert not calls
    with emag.guide(pipe, TPG(1.0)):
        pass


@EQUIVARIANT
@pytest.mark.parametrize("layers", [(0,), (2,), (1, 3)])
def test_there_the_weak_prediction_would_be_the_clean_one_in_another_order(name, layers, monkeypatch):
    monkeypatch.setattr(Network, "placed", True)
    case = CASES[name]
    seen, _ = evaluated(case, TPG(1.2, layers), emag.CFG(2.0), steps=2)
    clean, weak = seen[0].out, seen[1].out
    cond = clean[:2] if name == "dit" else clean[2:]
    state = ShuffledState(Shuffled(layers, False), Streams.of(_first_latents(case, (8, 9))))
    state.streams.next_step()
    expected = tokens(cond)
    for at in layers:
        expected = reordered(expected, state.order(at, expected))
    assert not torch.allclose(tokens(weak), tokens(cond), atol=1e-2)
    close(tokens(weak), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("layers", [(1,), (1, 3)])
def test_with_rotary_positions_blocks_see_tokens_in_each_others_places(restore, layers):
    case, pipe = CASES["flux"], CASES["flux"].pipe()
    call = weak_calls(case, TPG(1.2, layers, restore), pipe=pipe, steps=1)[0]
    state = ShuffledState(Shuffled(layers, restore), Streams.of(_first_latents(case, (8, 9))))
    state.streams.next_step()
    other = SimpleNamespace(transformer=deepcopy(pipe.transformer))
    for at in layers:
        _shuffle(blocks_of(other)[at], state.order(at, torch.empty(2, 16, 1)), restore)
    close(call.out, answer(other.transformer, call.values), atol=1e-9, rtol=1e-9)


def _shuffle(block, order, restore):
    """The block written out with its image tokens in another order."""
    original, back = block.forward, order.argsort(1)

    def forward(hidden_states, encoder_hidden_states, **kwargs):
        mixed = torch.stack([image[o] for image, o in zip(hidden_states, order)])
        text, image = original(hidden_states=mixed, encoder_hidden_states=encoder_hidden_states, **kwargs)
        return text, torch.stack([one[b] for one, b in zip(image, back)]) if restore else image

    block.forward = forward
