"""Weak branches that draw blocks or shuffle tokens: S2-Guidance and TPG."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

import emag
from emag.core import COND, UNCOND, combine
from emag.engine.network import Network
from emag.hosts.defaults import resolve
from emag.maths.streams import Streams
from emag.methods.weak.s2 import PerSample, Stochastic
from emag.methods.weak.tpg import Shuffled, ShuffledState, reordered
from emag.schedules import Interval
from reference import at_step
from spy import blocks_of
from tiny import CASES, noise
from whole_blocks import ALL, S2, SLG, STG, TPG, answer, close, evaluated, weak_calls, without

EQUIVARIANT = pytest.mark.parametrize("name", ["sd3", "dit", "pixart"])


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


def test_the_published_blocks_are_the_deep_end_of_the_way_down():
    """SDXL has 24 blocks on the way down, of 70: d6 to d23. On Stable Diffusion 1.5 it is as deep a part."""
    assert resolve(TPG(), ("UNet2DConditionModel",), 70, (24,)).layers == tuple(range(6, 24))
    assert resolve(TPG(), ("UNet2DConditionModel",), 16, (6,)).layers == (1, 2, 3, 4, 5)
