"""docs/troubleshooting.md: each error is raised, and its text found on the page; no row of it is without its error."""

import functools
import re
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, HookRegistry, apply_first_block_cache
from diffusers.hooks.context_parallel import ContextParallelSplitHook

import emag
from emag.records import recipe
from emag.testing.small import CASES, sd3
from emag.testing.small_separate import MORE

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
ROWS = re.findall(r"^\| `([^`]+)` \|", PAGE, re.M)
WINDOW = emag.Window.progress(0, 0.2, 0.9)
LEVELS = [1.0, 0.5, 0.0]


def weak(**more):
    return emag.EMAG(1.5, **{"layers": (1, 2), "window": WINDOW, **more})


def run(case, *rules, prepare=lambda pipe: None, **call):
    pipe = case.pipe()
    prepare(pipe)
    with emag.guide(pipe, *rules):
        case.run(pipe, **call)


def denoise(x, t, condition):
    return x


def no_queries(pipe):
    """All image queries alike, at every step: their average is what they are."""
    for block in pipe.transformer.transformer_blocks:
        block.attn.to_q.weight.data.zero_()
        block.attn.to_q.bias.data.zero_()


def compiled(pipe):
    pipe.transformer = torch.compile(pipe.transformer, backend="eager", fullgraph=True)


def in_groups(pipe):
    how = {"offload_type": "block_level", "num_blocks_per_group": 2}
    pipe.transformer.enable_group_offload(onload_device=torch.device("cpu"), **how)


def cached(pipe):
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(0.1))


def split(pipe):
    registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer.transformer_blocks[0])
    registry.register_hook(ContextParallelSplitHook({}, SimpleNamespace(ring_degree=2)), "split")


def nested():
    pipe = sd3()
    with emag.guide(pipe, weak()), emag.guide(pipe, weak()):
        pass


class Unknown(diffusers.DiffusionPipeline):
    def __init__(self):
        super().__init__()


SD3, FLUX = CASES["sd3"], CASES["flux"]
ERRORS = {
    "no effect": lambda: run(SD3, weak(), prepare=no_queries),
    "few steps": lambda: run(SD3, emag.EMAG(1.5, layers=(1, 2)), num_inference_steps=1),
    "save": lambda: emag.guide(sd3(), weak()).save([], "out"),
    "no rule": lambda: emag.guide(sd3(), 1.5),
    "a list of rules": lambda: emag.guide(sd3(), [weak()]),
    "two combine": lambda: emag.guide(sd3(), emag.CFG(3.0), emag.APG(3.0)),
    "no unconditional rows": lambda: run(SD3, emag.CFG(3.0), guidance_scale=1.0),
    "distilled": lambda: run(FLUX, emag.CFG(3.0)),
    "after what": lambda: run(SD3, emag.Rescale(0.7)),
    "order": lambda: emag.guide(sd3(), emag.Rescale(0.7), emag.CFG(3.0)),
    "one call": lambda: run(FLUX, emag.NAG(2.0, layers=(1,))),
    "corrector": lambda: emag.guide(sd3(), emag.PCG()),
    "second network": lambda: run(SD3, emag.Autoguidance(1.5)),
    "no LoRA": lambda: run(SD3, emag.Autoguidance(1.5, model="lora:0.5")),
    "function": lambda: emag.guided(denoise, weak(), path=LEVELS),
    "conditions": lambda: emag.guided(denoise, emag.CFG(2.0), path=LEVELS),
    "path": lambda: emag.guided(denoise, emag.CFG(2.0), path=LEVELS, prediction="epsilon", conditions={"uncond": 0}),
    "pipeline": lambda: emag.guide(Unknown(), weak()),
    "network": lambda: emag.guided(denoise, weak(), path=LEVELS, backbone=torch.nn.Identity()),
    "layers": lambda: emag.guide(sd3(), emag.EMAG(1.5, layers=(9,))),
    "linear": lambda: run(MORE["sana"], emag.EMAG(1.5, layers=(1,))),
    "nested": nested,
    "cache": lambda: run(SD3, weak(), prepare=cached),
    "groups": lambda: run(SD3, weak(), prepare=in_groups),
    "split": lambda: run(SD3, weak(), prepare=split),
    "compiled": lambda: run(SD3, weak(), prepare=compiled),
    "finite": lambda: run(SD3, weak(), prepare=lambda pipe: pipe.transformer.proj_out.weight.data.fill_(float("nan"))),
    "scale": lambda: emag.EMAG(-1),
    "infinite": lambda: emag.EMAG(float("inf")),
    "one block": lambda: emag.PAG(2.0, layers=3),
    "maps": lambda: emag.EMAG(1.5, maps="scaled8"),
    "method": lambda: emag.method("pgc"),
    "parameter": lambda: recipe.parse("emag=1.5,varient=map"),
    "recipe": lambda: emag.recipes["emag+agp"],
    "class": lambda: emag.load("tiny")("a photo of a lighthouse"),
    "model": lambda: emag.load("tny"),
    "LoRA": lambda: emag.load("tiny", lora="style.bin"),
    "offload": lambda: emag.load("tiny", offload="model"),
    "device": lambda: emag.load("tiny", device="cuda"),
    "hub": lambda: emag.load("nobody/nothing"),
}
NEED_NO_GPU = ("offload", "device")


def pattern(row):
    return ".*".join(map(re.escape, row.split("…")))


def rows_of(text):
    """The rows of the page that a message is one of; a general one gives way to one that says more."""
    found = [row for row in ROWS if re.match(pattern(row), text, re.S)]
    return [row for row in found if not any(len(row) < len(other) for other in found)]


def message(raises):
    with pytest.raises(emag.EmagError) as caught:
        raises()
    return str(caught.value)


@functools.cache
def told(name):
    return message(ERRORS[name])


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.filterwarnings("ignore:emag.guide")
@pytest.mark.parametrize("name", ERRORS)
def test_each_error_is_on_the_page(name):
    if name in NEED_NO_GPU and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert len(rows_of(told(name))) == 1 and "\n" not in told(name), told(name)


@pytest.mark.filterwarnings("ignore:emag.guide")
def test_no_row_is_without_its_error(tmp_path):
    texts = [told(name) for name in ERRORS if name not in NEED_NO_GPU or not torch.cuda.is_available()]
    texts.append(message(lambda: emag.load(tmp_path)))
    with pytest.warns(RuntimeWarning, match="never entered") as warned:
        emag.guide(sd3(), weak())
    texts += [str(one.message) for one in warned]
    left = set(ROWS) - {row for text in texts for row in rows_of(text)}
    assert len(ROWS) == len(set(ROWS)) and (left == set() or torch.cuda.is_available()), left
