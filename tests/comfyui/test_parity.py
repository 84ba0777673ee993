"""The same weights, noise and noise levels give the same guided latents in diffusers and in ComfyUI."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import emag
import parity
import trained
from emag.hosts.comfy.patch import patched

WINDOW = emag.Window.progress(0, 0.25, 0.9)
RULES = {
    "plain": (),
    "emag-query": (emag.EMAG(1.5, layers=(1, 2), window=WINDOW, beta=0.7),),
    "emag-map": (emag.EMAG(1.5, "map", layers=(1, 2), window=WINDOW, beta=0.7),),
    "pag": (emag.PAG(1.8, layers=(1,)),),
    "seg": (emag.SEG(1.8, layers=(1,)),),
    "slg": (emag.SLG(1.8, layers=(2,)),),
    "emag, apg": (emag.EMAG(1.5, layers=(1, 2), window=WINDOW, beta=0.7), emag.APG(4.0)),
    "cads": (emag.CADS(0.2, tau1=0.3, tau2=0.8, psi=1.0), emag.EMAG(1.5, layers=(1, 2), window=WINDOW, beta=0.7)),
    "cfg, pag": (emag.CFG(4.0), emag.PAG(1.8, layers=(1,))),
}


def under(model: Any, name: str) -> Any:
    return patched(model, RULES[name]) if RULES[name] else model


@contextmanager
def evaluated(blocks: Any) -> Iterator[Counter[tuple[int, int]]]:
    """How often each block is called with how many rows, seen by hooks from outside."""
    found: Counter[tuple[int, int]] = Counter()

    def see(at: int, args: Any, kwargs: Any) -> None:
        found[at, next(len(one) for one in (*args, *kwargs.values()) if torch.is_tensor(one) and one.ndim == 3)] += 1

    hooks = [block.register_forward_pre_hook(lambda _, args, kwargs, at=at: see(at, args, kwargs), with_kwargs=True)
             for at, block in enumerate(blocks)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="module")
def sd3() -> tuple[Any, Any]:
    pipe = parity.sd3()
    return pipe, parity.converted(pipe.transformer)


@pytest.mark.parametrize("name", RULES)
def test_sd3(sd3: tuple[Any, Any], name: str) -> None:
    """The same latents, from the same evaluations: each block as often, with as many rows."""
    pipe, model = sd3
    text = [parity.drawn(2, 5, 24, seed=i) for i in (1, 2)]
    pooled = [parity.drawn(2, 20, seed=i) for i in (3, 4)]
    noise = parity.drawn(2, 16, 8, 8, seed=5)
    with emag.guide(pipe, *RULES[name]), evaluated(pipe.transformer.transformer_blocks) as here:
        ours = pipe(prompt_embeds=text[0], negative_prompt_embeds=text[1], pooled_prompt_embeds=pooled[0],
                    negative_pooled_prompt_embeds=pooled[1], latents=noise, guidance_scale=4.0, num_inference_steps=8,
                    output_type="latent", height=16, width=16).images
    conds = [[[t, {"pooled_output": p}]] for t, p in zip(text, pooled, strict=True)]
    with evaluated(model.model.diffusion_model.joint_blocks) as there:
        theirs = parity.comfy_latents(under(model, name), noise, pipe.scheduler.sigmas, *conds, 4.0)
    assert here == there and here[0, 4] == 8
    assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()
    assert torch.isfinite(ours).all()


@pytest.fixture(scope="module")
def flux() -> tuple[Any, Any]:
    pipe = parity.flux()
    return pipe, parity.converted(pipe.transformer, parity.COMFY_FLUX)


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("emag, apg", "cads", "cfg, pag")])
def test_flux(flux: tuple[Any, Any], name: str) -> None:
    """One call a step, guidance-distilled: cfg 1 in ComfyUI. Drawn noise is another one: diffusers packs its latents, whose
    bytes seed it."""
    pipe, model = flux
    text, pooled, noise = parity.drawn(2, 5, 24, seed=1), parity.drawn(2, 20, seed=2), parity.drawn(2, 16, 8, 8, seed=5)
    with emag.guide(pipe, *RULES[name]):
        ours = pipe(prompt_embeds=text, pooled_prompt_embeds=pooled, latents=pipe._pack_latents(noise, 2, 16, 8, 8),
                    guidance_scale=3.5, num_inference_steps=8, output_type="latent", height=8, width=8).images
    ours = pipe._unpack_latents(ours, 8, 8, 1)
    conds = [[[text, {"pooled_output": pooled, "guidance": 3.5}]]] * 2
    theirs = parity.comfy_latents(under(model, name), noise, pipe.scheduler.sigmas, *conds, 1.0)
    assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()


@pytest.mark.parametrize("rules", [(), (emag.EMAG(1.5),), (emag.EMAG(1.5, "map"), emag.APG(3.0))],
                         ids=["plain", "emag", "emag-map, apg"])
def test_trained_weights(rules: tuple[emag.Rule, ...]) -> None:
    """The model of the world of shapes, whose heads are 40 wide, as the pictures of docs/comfy.md are made with it."""
    pipe, text = trained.pipeline(), "a cyan ring above a purple square"
    model, noise = trained.model(pipe), parity.drawn(1, 4, 16, 16, seed=3)
    with emag.guide(pipe, *rules):
        ours = pipe(text, latents=noise, guidance_scale=3.0, num_inference_steps=10, output_type="latent").images
    conds = [trained.conditioning(pipe, one) for one in (text, "")]
    theirs = parity.comfy_latents(patched(model, rules) if rules else model, noise, pipe.scheduler.sigmas, *conds, 3.0)
    assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()
