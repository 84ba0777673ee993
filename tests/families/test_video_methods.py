"""Other methods on video networks, sizes and dtypes."""

import pytest
import torch

import emag
from cases import EMAG
from emag.engine.reading import read_network
from emag.methods import METHODS
from emag.testing.small_video import texts
from spy import attribute
from video import ALL, LAYERS, MORE, STEPS, WITH_UNCOND, Counted, close, made

pytestmark = pytest.mark.sampled(2)

WIDTH = {"mochi": 16}  # of the text features, 12 elsewhere


# other methods


ACTING = {
    "pag": METHODS["pag"](1.5, LAYERS), "slg": METHODS["slg"](1.5, (2,)), "seg": METHODS["seg"](1.5, LAYERS, 1.0),
    "stg": METHODS["stg"](1.5, (1,), "attention"), "tpg": METHODS["tpg"](1.2, LAYERS), "tsg": METHODS["tsg"](1.5),
    "ag": METHODS["ag"](0.5), "apg": emag.APG(3.0, norm_threshold=2.5, momentum=-0.5), "tcfg": METHODS["tcfg"](),
    "fdg": METHODS["fdg"]((4.0, 3.0)),
}


@ALL
@pytest.mark.parametrize("name", ACTING)
def test_methods_act_as_planned_or_say_why_not(case, name):
    rule, pipe = ACTING[name], case.pipe()
    if not case.uncond and rule.kind in ("combining", "null"):
        with pytest.raises(emag.BadValue, match="uncond"):
            made(case, rule)
        return
    plain = case.run(pipe)
    counted = Counted(pipe)
    with emag.guide(pipe, rule) as run:
        out = case.run(pipe)
    assert out.isfinite().all() and (out - plain).abs().max() > 1e-4 * plain.abs().max()
    assert run.stats.evaluations == counted.per_image(2) <= run.stats.planned
    assert name == "ag" or run.stats.evaluations == run.stats.planned


@ALL
@pytest.mark.parametrize("block", [1, 3])
def test_a_skipped_block_hands_its_streams_on(case, block):
    """The weak answers of SLG are those of a network in which the block returns what it got, in its own order."""
    pipe, seen = case.pipe(), []
    original = pipe.transformer.forward

    def forward(**kwargs):
        seen.append((kwargs, original(**kwargs)[0].clone()))
        return (seen[-1][1],)

    with attribute(pipe.transformer, "forward", forward), emag.guide(pipe, METHODS["slg"](1.5, (block,))) as run:
        case.run(pipe, num_inference_steps=3)
    period = 3 if case.uncond and not run.host.doubled else 2
    read_network(pipe.transformer).blocks[block].module.register_forward_hook(handed_on, with_kwargs=True)
    for kwargs, answer in seen[1::period]:
        close(original(**kwargs)[0], answer)


def handed_on(module, args, kwargs, output):
    given = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.ndim == 3]
    if isinstance(output, torch.Tensor):
        return given[0]
    return tuple(next(x for x in given if x.shape == one.shape) for one in output)


@pytest.mark.parametrize("name", ["wan", "ltx"])
def test_cross_attention_can_be_changed(name):
    case = MORE[name]
    plain = case.run(case.pipe())
    out, run = made(case, METHODS["pladis"](2.0, layers=LAYERS, cross=True))
    assert run.stats.evaluations == STEPS * 8 and (out - plain).abs().max() > 1e-4 * plain.abs().max()


@pytest.mark.parametrize("name", ["ltx", "cogvideox", "mochi"])
def test_another_network_gets_its_arguments_and_is_read_as_the_own_one(name):
    """A second network of the same weights predicts the same, so nothing differs; one of others does."""
    case, pipe = MORE[name], MORE[name].pipe()
    with pytest.raises(emag.NoEffect, match="what the pipeline's own does"):
        with emag.guide(pipe, METHODS["autoguidance"](2.0), models={"guide": case.pipe().transformer}):
            case.run(pipe)
    with emag.guide(pipe, METHODS["autoguidance"](1.2), models={"guide": case.pipe(seed=1).transformer}) as run:
        assert case.run(pipe).isfinite().all() and run.stats.effect > 0


@ALL
def test_sag_is_for_images(case):
    with pytest.raises(emag.Unsupported, match="sag cannot place"):
        made(case, METHODS["sag"](1.5, LAYERS, kernel=3))


@WITH_UNCOND
def test_the_cfg_cache_spares_evaluations(case):
    _, run = made(case, METHODS["cfg-cache"](every=2, below=2.0))
    assert run.stats.evaluations < STEPS * 4 * 2


@pytest.mark.parametrize("case", [case for case in MORE.values() if case.name != "hunyuan-video"],
                         ids=lambda case: case.name)
def test_another_negative_can_be_named(case):
    embeds = {"encoder_hidden_states": texts((5,), 700, 5, WIDTH.get(case.name, 12))}
    if "hunyuan" in case.name:
        embeds["pooled_projections"] = texts((5,), 750, 10)
    pipe = case.pipe()
    with emag.guide(pipe, METHODS["negative"](1.5, "blur"), conditions={"blur": embeds}) as run:
        out = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == STEPS * 4 * 3 and not torch.equal(out, case.run(pipe))


# sizes and dtypes


@ALL
@pytest.mark.parametrize("more", [{"height": 96, "width": 160, "num_frames": 17}, {"num_frames": 1}],
                         ids=["wide", "one frame"])
def test_other_sizes(case, more):
    if case.name == "cogvideox-1.5" and more["num_frames"] == 1:
        more = {"num_frames": 5}  # its patches are two frames deep
    rules = (EMAG(1.2), METHODS["seg"](1.2, (1,), 1.0))
    out, run = made(case, *rules, seeds=(8,), num_inference_steps=4, **more)
    assert out.isfinite().all() and run.stats.evaluations == run.stats.planned


@ALL
def test_bfloat16_stays_finite(case):
    pipe = case.pipe().to(torch.bfloat16)
    call = {k: v.bfloat16() for k, v in case.call().items() if isinstance(v, torch.Tensor) and v.is_floating_point()
            and "mask" not in k}
    with emag.guide(pipe, EMAG(1.2)) as run:
        out = case.run(pipe, **call)
    assert out.isfinite().all() and run.stats.effect > 0
