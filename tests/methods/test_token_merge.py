"""Token merging by importance: attention over fewer tokens, in every pass, by what the prompt did in the step before."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode

import emag
from emag.core import COND, UNCOND, Rows
from emag.errors import BadValue, Unsupported
from emag.hosts.comfy.checks import _check_rule as comfy_check
from emag.hosts.defaults import resolve
from emag.maths.merging import Matching, merge, unmerge
from emag.maths.streams import Streams
from emag.methods.common.merged_tokens import MergedState
from emag.testing.small_unet import MORE
from reference import at_step, tensors
from spy import attribute
from tiny import CASES

GRID, B, C = (6, 8), 2, 5
N = math.prod(GRID)
BOTH = Rows(slice(B, 2 * B), slice(0, B), 2 * B)
ALONE = Rows.all_cond(B)
CALM = {"ratio": 0.5, "pool": 1.4, "start": 2, "early": "cells", "likeness": "features"}


def rule_of(**more):
    return emag.TokenMerge(**{**CALM, "layers": (1, 2), **more})


def state_of(rule, index=2):
    state = MergedState(rule.perturbation, Streams.of(tensors(9, 1, B, 3)[0]))
    state.place(GRID)
    state.importance = tensors(5, 1, B, 12, 16)[0].abs()
    state.begin(index)
    return state


def passed(state, tokens, run, rows=BOTH, entered=None):
    """What the attention of block 1 returns."""
    entered = tokens if entered is None else entered
    assert state.enter(1, {"hidden_states": entered}, rows)["hidden_states"] is entered
    return state.around(1, tokens, run, rows)


def attended(x):
    return (x @ x.mT).softmax(-1) @ x


def both():
    return tensors(1, 1, 2 * B, N, C)[0].double()


# inside one block


def test_attention_is_over_merged_tokens_and_copied_back():
    state, x, entered, seen = state_of(rule_of()), both(), tensors(2, 1, 2 * B, N, C)[0].double(), []

    def run(tokens):
        seen.append(tokens)
        return attended(tokens)

    made = passed(state, x, run, entered=entered)
    # the matching is of what entered the block, a side at a time; the tokens are the attention module's
    for side, part in ((UNCOND, slice(0, B)), (COND, slice(B, 2 * B))):
        matching = state.held[1, side]
        again = state._matched(entered[part], N // 2)
        assert torch.equal(again.folded, matching.folded) and torch.equal(again.into, matching.into)
        torch.testing.assert_close(made[part], unmerge(attended(merge(x[part], matching)), matching))
    assert seen[0].shape == (2 * B, N - N // 2, C) and bool(state.differed)


def test_text_in_the_same_attention_stays():
    state, x, text = state_of(rule_of()), both(), tensors(3, 1, 2 * B, 4, C)[0]
    image, words = passed(state, x, lambda tokens: (attended(tokens), text))
    assert image.shape == x.shape and words is text


def test_both_conditions_share_importance_and_destinations():
    state = state_of(rule_of(pool=1.0))
    passed(state, both(), attended)
    cond, uncond = state.held[1, COND], state.held[1, UNCOND]
    assert torch.equal(cond.destinations, uncond.destinations)
    # with a pool of what is left, exactly the least important tokens are folded
    importance = torch.nn.functional.adaptive_avg_pool2d(state.importance[:, None], GRID).flatten(1)
    least = importance.argsort(1)[:, :N // 2].sort(1).values
    assert all(torch.equal(one.folded.sort(1).values, least) for one in (cond, uncond))


def test_early_steps_drop_tokens_and_do_not_average():
    for way, at, drops in (("cells", 0, True), ("cells", 1, True), ("map", 0, False), ("map", 1, True), ("whole", 1, False)):
        state, x, seen = state_of(rule_of(early=way), at), both(), []
        passed(state, x, lambda tokens, seen=seen: seen.append(tokens) or tokens)
        rows = {tuple(row) for row in x.flatten(0, 1).tolist()}
        inside = {tuple(row) for row in seen[0].flatten(0, 1).tolist()}
        assert inside <= rows and len(inside) == (N if not drops else N // 2) * 2 * B
    state, x, seen = state_of(rule_of()), both(), []
    passed(state, x, lambda tokens: seen.append(tokens) or tokens)
    assert not {tuple(row) for row in seen[0].flatten(0, 1).tolist()} <= rows


def test_a_weak_pass_takes_the_clean_one_s_matching():
    state, x, other = state_of(rule_of()), both(), tensors(7, 1, B, N, C)[0].double()
    passed(state, x, attended)
    held = dict(state.held)
    weak = passed(state, other, attended, ALONE)
    matching = held[1, COND]
    torch.testing.assert_close(weak, unmerge(attended(merge(other, matching)), matching))
    twice = passed(state, torch.cat([other] * 2), attended, Rows.all_cond(2 * B))
    torch.testing.assert_close(twice, torch.cat([weak] * 2))
    state.begin(3)
    assert not state.held


def test_coarser_blocks_are_left_alone():
    state, small = state_of(rule_of()), tensors(1, 1, 2 * B, N // 4, C)[0]
    passed(state, both(), attended)
    assert torch.equal(passed(state, small, lambda tokens: tokens), small)
    wide, seen = state_of(rule_of(downsample=2)), []
    passed(wide, both(), attended)
    wide.held.clear()
    passed(wide, small, lambda tokens: seen.append(tokens) or tokens)
    assert seen[0].shape[1] == N // 8


def test_rows_are_independent():
    rule = rule_of()
    whole, x = state_of(rule), both()
    made = passed(whole, x, attended)
    alone = MergedState(rule.perturbation, Streams.of(tensors(9, 1, B, 3)[0][1:]))
    alone.place(GRID)
    alone.importance = whole.importance[1:]
    alone.begin(2)
    one = passed(alone, x[[1, 3]], attended, Rows(slice(1, 2), slice(0, 1), 2))
    torch.testing.assert_close(one, made[[1, 3]])


def test_importance_is_what_the_prompt_does_in_the_step_before():
    rule, p = rule_of(), {COND: tensors(1, 1, B, 4, 12, 16)[0], UNCOND: tensors(2, 1, B, 4, 12, 16)[0]}
    state = state_of(rule)
    step = at_step(x=p[COND], seen={rule.perturbation: state})
    assert rule.apply(p[COND], p, step, {}) is p[COND]
    torch.testing.assert_close(state.importance, (p[COND] - p[UNCOND]).abs().mean(1))
    kept = state.importance
    rule.apply(p[COND], {COND: p[COND]}, step, {})  # a step that spared the unconditional one
    assert state.importance is kept


# whole runs


def seen_tokens(pipe, rule, case, **more):
    """Image tokens that the queries of block 1 are made of, call by call."""
    module, seen = pipe.transformer.transformer_blocks[1], []
    attention = getattr(module, "attn1", None) or module.attn

    def forward(x, original=attention.to_q.forward):
        seen.append(x.shape[1])
        return original(x)

    with attribute(attention.to_q, "forward", forward), emag.guide(pipe, rule, *more.pop("rules", ())) as run:
        case.run(pipe, num_inference_steps=4)
    return seen, run.stats


@pytest.mark.parametrize("name", ["sd3", "dit", "pixart"])
def test_every_pass_attends_to_fewer_tokens(name):
    case = CASES[name]
    seen, stats = seen_tokens(case.pipe(), rule_of(early="whole"), case)
    assert seen == [16, 16, 8, 8] and stats.evaluations == stats.planned == stats.clean
    slg = emag.SLG(1.5, layers=(0,))
    seen, stats = seen_tokens(case.pipe(), rule_of(early="cells"), case, rules=(slg,))
    assert seen == [8] * 8 and stats.evaluations == stats.planned > stats.clean


def by_definition(attention, tokens, text, bias, matching, row):
    """Attention of one row to a text: the mean of a group asks, and each of its tokens gets the answer."""
    groups = {int(at): [int(at)] for at in (*matching.kept[row], *matching.destinations[row])}
    for source, into in zip(matching.folded[row], matching.into[row], strict=True):
        groups[int(matching.destinations[row, into])].append(int(source))
    keys, values, out = attention.to_k(text), attention.to_v(text), torch.empty_like(tokens)
    for members in groups.values():
        query = attention.to_q(tokens[members].mean(0))
        heads = [x.unflatten(-1, (attention.heads, -1)) for x in (query, keys, values)]
        weights = (torch.einsum("hd,khd->hk", *heads[:2]) * attention.scale + bias).softmax(-1)
        out[members] = attention.to_out[0](torch.einsum("hk,khd->hd", weights, heads[2]).flatten())
    return out


def test_merged_tokens_ask_the_text_of_pixart(monkeypatch):
    case, calls, matchings = CASES["pixart"], [], []
    pipe = case.pipe()
    blocks, joined = pipe.transformer.transformer_blocks, Matching.joined
    blocks[1].attn2.to_q.weight.data /= 1000  # PixArt has no norm here: else each query sees one word, whatever is merged
    monkeypatch.setattr(Matching, "joined", staticmethod(lambda parts: matchings.append(joined(parts)) or matchings[-1]))
    with emag.guide(pipe, rule_of(layers=(1,), early="whole", cross=True)):
        hook = blocks[1].attn2.register_forward_hook(lambda _, *call: calls.append(call), with_kwargs=True)
        case.run(pipe, num_inference_steps=4)
        hook.remove()
    assert len(calls) == 4 and len(matchings) == 4  # two of four steps merge, around both modules of the block
    own, asked = matchings[2:]
    assert all(torch.equal(one, other) for one, other in zip(vars(own).values(), vars(asked).values(), strict=True))
    (tokens,), given, made = calls[3]
    for row in range(len(tokens)):
        expected = by_definition(blocks[1].attn2, tokens[row], given["encoder_hidden_states"][row],
                                 given["attention_mask"][row], asked, row)
        torch.testing.assert_close(made[row], expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(made, blocks[1].attn2(tokens, **given), atol=1e-4)


def test_only_the_authors_model_merges_queries_to_the_text_unasked():
    """PixArt's default; asked for, U-Nets do it too, and networks without a cross-attention of their own refuse."""
    for network, asked in (("PixArtTransformer2DModel", True), ("DiTTransformer2DModel", False)):
        assert resolve(emag.TokenMerge(), (network,), 28).perturbation.around_cross == asked
    case, made = MORE["sd"], []
    for rule in (emag.TokenMerge(0.3), emag.TokenMerge(0.3, cross=True)):
        pipe = case.pipe()
        with emag.guide(pipe, rule):
            made.append(case.run(pipe))
    inside = emag.PLADIS(2.0, layers=(1,))  # of the text's keys, so it may stand beside merging in the attention to itself
    with emag.guide(CASES["pixart"].pipe(), rule_of(cross=False), inside):
        pass
    with pytest.raises(Unsupported, match="works inside"), emag.guide(CASES["pixart"].pipe(), rule_of(cross=True), inside):
        pass
    assert made[1].isfinite().all() and not torch.allclose(*made, atol=1e-4)
    with pytest.raises(Unsupported, match="have none of their own"), emag.guide(CASES["dit"].pipe(), rule_of(cross=True)):
        pass


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_u_nets_merge_where_their_grid_is_finest(name):
    case = MORE[name]
    pipe = case.pipe()
    plain = case.run(case.pipe())
    with emag.guide(pipe, emag.TokenMerge(0.3)) as run:
        made = case.run(pipe)
    assert made.isfinite().all() and not torch.allclose(made, plain, atol=1e-3)
    assert run.stats.evaluations == run.stats.planned == run.stats.clean


def test_the_embedded_model_merges():
    pipe, more = emag.load("tiny"), {"num_inference_steps": 4, "output_type": "latent"}

    def drawn(*rules):
        with emag.guide(pipe, *rules):
            return pipe("a photo of a frog", generator=torch.Generator().manual_seed(3), **more).images

    plain, little, much = drawn(), drawn(emag.TokenMerge(0.1)), drawn(emag.TokenMerge(0.7))
    assert torch.equal(drawn(emag.TokenMerge(0.0)), plain)
    # the more is merged the further it goes from the whole attention
    assert 0 < (little - plain).norm() < (much - plain).norm()


# refused


@pytest.mark.parametrize(("rules", "words"), [
    ((rule_of(), emag.PAG(2.0, (2, 3))), "works inside it"),
    ((rule_of(), emag.SCFG(3.0, (1,))), "works inside it"),
    ((rule_of(), emag.SWG(1.5, unit=2)), "images of their own"),
    ((rule_of(layers=(1,)), rule_of(layers=(1,), ratio=0.2)), "works inside it"),
])
def test_what_works_inside_the_same_attention_is_refused(rules, words):
    with pytest.raises(Unsupported, match=words), emag.guide(CASES["sd3"].pipe(), *rules):
        pass
    with emag.guide(CASES["sd3"].pipe(), rule_of(), emag.PAG(2.0, (3,))):
        pass


def test_networks_that_tell_tokens_their_places_are_refused():
    with pytest.raises(Unsupported, match="see them as a set"), emag.guide(CASES["flux"].pipe(), emag.TokenMerge()):
        pass


def test_runs_without_a_difference_are_refused():
    case = CASES["sd3"]
    pipe = case.pipe()
    with pytest.raises(BadValue, match="reads the unconditional prediction"), emag.guide(pipe, rule_of()):
        case.run(pipe, guidance_scale=1.0)
    with pytest.raises(BadValue, match="begins at step 9"), emag.guide(pipe, rule_of(start=9, early="whole")):
        case.run(pipe)


@pytest.mark.parametrize("wrong", [{"ratio": 0.8}, {"ratio": -0.1}, {"pool": 0.5}, {"start": 0}, {"downsample": 0},
                                   {"early": "no"}, {"likeness": "x"}, {"layers": ()}])
def test_values_are_checked(wrong):
    with pytest.raises(BadValue):
        rule_of(**wrong)


class Pairs(TorchFunctionMode):
    """Pairs of a query and a key that the network's attention looks at, over all rows; the autoencoder's has more tokens."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention and args[0].shape[-2] <= 16:
            self.count += args[0].shape[0] * args[0].shape[-2] * args[1].shape[-2]
        return func(*args, **(kwargs or {}))


def test_what_it_saves_is_counted():
    """Half of the tokens merged leave a quarter of the pairs, in half of the blocks."""
    case, counts = CASES["dit"], []
    for rules in ((), (rule_of(),)):
        pipe = case.pipe()
        with Pairs() as pairs, emag.guide(pipe, *rules):
            case.run(pipe, num_inference_steps=4)
        counts.append(pairs.count)
    assert counts[1] == counts[0] * (0.5 + 0.5 * 0.25)


@pytest.mark.parametrize("rule", [rule_of(), emag.FeatureReuse(layers=(1,)), emag.InternalGuidance(1.4),
                                  emag.ModulationGuidance("other")], ids=lambda rule: rule.name)
def test_what_is_not_built_for_comfyui_says_so(rule):
    entry = SimpleNamespace(condition=("y",), family="a family")
    network = SimpleNamespace(check_layers=lambda layers: None, check_text=lambda layers: None)
    with pytest.raises(Unsupported, match=rf"{rule.name} .*use emag.guide around"):
        comfy_check(rule, network, entry)
