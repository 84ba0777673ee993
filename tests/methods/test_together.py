"""Features that have tests of their own, at work together: texts of different lengths, reference images, two experts, U-Nets
and control, two calls a step; several weak branches, a strong one, rules on the condition and on what is unconditional."""

from dataclasses import dataclass, replace

import pytest
import torch

import emag
from adapters import with_flux_adapter
from emag.engine import blocks
from emag.engine.reading import read_network
from emag.hosts.lookup import denoisers, host_of
from emag.methods import METHODS as C
from emag.methods.combining.compose import Compose, Term
from emag.methods.emag.rule import EMAttention
from emag.methods.weak.pag import IdentityAttention
from emag.methods.weak.seg import SmoothedQueries
from emag.methods.weak.slg import Skipped
from emag.methods.weak.tpg import Shuffled
from emag.testing.cases import every
from tiny import noise

pytestmark = pytest.mark.sampled(2)

STEPS = 5
WINDOW = emag.Window.progress(0, 0.2, 0.95)
CASES = every()


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 3), "window": WINDOW, "variant": "map", **more})


@dataclass(frozen=True)
class Mix:
    """Rules that meet on one small pipeline. text: shape of a further condition "other"; guess: a plan is an upper bound."""

    case: str
    rules: tuple
    text: tuple[int, ...] = ()
    guess: bool = False


OTHER = Compose("uncond", (Term(1.5, "other"), Term(2.0, "cond")))
PAG, SEG = C["pag"](1.3, layers=(2,)), C["seg"](1.3, layers=(2,), sigma=1.0)
MIXES = [
    Mix("lumina2", (emag.CADS(0.5, 0.1, 0.9, 0.5), EMAG(), PAG, SEG)),  # PAG and SEG share a pass
    Mix("krea2", (C["s2"](1.3), EMAG(), C["cfg-cache"](every=2, radius=0.5), emag.CFG(3.0))),
    Mix("hidream", (C["slg"](1.3, layers=(2,)), C["tpg"](1.2, layers=(1,)), C["tcfg"](), emag.APG(3.0, 0.2, 5.0, -0.5))),
    Mix("z-image", (EMAG(variant="query"), C["slg"](1.2, layers=(3,)), C["pladis"](2.0, layers=(1,)))),
    Mix("qwen-edit", (C["nag"](4.0, layers=(1, 2), negative="other"), EMAG(), PAG), (1, 9, 12)),
    Mix("kontext-cfg", (EMAG(), PAG, SEG, emag.APG(3.0, 0.2, 5.0, -0.5))),
    Mix("klein-edit", (C["ag"](0.5), EMAG(), C["tsg"](1.2), emag.CFG(3.0)), guess=True),
    Mix("wan-experts", (EMAG(), PAG, C["cfg-cache"](every=3, radius=0.5), OTHER), (1, 7, 12)),
    Mix("wan-experts", (C["ag"](0.5), C["s2"](1.3), emag.APG(3.0, 0.2, 5.0, -0.5)), guess=True),
    Mix("sdxl-control", (EMAG(layers=(1, 5)), C["pag"](1.3, layers=(2, 6)), C["slg"](1.2, layers=(5,)), emag.CFG(3.0))),
    Mix("ltx-2", (EMAG(), C["tpg"](1.2, layers=(1,)), emag.CADS(0.5, 0.1, 0.9, 0.5), emag.APG(3.0, 0.2, 5.0, -0.5))),
    Mix("mochi", (EMAG(), PAG, SEG, C["zero-star"]())),
]


def mixes(*names, without=()):
    kept = [mix for mix in MIXES if mix.case in (names or CASES) and mix.case not in without]
    return pytest.mark.parametrize("mix", kept, ids=lambda mix: "-".join([mix.case, *(rule.name for rule in mix.rules)]))


def double(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(double, value))
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def precise(name):
    """A case in double precision and a pipeline of it: random networks make much of rounding. (Predictions are fp32.)"""
    case = CASES[name]
    return replace(case, call=lambda seeds=(8, 9), **more: {n: double(v) for n, v in case.call(
        seeds, **{"num_inference_steps": STEPS, **more}).items()}), case.pipe().to(torch.float64)


def other(mix):
    if not mix.text:
        return {}
    mask = {"encoder_hidden_states_mask": torch.ones(mix.text[:2])} if mix.case.startswith("qwen") else {}
    return {"other": {"encoder_hidden_states": noise(70, *mix.text).double(), **mask}}


def blocks_of(pipe):
    return [block for network in denoisers(pipe, host_of(pipe)) for block in read_network(network).blocks]


def counted(pipe):
    """Rows that all blocks evaluate, counted from outside."""
    rows = []
    for block in blocks_of(pipe):
        block.module.register_forward_pre_hook(
            lambda module, args, kwargs, block=block: rows.append(len(next(iter(block.streams(args, kwargs).values())))),
            with_kwargs=True)
    return rows


def far(made, expected):
    return float((made - expected).abs().max() / expected.abs().max())


@mixes()
def test_an_image_is_the_same_alone_at_the_cost_that_was_planned(mix):
    case, pipe = precise(mix.case)
    rows = counted(pipe)
    with emag.guide(pipe, *mix.rules, conditions=other(mix)) as run:
        both = case.run(pipe)
        assert run.stats.evaluations == sum(rows) / 2
        assert run.stats.evaluations <= run.stats.planned if mix.guess else run.stats.evaluations == run.stats.planned
        assert far(torch.cat([case.run(pipe, (seed,)) for seed in (8, 9)]), both) < 1e-4
    assert far(case.run(pipe), both) > 1e-2


@mixes(without=("klein-edit", "mochi"))
def test_resumed_passes_are_the_full_ones(mix, monkeypatch):
    case, pipe = precise(mix.case)
    with emag.guide(pipe, *mix.rules, conditions=other(mix)) as run:
        resumed, evaluations = case.run(pipe), run.stats.evaluations
    for kind in (EMAttention, IdentityAttention, Shuffled, Skipped, SmoothedQueries):
        monkeypatch.setattr(kind, "resume", 0)
    with emag.guide(pipe, *mix.rules, conditions=other(mix)) as run:
        assert far(case.run(pipe), resumed) < 1e-4
        assert run.stats.evaluations > evaluations or any(rule.name == "s2" for rule in mix.rules)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [2, 5])
@mixes("lumina2", "qwen-edit", "wan-experts", "sdxl-control")
def test_a_run_after_one_that_broke_off_is_as_if_there_had_been_none(mix, at):
    case, pipe = precise(mix.case)
    plain, calls = case.run(pipe), []

    def stop(*args):
        calls.append(args)
        if len(calls) == at:
            raise Stop

    with emag.guide(pipe, *mix.rules, conditions=other(mix)):
        first = case.run(pipe)
        case.run(pipe, (5,))
        hook = blocks_of(pipe)[2].module.register_forward_pre_hook(stop)
        with pytest.raises(Stop):
            case.run(pipe)
        hook.remove()
        assert torch.equal(case.run(pipe), first)
    assert torch.equal(case.run(pipe), plain)


def test_wrappers_of_a_run_before_serve_the_same_branches_alone():
    network = read_network(CASES["sd3"].pipe().transformer)
    made = blocks.blocks_of(network, [Skipped((1,))])
    assert blocks.blocks_of(network, [Skipped((1,))], made) is made
    other = blocks.blocks_of(network, [Skipped((2,))], made)
    assert other is not made and other.wanted.changed == {2}


@torch.no_grad()
def test_an_ip_adapter_beside_a_reference_image():
    case, pipe = precise("kontext-cfg")
    with_flux_adapter(pipe)
    pipe.to(torch.float64)
    pictures = {"ip_adapter_image_embeds": [noise(710, 1, 1, 6)], "negative_ip_adapter_image_embeds": [noise(700, 1, 1, 6)]}
    with emag.guide(pipe, EMAG(layers=(0, 1, 3)), C["pag"](1.3, layers=(1,)), C["tpg"](1.2, layers=(1,))) as run:
        both = case.run(pipe, **pictures)
        assert run.stats.evaluations == run.stats.planned
        assert far(torch.cat([case.run(pipe, (seed,), **pictures) for seed in (8, 9)]), both) < 1e-4
    assert far(case.run(pipe, **pictures), both) > 1e-3
