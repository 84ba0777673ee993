"""Beside ComfyUI's own guidance nodes, on either side of ours: it works, or says in words why not."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from comfy_extras import (
    nodes_apg,
    nodes_cfg,
    nodes_differential_diffusion,
    nodes_easycache,
    nodes_freelunch,
    nodes_fresca,
    nodes_hypertile,
    nodes_lumina2,
    nodes_mahiro,
    nodes_model_advanced,
    nodes_model_downscale,
    nodes_model_merging,
    nodes_pag,
    nodes_sag,
    nodes_slg,
    nodes_tcfg,
)

import emag
from emag.errors import NoEffect, Unsupported
from emag.hosts.comfy.patch import carried, patched
from smallcomfy import SMALL, build, conditioning, sample

WINDOW = emag.Window.progress(0, 0.2, 0.8)
EMAG = emag.EMAG(1.5, layers=(1, 2), window=WINDOW, beta=0.7)
Node = Callable[[Any], Any]


def first(out: Any) -> Any:
    return out.args[0] if hasattr(out, "args") else out[0]


NODES: dict[str, Node] = {
    "APG": lambda m: first(nodes_apg.APG.execute(m, 1.0, 5.0, 0.0)),
    "TCFG": lambda m: first(nodes_tcfg.TCFG.execute(m)),
    "CFGZeroStar": lambda m: first(nodes_cfg.CFGZeroStar.execute(m)),
    "CFGNorm": lambda m: first(nodes_cfg.CFGNorm.execute(m, 1.0)),
    "RescaleCFG": lambda m: nodes_model_advanced.RescaleCFG().patch(m, 0.7)[0],
    "PAG": lambda m: first(nodes_pag.PerturbedAttentionGuidance.execute(m, 3.0)),
    "SLG": lambda m: first(nodes_slg.SkipLayerGuidanceDiT.execute(m, 3.0, 0.0, 1.0, "1", "1")),
    "FreSca": lambda m: first(nodes_fresca.FreSca.execute(m, 1.0, 1.25, 20)),
    "RenormCFG": lambda m: first(nodes_lumina2.RenormCFG.execute(m, 100.0, 1.0)),
    "FreeU": lambda m: first(nodes_freelunch.FreeU_V2.execute(m, 1.3, 1.4, 0.9, 0.2)),
    "DifferentialDiffusion": lambda m: first(nodes_differential_diffusion.DifferentialDiffusion.execute(m)),
    "Mahiro": lambda m: first(nodes_mahiro.Mahiro.execute(m)),
    "shift": lambda m: nodes_model_advanced.ModelSamplingSD3().patch(m, 2.0)[0],
    "merge": lambda m: nodes_model_merging.ModelMergeSimple().merge(m, m.clone(), 0.5)[0],
}
if importlib.util.find_spec("comfy_extras.nodes_nag"):  # an older ComfyUI has none
    from comfy_extras import nodes_nag

    NODES["NAG"] = lambda m: first(nodes_nag.NAGuidance.execute(m, 5.0, 0.5, 1.5))
UNFIT = ("sdxl", "shift"), ("sd3", "FreeU")
"""Families that a node is not for."""
PRE_CFG = ("APG", "TCFG", "FreSca")
_MADE: dict[str, Any] = {}


def made(name: str) -> Any:
    if name not in _MADE:
        _MADE[name] = build(SMALL[name])
    return _MADE[name]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in ("sd3", "sdxl") for name in NODES
                                              if (family, name) not in UNFIT])
def test_beside(family: str, name: str) -> None:
    """EMAG has its effect beside the node, in either order the same."""
    node, small = NODES[name], SMALL[family]
    alone = sample(node(made(family)), small)
    before, after = sample(node(patched(made(family), (EMAG,))), small), sample(patched(node(made(family)), (EMAG,)), small)
    assert torch.equal(before, after)
    assert far(after, alone) > 1e-3


def test_the_nodes_own_effect_stays() -> None:
    """APG and SLG do beside EMAG what they do: neither is passed over."""
    small, model = SMALL["sd3"], made("sd3")
    ours = sample(patched(model, (EMAG,)), small)
    for name in ("APG", "SLG", "RescaleCFG"):
        assert far(sample(patched(NODES[name](model), (EMAG,)), small), ours) > 1e-2


@pytest.mark.parametrize("name", [*PRE_CFG, "RescaleCFG", "RenormCFG"])
def test_two_that_combine_are_refused(name: str) -> None:
    model = NODES[name](made("sd3"))
    with pytest.raises(Unsupported, match=r"apg combines.*leave one of the two out"):
        sample(patched(model, (emag.APG(4.0),)), SMALL["sd3"])


def test_caches_are_refused() -> None:
    for node in (nodes_easycache.EasyCacheNode, nodes_easycache.LazyCacheNode):
        cached = first(node.execute(made("sdxl"), 0.5, 0.1, 0.9, False))
        with pytest.raises(Unsupported, match="gives answers of earlier steps"):
            sample(patched(cached, (EMAG,)), SMALL["sdxl"])


def test_a_node_that_takes_the_attention_away_is_named() -> None:
    """SAG computes the attention of the middle block by itself."""
    model = first(nodes_sag.SelfAttentionGuidance.execute(made("sdxl"), 0.5, 2.0))
    with pytest.raises(NoEffect, match="another extension took the place of its attention"):
        sample(patched(model, (EMAG,)), SMALL["sdxl"])


def test_tiles_inside_attention_are_told() -> None:
    """HyperTile hands attention other tokens; a rule that skips blocks looks at none."""
    small = replace(SMALL["sdxl"], shape=(1, 4, 32, 32))
    model = first(nodes_hypertile.HyperTile.execute(made("sdxl"), 64, 2, 3, False))
    with pytest.raises(NoEffect, match="another extension took the place of its attention"):
        sample(patched(model, (EMAG,)), small)
    assert far(sample(patched(model, (emag.SLG(1.5, layers=(2,)),)), small), sample(model, small)) > 1e-2


@pytest.mark.parametrize("variant", ["query", "map"])
def test_a_grid_that_grows_on_the_way(variant: str) -> None:
    """PatchModelAddDownscale: blocks work on half the grid at first; there the average starts afresh."""
    small, rule = replace(SMALL["sdxl"], shape=(1, 4, 16, 16)), replace(EMAG, variant=variant, layers=(1,))
    model = first(nodes_model_downscale.PatchModelAddDownscale.execute(made("sdxl"), 3, 2.0, 0.0, 0.5, True, "bicubic",
                                                                       "bicubic"))
    guided = patched(model, (rule,))
    assert far(sample(guided, small, steps=10), sample(model, small, steps=10)) > 1e-3
    sizes = [effect and effect[0] for effect in carried(guided).latest.report.stats.effects]
    afresh = [at for at, size in enumerate(sizes) if size is not None and size < 1e-5]
    assert len(afresh) == 1 and 0 not in sizes[afresh[0] + 1:]
    assert all(size > 1e-4 for at, size in enumerate(sizes) if size is not None and at not in afresh)


def test_a_lora_works_below_the_guidance() -> None:
    """As ComfyUI's loader puts it on, before or after ours: what the weights with it in them give."""
    import comfy.sd

    small, model, (up, down) = SMALL["sd3"], made("sd3"), (torch.randn(768, 4, generator=seeded(0)),
                                                           torch.randn(4, 192, generator=seeded(1)) * 0.1)
    key = "diffusion_model.joint_blocks.1.x_block.mlp.fc1"
    lora = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}

    def tuned(base: Any) -> Any:
        return comfy.sd.load_lora_for_models(base, None, lora, 0.8, 0.0)[0]

    plain = sample(tuned(model), small)
    guided = sample(patched(tuned(model), (EMAG,)), small)
    assert far(plain, sample(model, small)) > 1e-2
    assert far(guided, plain) > 1e-2
    assert torch.equal(guided, sample(tuned(patched(model, (EMAG,))), small))
    held = build(small)
    held.model.state_dict()[f"{key}.weight"].add_(0.8 * up @ down)
    assert far(guided, sample(patched(held, (EMAG,)), small)) < 2e-3
    assert torch.equal(sample(model, small), sample(build(small), small))  # the weights below are as they were


def test_a_lora_of_one_condition() -> None:
    """A hook changes the weights for one condition, and for a part of the steps: weak passes of it see the same weights."""
    import comfy.hooks

    small, model = SMALL["sd3"], made("sd3")
    key = "diffusion_model.joint_blocks.1.x_block.mlp.fc1"
    lora = {f"{key}.lora_up.weight": torch.randn(768, 4, generator=seeded(0)),
            f"{key}.lora_down.weight": torch.randn(4, 192, generator=seeded(1)) * 0.1}
    hooks, frames = comfy.hooks.create_hook_lora(lora, 1.0, 1.0), comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.0, 0.5)):
        frames.add(comfy.hooks.HookKeyframe(strength, start))
    hooks.set_keyframes_on_hooks(frames)
    conds = comfy.hooks.set_hooks_for_conditioning(conditioning(2), hooks) + conditioning(4)
    guided = sample(patched(model, (EMAG,)), small, positive=conds)
    assert far(guided, sample(model, small, positive=conds)) > 1e-2
    assert far(guided, sample(patched(model, (EMAG,)), small, positive=conditioning(2) + conditioning(4))) > 1e-2
    full = replace(EMAG, compat={"resume": False})
    assert far(guided, sample(patched(model, (full,)), small, positive=conds)) < 2e-3


@pytest.mark.parametrize("guided_first", [True, False])
def test_a_merge_of_two_models_is_guided_as_one(guided_first: bool) -> None:
    """Half of each of two models is the model of the mean weights."""
    small, one, other = SMALL["sd3"], made("sd3"), build(SMALL["sd3"], seed=1)

    def half(a: Any) -> Any:
        return nodes_model_merging.ModelMergeSimple().merge(a, other, 0.5)[0]

    merged = half(patched(one, (EMAG,))) if guided_first else patched(half(one), (EMAG,))
    mean = build(small)
    for weight, more in zip(mean.model.parameters(), other.model.parameters(), strict=True):
        weight.data.lerp_(more, 0.5)
    expected = sample(patched(mean, (EMAG,)), small)
    assert far(sample(merged, small), expected) < 2e-3
    assert far(expected, sample(mean, small)) > 1e-2


def test_of_two_guided_models_a_merge_keeps_the_guidance_of_the_first() -> None:
    merge, one = nodes_model_merging.ModelMergeSimple().merge, made("sd3")
    other = patched(build(SMALL["sd3"], seed=1), (emag.PAG(1.5, layers=(1,)),))
    assert carried(merge(patched(one, (EMAG,)), other, 0.5)[0]).rules == (EMAG,)
    assert carried(merge(one, other, 0.5)[0]) is None


def test_an_attention_override_of_another_node_stays() -> None:
    """There is one slot: ours calls the one that was there, whoever came first."""
    seen: list[int] = []

    def counting(func: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return func(*args, **kwargs)

    model = made("sd3").clone()
    model.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = counting
    out = sample(patched(model, (EMAG,)), SMALL["sd3"])
    assert len(seen) > 6 * 4
    assert torch.equal(out, sample(patched(made("sd3"), (EMAG,)), SMALL["sd3"]))
