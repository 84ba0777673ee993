"""SoftPAG and its search: maps blended in single heads."""

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.errors import BadValue
from emag.maths.attention import Attention
from emag.methods.weak.soft_pag import TARGET_MAPS, SoftHeads, argmax_map, identity_map, mean_query
from reference import softmax_map, tensors
from tiny import CASES

close = torch.testing.assert_close
TEXT, IMAGE = 2, 5


def attention():
    q, k, v = tensors(20, 3, 2, 3, TEXT + IMAGE, 4)
    return Attention(q.double(), k.double(), v.double(), slice(TEXT, TEXT + IMAGE))


def live(call):
    return F.scaled_dot_product_attention(call.q, call.k, call.v)


def perturbed(call, target, strength, heads=((0, 1, 2),)):
    state = SoftHeads((7,), heads, target, strength).start((1.0,), None)
    return state.perturb(7, call, lambda q: F.scaled_dot_product_attention(q, call.k, call.v)), state


@pytest.mark.parametrize("target", TARGET_MAPS)
def test_the_map_is_blended_in_the_named_heads_alone(target):
    call = attention()
    out, state = perturbed(call, target, 0.3, ((0, 2),))
    whole, _ = perturbed(call, target, 1.0)
    close(out[:, [0, 2]], 0.7 * live(call)[:, [0, 2]] + 0.3 * whole[:, [0, 2]], rtol=1e-5, atol=1e-6)
    assert torch.equal(out[:, 1], live(call)[:, 1]) and torch.equal(out[:, :, :TEXT], live(call)[:, :, :TEXT])
    assert bool(state.differed)
    unmoved, still = perturbed(call, target, 0.0)
    assert torch.equal(unmoved, live(call)) and not bool(still.differed)


def test_targets_are_the_maps_they_are_named_after():
    call = attention()
    image, rows = call.v[:, :, TEXT:], softmax_map(call.q, call.k)[:, :, TEXT:]
    close(identity_map(call, live(call))[:, :, TEXT:], image, rtol=1e-6, atol=1e-6)
    hard = F.one_hot(rows.argmax(-1), TEXT + IMAGE).double()
    close(argmax_map(call, live(call))[:, :, TEXT:], hard @ call.v, rtol=1e-6, atol=1e-6)
    mean = call.q[:, :, TEXT:].mean(2, keepdim=True).expand(-1, -1, IMAGE, -1)
    close(mean_query(call, live(call))[:, :, TEXT:], softmax_map(mean, call.k) @ call.v)


def test_equal_queries_are_their_mean():
    call = attention()
    same = Attention(call.q[:, :, :1].expand_as(call.q), call.k, call.v, call.image)
    close(mean_query(same, live(same)), live(same))


def test_all_heads_wholly_the_identity_is_pag_without_text():
    case = CASES["dit"]
    images = []
    for rule in (emag.SoftPAG(2.0, ("1.0", "1.1"), strength=1.0), emag.PAG(2.0, (1,), "joint")):
        pipe = case.pipe()
        with emag.guide(pipe, emag.CFG(2.0), rule):
            images.append(case.run(pipe, num_inference_steps=3))
    close(*images, rtol=1e-4, atol=1e-4)


def test_the_search_finds_planted_heads():
    names = [f"{at}.{head}" for at in range(4) for head in range(3)]
    worth = {"1.2": 3.0, "3.0": 2.0, "0.1": 1.0}
    # the third is worth something beside the first alone: a search in rounds sees that, one round does not
    def objective(chosen):
        return sum(worth.get(name, 0.0) for name in chosen) + (4.0 if {"1.2", "2.2"} <= set(chosen) else 0.0)

    assert emag.select_heads(objective, names, 2) == ("1.2", "3.0")
    assert emag.select_heads(objective, names, 1, 2) == ("1.2", "2.2")
    with pytest.raises(BadValue, match="out of 12"):
        emag.select_heads(objective, names, 13)


@pytest.mark.parametrize(("heads", "said"), [(("7",), "names of a block"), ("7.1", "names of a block"),
                                             (("-1.0",), "names of a block"), (("a.b",), "names of a block")])
def test_names_are_checked(heads, said):
    with pytest.raises(BadValue, match=said):
        emag.SoftPAG(2.0, heads)


@pytest.mark.parametrize(("rule", "said"), [(emag.SoftPAG(2.0, ("1.9",)), "1.9 does not exist"),
                                            (emag.SoftPAG(2.0, ("9.0",)), "do not exist"), (emag.SoftPAG(2.0), "heads=7.3")])
def test_heads_the_network_does_not_have_are_refused(rule, said):
    with pytest.raises(BadValue, match=said), emag.guide(CASES["dit"].pipe(), rule):
        pass
