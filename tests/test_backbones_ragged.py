"""Rows with texts of different lengths: Lumina 2, Z-Image, HiDream and Krea 2, on small networks."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import emag
from emag.engine.network import read_network
from emag.engine.packed import Packing
from emag.hosts.defaults import entry
from emag.hosts.given import encode_condition
from emag.hosts.lookup import host_of
from emag.lab.forecast import image_tokens, text_tokens
from emag.maths.attention import Attention
from emag.methods import METHODS as C
from emag.methods.emag.compat import Compat
from emag.testing.small_ragged import MORE, TEXT, texts, z_image
from spy import changes, network_outputs, scheduler_steps, snapshot
from tiny import noise

close = torch.testing.assert_close
WINDOW, SCALE, STEPS = emag.Window.progress(0, 0.2, 0.9), 4.0, 5
LATE = "z-image-img2img"  # its network and its calls are those of z-image
TWO_CALLS, ANCHORED, NEGATED = ("lumina2", "krea2"), ("z-image", LATE, "krea2"), ("lumina2", "z-image", LATE, "hidream")
SIDE = {"lumina2": 8}  # pixels a latent; 1 elsewhere


def short(case):
    """The same case in a few steps."""
    return replace(case, call=lambda seeds=(8, 9), **more: case.call(seeds, **{"num_inference_steps": STEPS, **more}))


def cases(*names):
    kept = [short(case) for name, case in MORE.items() if name in (names or MORE)]
    return pytest.mark.parametrize("case", kept, ids=[case.name for case in kept])


NETWORKS = [name for name in MORE if name != LATE]


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 3), "window": WINDOW, **more})


def far(made, plain):
    return float((made - plain).norm() / plain.norm())


def cast(value, dtype):
    if isinstance(value, list):
        return [cast(one, dtype) for one in value]
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def precise(case, dtype=torch.float64):
    """A pipeline in another precision, and what calls it."""
    pipe = case.pipe().to(dtype)
    return pipe, lambda seeds=(8, 9), **more: pipe(**{n: cast(v, dtype) for n, v in case.call(seeds, **more).items()}).images


def counted(pipe):
    """Rows that each block evaluates, counted from outside."""
    rows = Counter()

    def hook(index):
        def count(module, args, kwargs):
            rows[index] += len(args[0] if args else kwargs["hidden_states"])
        return count

    for block in read_network(pipe.transformer).blocks:
        block.module.register_forward_pre_hook(hook(block.index), with_kwargs=True)
    return rows


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


# sizes, precision, other methods


@cases(*NETWORKS)
def test_sizes_that_are_not_square(case):
    """HiDream fills the stream of such an image up to its largest size."""
    pipe, run_it = precise(case)
    side = SIDE.get(case.name, 1)
    size = {"height": 4 * side, "width": 12 * side}
    plain = run_it((8, 9), **size)
    rules = (EMAG(), C["seg"](1.5, layers=(1,), sigma=1.0), C["tpg"](1.5, layers=(1, 3)))
    with emag.guide(pipe, *rules) as run:
        made = run_it((8, 9), **size)
        assert run.stats.images == 2
        alone = torch.cat([run_it((seed,), **size) for seed in (8, 9)])
    assert far(made, plain) > 1e-3 and far(made, alone) < 1e-6


def test_padding_behind_an_image_is_left_alone():
    """At 4 x 12 the small HiDream has 2 x 6 image tokens in a stream of 16."""
    case, seen = short(MORE["hidream"]), []
    pipe = case.pipe()
    read_network(pipe.transformer).blocks[1].module.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True)
    with emag.guide(pipe, C["tpg"](1.5, layers=(1,))):
        case.run(pipe, height=4, width=12, num_inference_steps=1)
    (_, clean), weak = seen[0].chunk(2), seen[1]
    image = int((clean != weak).any(-1).any(0).nonzero().max()) + 1
    assert clean.shape[1] == 16 and 4 < image < 16
    assert torch.equal(weak[:, :image].sum(2).sort(1).values, clean[:, :image].sum(2).sort(1).values)


@cases(*NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(case, dtype):
    effects = []
    for kind in (torch.float32, dtype):
        pipe, run_it = precise(case, kind)
        with emag.guide(pipe, C["pag"](1.5, layers=(1,)), emag.CFG(3.0)) as run:
            assert run_it(num_inference_steps=1).isfinite().all()
        effects.append(run.stats.effect)
        with emag.guide(pipe, EMAG(), EMAG(variant="map")):
            assert run_it().isfinite().all()
    assert effects[1] == pytest.approx(effects[0], rel=0.2)


ACTING = {"pag": C["pag"](1.5, layers=(1,)), "slg": C["slg"](1.5, layers=(3,)), "s2": C["s2"](1.5, layers=(1,)),
          "tsg": C["tsg"](1.5), "apg": emag.APG(3.0, norm_threshold=2.5, momentum=-0.5), "tcfg": C["tcfg"](),
          "ag": C["ag"](0.5), "autoguidance": C["autoguidance"](1.5), "icg": C["icg"](),
          "cads": emag.CADS(0.3, 0.3, 0.9, 0.7)}


@cases(*NETWORKS)
@pytest.mark.parametrize("name", ACTING)
def test_methods_act_as_planned_or_say_why_not(case, name):
    pipe = case.pipe()
    plain, rows = case.run(pipe), counted(pipe)
    if case.name == "z-image" and name in ("icg", "cads"):
        with pytest.raises(emag.Unsupported, match="list of texts"), emag.guide(pipe, ACTING[name]):
            case.run(pipe)
        return
    with emag.guide(pipe, ACTING[name], models={"guide": case.pipe(seed=1).transformer}) as run:
        made = case.run(pipe)
    assert made.isfinite().all() and far(made, plain) > 1e-4
    other = 4 * len(run.stats.effects) if name == "autoguidance" else 0
    assert run.stats.evaluations == sum(rows.values()) / 2 + other <= run.stats.planned


@cases("lumina2", "z-image", "krea2")
def test_asag_is_refused_where_text_is_masked(case):
    pipe = case.pipe()
    with pytest.raises(emag.Unsupported, match="has a mask"), emag.guide(pipe, C["asag"](1.5, layers=(1,))):
        case.run(pipe)


# further conditions


def negative_of(case):
    """The negative prompt of the cases as network arguments."""
    mask = (torch.arange(TEXT) < 3)[None]
    if case.name == "hidream":
        return {"encoder_hidden_states_t5": noise(900, 1, TEXT, 12), "pooled_embeds": noise(950, 1, 10),
                "encoder_hidden_states_llama3": noise(920, 4, 3, 8)[None]}
    if case.name.startswith("z-image"):
        return {"cap_feats": [noise(900, TEXT, 12)]}
    shape = (TEXT, 2, 12) if case.name == "krea2" else (TEXT, 12)
    return {"encoder_hidden_states": noise(900, 1, *shape), "encoder_attention_mask": mask.float()}


@cases()
def test_a_further_condition_is_evaluated_as_the_pipeline_does(case):
    """The negative prompt once more, as a condition: the unconditional prediction of the pipeline."""
    pipe, doubled = case.pipe(), case.name not in TWO_CALLS
    with network_outputs(pipe) as raw, emag.guide(pipe, C["negative"](1.5), conditions={"negative": negative_of(case)}):
        case.run(pipe)
    while raw:
        answer, weak = raw.pop(0), raw.pop(0)
        halves = answer.chunk(2) if doubled else (answer, raw.pop(0))
        null, cond = halves if case.name == "hidream" else halves[::-1]
        close(weak, null, atol=1e-4, rtol=1e-4)
        assert far(weak, cond) > 1e-2


@cases(*NETWORKS)
def test_a_condition_may_have_another_length(case):
    given = {"z-image": {"cap_feats": noise(70, 1, 40, 12)}, "krea2": {"encoder_hidden_states": noise(70, 1, 7, 2, 12)},
             "lumina2": {"encoder_hidden_states": noise(70, 1, 7, 12)},
             "hidream": {"encoder_hidden_states_t5": noise(70, 1, 7, 12)}}[case.name]
    pipe, run_it = precise(case)
    with emag.guide(pipe, C["negative"](1.5), conditions={"negative": given}) as run:
        both = run_it()
        assert far(torch.cat([run_it((seed,)) for seed in (8, 9)]), both) < 1e-6
    assert run.stats.effect > 0.01


@cases("lumina2", "z-image", "krea2")
def test_a_condition_that_is_the_prompt_has_no_effect(case):
    pipe, call = case.pipe(), case.call((9,))
    mask = torch.ones(1, TEXT)
    given = {"cap_feats": call["prompt_embeds"]} if case.name == "z-image" else {
        "encoder_hidden_states": call["prompt_embeds"], "encoder_attention_mask": mask}
    with pytest.raises(emag.NoEffect, match="the images are made with"):
        with emag.guide(pipe, C["negative"](1.5), conditions={"negative": given}):
            pipe(**call)


ENCODED = {"lumina2": lambda n: (texts(n, 300, 5, 12), torch.ones(len(n), 5).long(), None, None),
           "z-image": lambda n: ([noise(300 + one, one, 12) for one in n], []),
           "hidream": lambda n: (texts(n, 300, 5, 12), None, torch.stack([noise(one, 4, 3, 8) for one in n], 1), None,
                                 texts(n, 400, 10), None),
           "krea2": lambda n: (texts(n, 300, 5, 2, 12), torch.ones(len(n), 5).bool())}


@cases(*NETWORKS)
def test_prompts_are_encoded_by_the_pipeline(case):
    pipe = case.pipe()
    vars(pipe)["encode_prompt"] = lambda prompt, **more: ENCODED[case.name](tuple(len(text) for text in prompt))
    found = encode_condition(["a", "abc"], host_of(pipe), pipe, read_network(pipe.transformer))
    assert set(found) <= set(read_network(pipe.transformer).backbone.per_row)
    assert all(len(value) == 2 for value in found.values())
    del vars(pipe)["encode_prompt"]
    with emag.guide(pipe, C["negative"](1.5), conditions={"negative": found}) as run:
        case.run(pipe)
    assert run.stats.effect > 0.01


# facts


@cases(*NETWORKS)
def test_every_network_has_defaults(case):
    pipe = case.pipe()
    with emag.guide(pipe, emag.EMAG(), emag.CFG()) as run:
        case.run(pipe, num_inference_steps=28)
    assert run.resolved[0].scale == 1.5 and run.resolved[0].layers
    assert run.resolved[1].scale == entry("cfg", (run.resolved and type(pipe.transformer).__name__,)).values["scale"]


@cases(*NETWORKS)
def test_tokens_of_a_forecast(case):
    network = read_network(case.pipe().transformer)
    assert image_tokens(network, 1024, 512) == 64 * 32
    assert text_tokens(network, None) >= 128 and text_tokens(network, 7) == 7


def test_packing_moves_the_image_to_the_end_and_back():
    x = torch.arange(2 * 7 * 3.0).view(2, 7, 3)
    packing = Packing.of((1, 3), 4, x.device)
    opened = packing.opened(x)
    for row, text in enumerate((1, 3)):
        assert torch.equal(opened[row, -4:], x[row, text:text + 4]) and torch.equal(opened[row, :text], x[row, :text])
    assert torch.equal(packing.closed(opened), x)
    turned = x.transpose(1, 2)[:, None]
    assert torch.equal(packing.opened(turned, 3)[:, 0].transpose(1, 2), opened)
    assert Packing.of((3, 3), 4, x.device) is None


def test_masked_keys_do_not_count_in_the_size_of_the_keys():
    q, k = noise(1, 2, 2, 6, 4), noise(2, 2, 1, 6, 4)
    mask = (torch.arange(6) < torch.tensor([[4], [6]]))[:, None, None]
    found = Attention(q, k, k, slice(0, 3), mask).key_size()
    close(found, torch.stack([k[0, :, :4].abs().mean(), k[1].abs().mean()]))
    close(Attention(q, k, k, slice(0, 3)).key_size(), k.abs().mean((1, 2, 3)))


def test_z_image_with_several_images_of_a_prompt():
    case, pipe = short(MORE["z-image"]), z_image()
    with emag.guide(pipe, EMAG(), emag.CFG(3.0)) as run:
        made = case.run(pipe, (9,), num_images_per_prompt=2, generator=torch.Generator().manual_seed(1))
    assert run.stats.images == len(made) == 2
