"""Other methods on models with an attention of their own for the text; shapes and text rows."""

import pytest
import torch

import emag
from emag.engine.reading import read_network
from emag.methods.attention.nag import NAG
from emag.methods.attention.pladis import PLADIS
from emag.methods.null.ag import AG
from emag.methods.null.tcfg import TCFG
from emag.methods.weak.pag import PAG
from emag.methods.weak.sag import SAG
from emag.methods.weak.seg import SEG
from emag.methods.weak.slg import SLG
from emag.methods.weak.tpg import TPG
from emag.testing.small_separate import MORE, sana
from separate import EMAG, KINDS, WITH_UNCOND, in_dtype, size_of
from spy import changes, snapshot

pytestmark = pytest.mark.sampled(2)

SIZES = {"hunyuan": {"height": 64, "width": 96}, "sana": {"height": 32, "width": 64},
         "sd3-control": {"height": 8, "width": 16}}


# 7: other methods


RULES = {"pag": lambda: PAG(2.0, layers=(1,)), "slg": lambda: SLG(2.0, layers=(1,)),
         "seg": lambda: SEG(2.0, layers=(1,), sigma=1e7), "tpg": lambda: TPG(2.0, layers=(2,)),
         "sag": lambda: SAG(1.5, layers=(1,), kernel=3, threshold=0.8),
         "apg": lambda: emag.APG(3.0, norm_threshold=2.5, momentum=-0.5)}


@KINDS
@pytest.mark.parametrize("name", RULES)
def test_other_methods_act_or_say_why_not(case, name):
    pipe = case.pipe()
    plain, rule = case.run(pipe), RULES[name]()
    reason = "rows" if name == "apg" and not case.uncond else ""
    if case.name == "sana" and name in ("pag", "seg", "sag"):
        reason = "linear"
    if name == "tpg" and not read_network(pipe.transformer).placed:
        reason = "do not see where tokens are"
    if reason:
        with pytest.raises((emag.Unsupported, emag.BadValue), match=reason), emag.guide(pipe, rule):
            case.run(pipe)
        return
    with emag.guide(pipe, rule) as run:
        made = case.run(pipe)
    assert made.isfinite().all() and size_of(made - plain) > 1e-3
    assert run.stats.evaluations == run.stats.planned


@WITH_UNCOND
def test_rules_on_the_unconditional_prediction_act(case):
    pipe = case.pipe()
    plain = case.run(pipe)
    for rules in ((TCFG(),), (AG(0.5), emag.CFG(4.0))):
        with emag.guide(pipe, *rules):
            assert not torch.allclose(case.run(pipe), plain, atol=1e-4)


def test_linear_attention_is_refused_before_anything_is_evaluated():
    pipe, calls = sana(), []
    pipe.transformer.register_forward_pre_hook(lambda *args: calls.append(1))
    before = snapshot(pipe)
    for rule in (emag.EMAG(), EMAG(variant="map"), SEG(2.0, layers=(1,), sigma=1e7), PLADIS(cross=False)):
        says = "needs text in the attention" if isinstance(rule, PLADIS) else "SanaTransformer2DModel is linear"
        with pytest.raises(emag.Unsupported, match=says), emag.guide(pipe, rule):
            MORE["sana"].run(pipe)
    assert calls == [] and changes(before, snapshot(pipe)) == []


@pytest.mark.parametrize("name", ["sana", "hunyuan"])
def test_the_cross_attention_can_be_changed(name):
    case = MORE[name]
    pipe = case.pipe()
    plain = case.run(pipe)
    for rule in (PLADIS(), NAG()):
        with emag.guide(pipe, rule):
            assert not torch.allclose(case.run(pipe), plain, atol=1e-4)


# 8: shapes and dtypes


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_image_that_is_not_square(case, dtype):
    pipe = case.pipe().to(dtype)
    call = in_dtype(case.call((8,), **SIZES.get(case.name, {"height": 8, "width": 12})), dtype)
    rules = (SLG(1.3, layers=(1,)),) if case.name == "sana" else (EMAG(), SEG(1.3, layers=(2,), sigma=1.0))
    with emag.guide(pipe, *rules) as run:
        made = pipe(**call).images
    assert made.isfinite().all() and run.stats.effect > 0 and run.stats.evaluations == run.stats.planned


# 9: text rows


@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("variant", ["query", "map"])
@pytest.mark.parametrize("name", ["auraflow", "sd3.5"])
def test_text_rows_are_untouched_by_the_attention(name, block, variant):
    """AuraFlow's eight register tokens count as text, in its joint blocks and where one stream holds both."""
    case, store = MORE[name], []
    pipe = case.pipe()
    one = read_network(pipe.transformer).blocks[block]
    one.attention.register_forward_hook(lambda module, args, out: store.append(out))
    with emag.guide(pipe, EMAG(layers=(block,), variant=variant)) as run:
        case.run(pipe, (8,))
    compared = 0
    for effect in run.stats.effects:
        clean, weak = apart(store.pop(0)), apart(store.pop(0)) if effect is not None else None
        if weak is not None:
            assert size_of(weak[1] - clean[1][1:]) < 1e-4 * size_of(clean[1])
            assert size_of(weak[0] - clean[0][1:]) > 1e-3
            compared += 1
    assert compared >= 3 and store == []


def apart(out):
    """Image and text rows of an attention's output; 16 image tokens."""
    return out if isinstance(out, tuple) else (out[:, -16:], out[:, :-16])


def test_the_second_attention_of_sd35_stays():
    """`attn2` sees image tokens alone; what is tapped is the joint one."""
    pipe = MORE["sd3.5"].pipe()
    network = read_network(pipe.transformer)
    assert [getattr(block.module, "attn2", None) is not None for block in network.blocks] == [True, True, False, False]
    assert all(block.attention is block.module.attn for block in network.blocks)
