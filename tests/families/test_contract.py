"""The laws of a served pipeline, on all small ones that have no tests of their own kind: one build and few runs for each."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode

import emag
from emag.engine.arguments import Arguments
from emag.engine.reading import read_network
from emag.engine.taps import image_tokens
from emag.families import BACKBONES
from emag.hosts.lookup import denoisers, host_of
from emag.methods import METHODS as C
from emag.methods.combining.compose import Compose, Term
from emag.methods.emag.compat import Compat
from emag.testing.outside import counted
from emag.testing.small_cascade import MORE as CASCADE
from emag.testing.small_chunks import MORE as CHUNKS
from emag.testing.small_cosmos3 import MORE as COSMOS3
from emag.testing.small_films import MORE as FILMS
from emag.testing.small_followed import MORE as FOLLOWED
from emag.testing.small_given import MORE as GIVEN
from emag.testing.small_if import MORE as IF
from emag.testing.small_image import MORE as IMAGES
from emag.testing.small_kandinsky2 import MORE as KANDINSKY_2
from emag.testing.small_kandinsky3 import MORE as KANDINSKY_3
from emag.testing.small_kolors import MORE as KOLORS
from emag.testing.small_moving import MORE as MOVING
from emag.testing.small_omnigen import MORE as OMNIGEN
from emag.testing.small_pag import MORE as PAG
from emag.testing.small_people import MORE as PEOPLE
from emag.testing.small_people import film
from emag.testing.small_qwen21 import MORE as QWEN_21
from emag.testing.small_sounds import MORE as SOUNDS
from emag.testing.small_told import MORE as TOLD
from emag.testing.small_unconditional import MORE as UNCONDITIONAL
from emag.testing.small_unet_more import MORE as UNET
from emag.testing.small_unet_video import MORE as FRAMED
from emag.testing.small_z_image import MORE as Z_IMAGE
from spy import changes, denoiser_of, network_outputs, scheduler_steps, snapshot

NETWORKS = IMAGES | FILMS | TOLD | MOVING | SOUNDS | COSMOS3 | OMNIGEN | QWEN_21 | {"consisid": PEOPLE["consisid"]}
"""Where the network has no other tests: laws about blocks are held at each of them."""
ADDED = KANDINSKY_2 | IF
"""Blocks are attention modules that see the text beside the image."""
CASES = (PAG | UNET | GIVEN | FOLLOWED | Z_IMAGE | NETWORKS | UNCONDITIONAL | ADDED | FRAMED | KANDINSKY_3 | CASCADE | KOLORS
         | PEOPLE | CHUNKS)
EACH = (*NETWORKS, "ddpm", "kandinsky", "kandinsky22", "if", "animatediff", "modelscope", "i2vgen", "svd", "latte",
        "kandinsky3", "cascade")
"""Those of which laws about blocks are held at each block."""
STEPS, WINDOW = 4, emag.Window.progress(0, 0.2, 0.95)
ONE = ("animatediff-control", "animatediff-sparse", "animatediff-film-control", "modelscope-film", "prx-cfg",
       "motif-video-image", "kandinsky5-video-image", "cosmos3")
"""Pipelines that make one thing a call, or mix the colours of those they make at once."""
BETWEEN = ("sd-edit", "sdxl-edit")
"""Pipelines that weigh a picture by rows of its own."""
ALL = pytest.mark.parametrize("name", CASES)
# diffusers' PAG classes are those of other pipelines with PAG in them: what is their own is held at once, the rest apart
MOST = pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in PAG)) for name in CASES])
STACKS = {name: BACKBONES[type(denoiser_of(case.pipe())).__name__].stacks for name, case in NETWORKS.items()}
JOINT = [name for name, stacks in STACKS.items() if "text" in stacks[0].tokens]


@cache
def built(name):
    """A small pipeline, its case, its network, and what it makes by itself."""
    case = CASES[name]
    pipe = case.pipe()
    network = read_network(denoisers(pipe, host_of(pipe))[0])
    return SimpleNamespace(case=case, pipe=pipe, network=network, host=host_of(pipe), plain=made(case, pipe))


def made(case, pipe, seeds=None, **more):
    seeds = seeds or ((8,) if case.name in ONE else (8, 9))
    return case.run(pipe, seeds, **{"num_inference_steps": STEPS, **more})


def weak(one, block=-1, **more):
    """EMAG at one block; where attention has no map, that block left out."""
    at = range(one.network.depth)[block]
    if one.network.blocks[at].stack.linear:
        return C["slg"](1.5, layers=(at and at - 1,))  # the last one left out is no evaluation at all
    return emag.EMAG(1.5, layers=(at,), window=WINDOW, **more)


def far(a, b):
    return float((a - b).norm() / b.norm())


@ALL
def test_it_acts_as_planned_and_leaves_nothing(name):
    one = built(name)
    before = snapshot(one.pipe)
    for variant in ("query", "map"):
        rule = weak(one, variant=variant)
        with counted(one.pipe) as rows, emag.guide(one.pipe, rule) as run:
            out = made(one.case, one.pipe)
        assert run.stats.evaluations == run.stats.planned == rows() / run.stats.images > run.stats.clean
        assert run.stats.effect > 1e-4 and out.isfinite().all() and far(out, one.plain) > 1e-4
    # an encoder of videos counts its calls, and some networks compute their frequencies anew in each
    left = [change for change in changes(before, snapshot(one.pipe), own=False) if not change.startswith("vae.")]
    assert set(left) <= {"transformer.rope._buffers[inv_freq]", "transformer.pos_embed.freqs"}
    assert torch.equal(made(one.case, one.pipe), one.plain)


@MOST
def test_a_rule_without_strength_changes_no_bit(name):
    one = built(name)
    with emag.guide(one.pipe, emag.EMAG(1.0, layers=(0,))):
        assert torch.equal(made(one.case, one.pipe), one.plain)


@MOST
def test_a_resumed_pass_is_the_whole_one(name):
    one = built(name)
    for block in range(0, one.network.depth, 1 + one.network.depth // 8) if name in EACH else (-1,):
        linear, outputs = one.network.blocks[block].stack.linear, []
        for whole in (False, True):
            rule = C["slg"](1.5, layers=(range(one.network.depth)[block],)) if linear else weak(
                one, block, compat=Compat(resume=not whole))
            with network_outputs(one.pipe) as seen, emag.guide(one.pipe, rule):
                made(one.case, one.pipe)
            outputs.append(seen)
        for resumed, full in zip(*outputs, strict=True):
            assert (resumed - full).abs().max() < 3e-4 * full.abs().max()


@pytest.mark.parametrize("name", [name for name in CASES if name not in ONE])
def test_an_image_is_the_same_alone(name):
    one = built(name)
    with emag.guide(one.pipe, weak(one)):
        both, alone = made(one.case, one.pipe), made(one.case, one.pipe, (9,))
    assert far(alone, both[len(both) // 2:]) < 1e-3


# Where tokens are


class Queries(TorchFunctionMode):
    """The queries of fused attention calls."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seen.append((kwargs or {}).get("query", args[0] if args else None))
        return func(*args, **(kwargs or {}))


def called(one, *modules):
    """The arguments that modules are called with first, in a run of one step."""
    seen = {}
    handles = [module.register_forward_pre_hook(lambda module, *call: seen.setdefault(module, call) and None,
                                                with_kwargs=True) for module in modules]
    made(one.case, one.pipe, num_inference_steps=1)
    for handle in handles:
        handle.remove()
    return [seen[module] for module in modules]


@pytest.mark.parametrize("name", JOINT)
@torch.no_grad()
def test_the_image_is_where_the_entry_says(name):
    """Another text at a block changes the queries of the text there, and none of the image's."""
    one = built(name)
    blocks = list({block.stack.name: block for block in one.network.blocks}.values())
    (args, kwargs), *calls = called(one, one.network.module, *(block.module for block in blocks))
    image = one.network.image_tokens(Arguments.bind(one.network, args, kwargs).values)
    for block, call in zip(blocks, calls, strict=True):
        streams = block.streams(*call)
        where, length = image_tokens(block, streams, image)
        parts, text = block.parted(streams, image), "text" if block.merged else block.stack.streams[1]
        queries = []
        for one_call in (call, block.with_streams(*call, block.joined({**parts, text: parts[text].flip(-1)}))):
            with Queries() as mode:
                block.module(*one_call[0], **one_call[1])
            queries.append(mode.seen[-1 if block.stack.apart else 0])  # the text's come before
        changed = (queries[0] != queries[1]).any(-1).flatten(0, 1).any(0)  # by token
        assert len(changed) == length and not changed[where].any() and changed.sum() == length - image


@pytest.mark.parametrize(("name", "text"), [
    ("cosmos3", {"prompt": "a" * (2 * 3 * 4 - 2), "negative_prompt": "b"}),
    ("qwen-2.1", {"prompt_embeds": torch.randn(2, 16, 12, generator=torch.Generator().manual_seed(0)),
                  "prompt_embeds_mask": None})])
def test_a_text_as_long_as_the_picture_is_not_taken_for_it(name, text):
    """Two calls of as many queries: the text's own is let through."""
    one = built(name)
    with emag.guide(one.pipe, C["pag"](1.5, layers=(1,))) as run:
        one.case.run(one.pipe, **text, num_inference_steps=2)
    assert run.stats.evaluations == run.stats.planned and run.stats.effect > 1e-4


def test_a_sound_beside_the_picture_is_refused():
    one = built("cosmos3")
    with emag.guide(one.pipe, C["pag"](1.5, layers=(1,))), pytest.raises(emag.Unsupported, match="its sound is not served"):
        one.case.run(one.pipe, enable_sound=True)


# What the scheduler gets


def _frames(pred):
    return pred[:, :, 1:]  # the first one is given


def _first_half(pred):
    return pred[:, :pred.shape[1] // 2]  # the rest is a variance, the conditional one


def _frame_by_frame(pred):
    return pred.transpose(1, 2).flatten(0, 1)


HANDED = {"hunyuan-video-frame": _frames, "ltx-condition": torch.neg, "longcat-audio": torch.neg, "omnigen": torch.neg,
          "qwen-2.1": lambda pred: pred[:, -16:],
          "sana-video-image": _frames, "kandinsky5-video-image": lambda pred: pred[:, 1:], "unclip": _first_half,
          "unclip-variation": _first_half,
          "cosmos3": lambda pred: pred[None],
          **dict.fromkeys(("modelscope", "modelscope-film", "i2vgen"), _frame_by_frame)}
"""What pipelines do to a combined prediction on its way to the scheduler."""
PARTLY = ("lumina",)
"""Pipelines that combine some of the channels, and leave the others conditional; we combine all."""
CONVERTED = ("ltx-2-condition", "ltx-2-in-context", "ltx-2-hdr", "cosmos-2-image", "cosmos-2-video", "kandinsky6")
"""Pipelines that combine in another space, so that what they hand on is ours to rounding alone in the end; or copy their
scheduler for a sound."""


OTHERWISE = ("nucleus", "ace-step")
"""Pipelines that combine in another way: they bring the result to the conditional norm, or project."""


def parts(one, raw, effect):
    """The conditional, weak and unconditional predictions of a step, taken from those the network made."""
    first = raw.pop(0)
    weak = raw.pop(0) if effect is not None else None
    if not one.host.doubled:
        return first, weak, raw.pop(0)
    kinds = one.host.layout.split("-")
    found = dict(zip(kinds, first.chunk(len(kinds)), strict=True))
    return found["pos"], weak, found["neg"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.uncond and name not in CONVERTED])
def test_the_scheduler_gets_exactly_ours(name):
    one = built(name)
    with network_outputs(one.pipe) as raw, scheduler_steps(one.pipe) as given:
        with emag.guide(one.pipe, weak(one), emag.CFG(3.0)) as run:
            made(one.case, one.pipe)
    sign = -1 if one.network.backbone.negated else 1
    for effect, got in zip(run.stats.effects, given, strict=True):
        cond, pushed, uncond = parts(one, raw, effect)
        pred = cond if pushed is None else cond + 0.5 * (cond - pushed)
        expected = sign * HANDED.get(name, lambda pred: pred)(uncond + 3.0 * (pred - uncond))
        assert far(got[:, :expected.shape[1]], expected[:, :got.shape[1]]) < 1e-5
    assert raw == []


@pytest.mark.parametrize("name", BETWEEN)
def test_a_picture_is_weighed_by_the_host(name):
    """u + s (i - u) + w (c - i), with our c; where a rule combines, what is between says nothing."""
    one = built(name)
    with network_outputs(one.pipe) as raw, scheduler_steps(one.pipe) as given:
        with emag.guide(one.pipe, weak(one)) as run:
            made(one.case, one.pipe, image_guidance_scale=1.5, guidance_scale=4.0)
    kinds = one.host.layout.split("-")
    for effect, got in zip(run.stats.effects, given, strict=True):
        found = dict(zip(kinds, raw.pop(0).chunk(3), strict=True))
        cond, between, uncond = (found[kind] for kind in ("pos", "between", "neg"))
        ours = cond if effect is None else cond + 0.5 * (cond - raw.pop(0))
        assert far(got, uncond + 1.5 * (between - uncond) + 4.0 * (ours - between)) < 1e-5
    with pytest.raises(emag.Unsupported, match="by rows of its own"), emag.guide(one.pipe, emag.AG()):
        made(one.case, one.pipe)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.uncond and name not in (*PARTLY, *OTHERWISE)])
def test_our_cfg_is_the_pipelines_own(name):
    one = built(name)
    case, host = one.case, one.host
    if host.guider:
        own, pipe = made(case, case.pipe(scale=3.0)), case.pipe(scale=7.0)
        more = {}
    else:
        own, pipe = made(case, one.pipe, **{case.scale: 3.0 - host.as_cfg(0.0)}), one.pipe
        # what else a network makes is combined by the pipeline, at the scale it is given
        more = {case.scale: 3.0 - host.as_cfg(0.0) if one.network.backbone.paired else 7.0}
    with emag.guide(pipe, emag.CFG(3.0)):
        ours = made(case, pipe, **more)
    assert far(ours, own) < 1e-3 < far(ours, one.plain)


# Answers in parts


def alike(pipe, monkeypatch):
    """Both segments of a video begin with the same noise, and with nothing before them."""
    noise, before = pipe.prepare_latents, pipe.prepare_prev_segment_cond_latents
    first = []

    def prepare_latents(*args, **kwargs):
        first.append(noise(*args, **kwargs))
        return first[0].clone()

    monkeypatch.setattr(pipe, "prepare_latents", prepare_latents)
    monkeypatch.setattr(pipe, "prepare_prev_segment_cond_latents",
                        lambda video, **kwargs: before(None, **{**kwargs, "start_frame": 0}))


def test_each_part_of_an_answer_is_guided_as_if_it_were_the_first(monkeypatch):
    """Two equal segments: averages, momentum and what is spared begin afresh in the second."""
    one = built("wan-animate")
    alike(one.pipe, monkeypatch)
    still = {"pose_video": film(600, 32)[:1] * 9, "face_video": film(650, 8)[:1] * 9}
    rules = emag.EMAG(1.5, layers=(1, 2), window=WINDOW), emag.APG(3.0, norm_threshold=0.0, momentum=-0.5)
    with scheduler_steps(one.pipe) as given, emag.guide(one.pipe, *rules) as run:
        made(one.case, one.pipe, **still)
    assert run.stats.steps == 2 * STEPS == len(given) and run.stats.evaluations == run.stats.planned
    for first, second in zip(given[:STEPS], given[STEPS:], strict=True):
        assert torch.equal(first, second)


def animated(frames, length, shared):
    return {"pose_video": film(600, 32, frames), "face_video": film(600, 8, frames), "segment_frame_length": length,
            "prev_segment_conditioning_frames": shared}


def transferred(frames, length, shared):
    return {"controls": film(600, 32, frames), "num_frames_per_chunk": length, "num_ar_conditional_frames": shared}


@pytest.mark.parametrize(("name", "told"), [
    *(("wan-animate", animated(*sizes)) for sizes in [(3, 5, 1), (5, 5, 1), (6, 6, 1), (20, 13, 5)]),
    *(("cosmos-transfer", transferred(*sizes)) for sizes in [(3, 5, 0), (6, 5, 1), (9, 3, 1)]),
    ("cosmos-transfer", {**transferred(12, 5, None), "num_ar_latent_conditional_frames": 1, "num_frames": 7})])
def test_parts_are_as_many_as_the_pipeline_makes(name, told):
    one = built(name)
    with scheduler_steps(one.pipe) as given, emag.guide(one.pipe, weak(one)) as run:
        made(one.case, one.pipe, (8,), num_inference_steps=2, guidance_scale=1.0, **told)
    assert run.stats.steps == len(given) and run.stats.evaluations == run.stats.planned


def test_a_condition_beside_pictures_is_changed_alone():
    """The network is given (text, pictures): a rule on the condition, and another condition, take the text's place."""
    one = built("cosmos-transfer")
    other = {"other": {"encoder_hidden_states": torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(0))}}
    for rule, more in ((emag.CADS(), {}), (Compose("uncond", (Term(3.0, "cond", "other"),)), other)):
        with emag.guide(one.pipe, rule, conditions=more) as run:
            assert far(made(one.case, one.pipe), one.plain) > 1e-4
        assert run.stats.evaluations == run.stats.planned
