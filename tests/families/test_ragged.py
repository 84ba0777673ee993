"""Rows with texts of different lengths: Lumina 2, Z-Image, HiDream and Krea 2, on small networks."""

import pytest
import torch

import emag
from emag.methods import METHODS as C
from emag.methods.emag.compat import Compat
from emag.testing.small_ragged import MORE
from ragged import ANCHORED, EMAG, LATE, NEGATED, NETWORKS, SCALE, TWO_CALLS, cases, close, counted, far, precise, short
from spy import changes, network_outputs, scheduler_steps, snapshot
from tiny import noise

pytestmark = pytest.mark.sampled(2)

# nothing stays, and what is left alone keeps its bits


@cases()
def test_neutral_rules_change_no_bit(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    for rules in ((), (EMAG(1.0), C["pag"](1.0, (1,)))):
        with emag.guide(pipe, *rules):
            assert torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe)) == []


@cases()
def test_a_guided_run_leaves_nothing(case):
    pipe = case.pipe()
    plain, before = case.run(pipe), snapshot(pipe)
    with emag.guide(pipe, EMAG(), C["slg"](1.3, layers=(2,)), emag.CFG(3.0)):
        assert not torch.equal(case.run(pipe), plain)
    assert changes(before, snapshot(pipe), own=False) == []
    assert torch.equal(case.run(pipe), plain)


@cases(*NETWORKS)
@pytest.mark.parametrize("variant", ["query", "map"])
def test_the_clean_pass_is_bit_identical(case, variant):
    """Up to the first weak pass latents agree; what is tapped is looked at and goes on."""
    pipe = case.pipe()
    with network_outputs(pipe) as plain:
        case.run(pipe)
    with network_outputs(pipe) as guided, emag.guide(pipe, EMAG(variant=variant, window=emag.Window.index(4, 2, 1))):
        case.run(pipe)
    same = 5 if case.name in TWO_CALLS else 3
    assert all(torch.equal(a, b) for a, b in zip(plain[:same], guided[:same])) and len(guided) > len(plain)


# weak passes


@cases()
@pytest.mark.parametrize("variant", ["query", "map"])
def test_emag_runs_as_planned_and_acts(case, variant):
    pipe = case.pipe()
    plain, rows = case.run(pipe), counted(pipe)
    with emag.guide(pipe, EMAG(variant=variant)) as run:
        made = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == sum(rows.values()) / 2 > run.stats.clean
    assert run.stats.clean == run.stats.steps * 2 * 4 and run.stats.effect > 0.01 and far(made, plain) > 1e-3


@cases(*NETWORKS)
@pytest.mark.parametrize("variant", ["query", "map"])
def test_a_resumed_pass_is_the_full_one(case, variant):
    pipe, run_it = precise(case)
    for block in range(4):
        seen, costs = [], []
        for resume in (True, False):
            rule = EMAG(layers=(block,), variant=variant, compat=Compat(resume=resume))
            with network_outputs(pipe) as made, emag.guide(pipe, rule) as run:
                run_it(num_inference_steps=4)
            seen.append(made)
            costs.append(run.stats.evaluations)
        for resumed, full in zip(*seen, strict=True):
            assert far(resumed, full) < 1e-6
        assert costs[1] - costs[0] == block * sum(effect is not None for effect in run.stats.effects)


@pytest.mark.parametrize("variant", ["query", "map", "image"])
def test_a_weak_pass_may_need_less_padding_than_the_clean_one(variant):
    """Its rows are the conditional ones, and the negative text is the longest."""
    case, seen = short(MORE["z-image"]), []
    pipe, run_it = precise(case)
    pipe.transformer.layers[3].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    call = {"negative_prompt_embeds": [noise(900, 40, 12)]}
    made = []
    for resume in (True, False):
        with emag.guide(pipe, EMAG(variant=variant, compat=Compat(resume=resume))):
            made.append(torch.cat([run_it((seed,), num_inference_steps=4, **call) for seed in (8, 10)]))
    assert far(*made) < 1e-6 and set(seen) == {64, 96}


ROWS = {"query": (EMAG(),), "map": (EMAG(variant="map"),), "image": (EMAG(variant="image"),),
        "shared pass": (C["pag"](1.5, layers=(1,)), C["seg"](1.5, layers=(1,), sigma=1.0)),
        "shuffled": (C["tpg"](1.5, layers=(2, 3)),), "skipped": (C["slg"](1.5, layers=(1,)),),
        "sag": (C["sag"](1.5, layers=(2,), kernel=3),), "erg": (C["erg-push"](1.5, layers=(1,), tau=0.1),),
        "s-cfg": (C["s-cfg"](3.0, layers=(1,)),)}


@cases(*NETWORKS)
@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_it_is_alone(case, name):
    """With a text of another length than its batch mate's: 4, 5, 1 and 2 tokens, or 3 and 35; HiDream's are even."""
    pipe, run_it = precise(case)
    for seeds in ((8, 9), (5, 6)) if case.name in TWO_CALLS else ((8, 9),):
        with emag.guide(pipe, *ROWS[name]):
            both = run_it(seeds, num_inference_steps=4)
            alone = torch.cat([run_it((seed,), num_inference_steps=4) for seed in seeds])
        assert far(both, alone) < 2e-6


@cases("lumina2")
@pytest.mark.parametrize("rule", [C["pag"](1.5, layers=(1,)), C["seg"](1.5, layers=(1,), sigma=1.0)], ids=["pag", "seg"])
def test_only_the_image_rows_of_each_sample_are_changed(case, rule):
    pipe, seen = case.pipe(), []
    pipe.transformer.layers[1].attn.register_forward_hook(lambda module, args, out: seen.append(out))
    with emag.guide(pipe, rule):
        case.run(pipe, (5, 8), num_inference_steps=1)
    clean, weak = seen[:2]
    for row, text in enumerate((1, 4)):
        close(weak[row, :text], clean[row, :text], atol=1e-5, rtol=1e-5)
        moved = (weak[row] - clean[row]).abs().amax(-1)
        assert (moved[text:text + 16] > 1e-4).all() and moved[:text].max() < 1e-5


@cases("lumina2")
def test_only_image_tokens_are_shuffled(case):
    pipe, seen = case.pipe(), []
    pipe.transformer.layers[2].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with emag.guide(pipe, C["tpg"](1.5, layers=(2,))):
        case.run(pipe, (5, 8), num_inference_steps=1)
    clean, weak = seen[:2]
    for row, text in enumerate((1, 4)):
        image = slice(text, text + 16)
        assert torch.equal(weak[row, :text], clean[row, :text]) and not torch.equal(weak[row, image], clean[row, image])
        assert torch.equal(weak[row, image].sum(1).sort().values, clean[row, image].sum(1).sort().values)


# what the scheduler gets


def traced(case, *rules, **call):
    """Per step the conditional, weak and unconditional predictions, None where not made, and what the scheduler got."""
    pipe, steps = case.pipe(), []
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **call)
    sign = -1 if case.name in NEGATED else 1
    raw = [sign * answer for answer in raw]
    for effect in run.stats.effects:
        answer, null = raw.pop(0), None
        weak = raw.pop(0) if effect is not None else None
        if case.name in TWO_CALLS:
            cond, null = answer, raw.pop(0) if run.stats.clean > run.stats.steps * 4 else None
        elif len(answer) == 4:
            cond, null = answer.chunk(2)[::-1] if case.name == "hidream" else answer.chunk(2)
        else:
            cond = answer
        steps.append((cond, weak, null))
    assert raw == [] and len(steps) == len(given)
    return [(*step, got) for step, got in zip(steps, given)]


@cases()
@pytest.mark.parametrize("host_scale", [1.5, 33.0])
def test_the_scheduler_gets_exactly_our_cfg(case, host_scale):
    steps = traced(case, EMAG(1.4), emag.CFG(3.0), guidance_scale=host_scale)
    for cond, weak, null, got in steps:
        pred = cond if weak is None else cond + (1.4 - 1) * (cond - weak)
        close(got, null + 3.0 * (pred - null), atol=1e-5, rtol=1e-5)
    assert sum(weak is not None for _, weak, _, _ in steps) > 1


def by_host(case, pred, null):
    """How the pipeline itself combines."""
    if case.name in ANCHORED:
        return pred + SCALE * (pred - null)
    made = null + SCALE * (pred - null)
    return made * (pred.norm(dim=-1, keepdim=True) / made.norm(dim=-1, keepdim=True)) if case.name == "lumina2" else made


@cases()
def test_without_a_combiner_the_host_combines_the_moved_prediction(case):
    for cond, weak, null, got in traced(case, EMAG(1.5), guidance_scale=SCALE):
        close(got, by_host(case, cond if weak is None else cond + 0.5 * (cond - weak), null), atol=1e-5, rtol=1e-5)


@cases()
def test_weak_rules_work_without_unconditional_rows(case):
    steps = traced(case, EMAG(1.5), guidance_scale=0.0 if case.name in ANCHORED else 1.0)
    for cond, weak, null, got in steps:
        assert null is None
        close(got, cond if weak is None else cond + 0.5 * (cond - weak), atol=1e-5, rtol=1e-5)
    assert sum(weak is not None for _, weak, _, _ in steps) > 1


@cases()
def test_the_scale_at_which_a_pipeline_is_off(case):
    """0 where the host adds scale (cond - uncond) to cond: it guides at 0.5 there."""
    off = 0.0 if case.name in ANCHORED else 1.0
    pipe = case.pipe()
    with pytest.raises(emag.BadValue, match=f"guidance_scale above {off:g}"), emag.guide(pipe, emag.CFG(3.0)):
        case.run(pipe, guidance_scale=off)
    with emag.guide(pipe, emag.CFG(1.0)):
        close(case.run(pipe), case.run(case.pipe(), guidance_scale=off), atol=2e-3, rtol=2e-3)
    with pytest.raises(emag.BadValue, match=f"e.g. cfg={5 - off:g}"), emag.guide(pipe, C["rescale"](0.7)):
        case.run(pipe, guidance_scale=SCALE)
    if off == 0:
        assert all(null is not None for _, _, null, _ in traced(case, EMAG(), guidance_scale=0.5))


@cases("z-image")
def test_the_norm_of_z_image(case):
    """Its renorm leaves our result alone, or is refused; where it combines itself, it goes by the moved prediction."""
    for cond, _, null, got in traced(case, emag.CFG(3.0), cfg_normalization=True):
        close(got, null + 3.0 * (cond - null), atol=1e-5, rtol=1e-5)
    pipe = case.pipe()
    with pytest.raises(emag.Unsupported, match=r"cfg_normalization=0\.5"), emag.guide(pipe, emag.CFG(3.0)):
        case.run(pipe, cfg_normalization=0.5)
    with emag.guide(pipe, EMAG()) as run:
        case.run(pipe, cfg_normalization=0.5)
    assert run.stats.effect > 0


@pytest.mark.parametrize(("name", "argument"), [("lumina2", "cfg_trunc_ratio"), ("z-image", "cfg_truncation"),
                                                (LATE, "cfg_truncation")])
def test_steps_without_their_unconditional_rows_are_refused(name, argument):
    case, pipe = short(MORE[name]), MORE[name].pipe()
    rows = counted(pipe)
    with emag.guide(pipe, EMAG()):
        with pytest.raises(emag.Unsupported, match=f"{argument}=0.5.*window"):
            case.run(pipe, **{argument: 0.5})
        assert not rows
        case.run(pipe, **{argument: 0.5, "guidance_scale": 0.0})
    assert rows
