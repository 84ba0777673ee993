"""What docs/comfy.md says of errors: each is raised, and its text found on the page; no row is without its error."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_apg, nodes_custom_sampler, nodes_easycache, nodes_model_advanced, nodes_sag

import pack
from emag.errors import EmagError
from emag.hosts.comfy.patch import patched
from emag.records.graph import guidance_rules
from smallcomfy import SMALL, build, prompt, sample

SECTION = (Path(__file__).parents[2] / "docs" / "comfy.md").read_text().split("## What it says")[1].split("\n## ")[0]
TEXTS = [text for row in re.findall(r"^\| (`.+?`) \|", SECTION, re.M) for text in re.findall("`([^`]+)`", row)]
WINDOW = "window=progress:0:0.2:0.8"
EMAG = f"emag=1.5,layers=1-2,{WINDOW}"
made = functools.cache(lambda name: build(SMALL[name]))


def run(rules: str, name: str = "sd3", node: Callable[[Any], Any] = lambda model: model, **more: Any) -> None:
    """A sampler's run under rules, beside another node."""
    sample(patched(node(made(name)), guidance_rules(rules)), SMALL[name], **more)


def first(out: Any) -> Any:
    return out.args[0] if hasattr(out, "args") else out[0]


def under(guider: type, *conds: Any, rules: str = EMAG, cfg: tuple[float, ...] = ()) -> None:
    """A run by a guider of ComfyUI's."""
    small, one = SMALL["sd3"], guider(patched(made("sd3"), guidance_rules(rules)))
    one.set_conds(*conds)
    if cfg:
        one.set_cfg(*cfg)
    sigmas = comfy.samplers.calculate_sigmas(made("sd3").get_model_object("model_sampling"), "simple", 6)
    one.sample(torch.ones(small.shape), torch.zeros(small.shape), comfy.samplers.sampler_object("euler"), sigmas, seed=1,
               disable_pbar=True)


def in_parts(model: Any) -> Any:
    clone = model.clone()
    clone.model_options["context_handler"] = object()
    return clone


def in_tiles(model: Any) -> Any:
    """A model whose network another node calls for each half of the picture."""
    clone = model.clone()
    clone.set_model_unet_function_wrapper(lambda apply, call: torch.cat(
        [apply(half, call["timestep"], **call["c"]) for half in call["input"].chunk(2, -1)], -1))
    return clone


def answered(model: Any) -> Any:
    """A model whose last steps another node answers."""
    clone, kept = model.clone(), []

    def answer(executor: Any, *args: Any, **kwargs: Any) -> Any:
        kept.append(executor(*args, **kwargs) if len(kept) < 4 else kept[-1])
        return kept[-1]

    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "memory", answer)
    return clone


def edited() -> None:
    small = SMALL["flux"]
    positive = [[text, {**more, "reference_latents": [torch.zeros(small.shape)]}] for text, more in prompt(small, 2)]
    run(f"emag=1.5,layers=1,{WINDOW}", "flux", positive=positive)


def unknown() -> None:
    clone = made("sd3").clone()
    clone.model = torch.nn.Module()
    clone.model.diffusion_model = torch.nn.Linear(1, 1)
    patched(clone, guidance_rules(EMAG))


def broken() -> None:
    text, more = prompt(SMALL["sd3"], 2)[0]
    run(EMAG, positive=[[text * float("nan"), more]])


def unreported() -> None:
    pack.load()
    _, errors = pack.run(pack.executor(), pack.graph(pack.emag(scale=1.0), report=True), ["5"])
    raise ValueError(errors[0]["exception_message"].strip())


CONDS: list[Any] = [prompt(SMALL["sd3"], seed) for seed in (2, 3, 4)]
ERRORS: dict[str, Callable[[], None]] = {
    "few steps": lambda: run(EMAG, steps=1),
    "no such block": lambda: run("pag=1.5,layers=30"),
    "no such model": unknown,
    "after without cfg": lambda: run("rescale=0.7"),
    "two combine": lambda: run("apg=4", node=lambda m: nodes_model_advanced.RescaleCFG().patch(m, 0.7)[0]),
    "before cfg": lambda: run("apg=4", node=lambda m: first(nodes_apg.APG.execute(m, 1.0, 5.0, 0.0))),
    "one prompt": lambda: under(nodes_custom_sampler.Guider_Basic, CONDS[0], rules="apg=4"),
    "nobody reads it": lambda: run("tcfg", cfg=1.0),
    "cfg++ elsewhere": lambda: run("cfg=cfg++:0.6", sampler="euler_ancestral"),
    "cfg 0": lambda: run(EMAG, cfg=0.0),
    "no negative": lambda: under(nodes_custom_sampler.Guider_Basic, CONDS[0], rules="tcfg"),
    "three prompts": lambda: under(nodes_custom_sampler.Guider_DualCFG, *CONDS, cfg=(3.0, 2.0)),
    "a negative text": lambda: run("nag=5,layers=1"),
    "a condition": lambda: run("negative=1.5,negative=other"),
    "a cache": lambda: run("pag=1.5,layers=1", "sdxl",
                           lambda m: first(nodes_easycache.EasyCacheNode.execute(m, 0.5, 0.1, 0.9, False))),
    "an unknown cache": lambda: run(EMAG, node=answered),
    "in parts": lambda: run(EMAG, node=in_parts),
    "in tiles": lambda: run(EMAG, node=in_tiles),
    "sag": lambda: run(EMAG, "sdxl", lambda m: first(nodes_sag.SelfAttentionGuidance.execute(m, 0.5, 2.0))),
    "references": edited,
    "not finite": broken,
    "no report": unreported,
}


def rows_of(text: str) -> list[str]:
    """The texts of the page that an error is one of."""
    return [row for row in TEXTS if re.search(".*".join(map(re.escape, row.split("…"))), text)]


@functools.cache
def told(name: str) -> str:
    with pytest.raises((EmagError, ValueError)) as caught:  # what is matched is the page
        ERRORS[name]()
    return str(caught.value)


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_is_on_the_page(name: str) -> None:
    assert len(rows_of(told(name))) == 1, told(name)


def test_no_row_is_without_its_error() -> None:
    assert len(TEXTS) > 10
    assert set(TEXTS) == {row for name in ERRORS for row in rows_of(told(name))}
