"""What diffusers' own attention guiders do on a network, tried the same way: the other half of docs/coverage.md."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.guiders import PerturbedAttentionGuidance, SkipLayerGuidance, SmoothedEnergyGuidance
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceConfig

from ..engine.undo import Undo, patch, undone
from .finding import Finding


def _pag(stack: str) -> Any:
    layers = LayerSkipConfig([0], fqn=stack, skip_attention=False, skip_attention_scores=True, skip_ff=False)
    return PerturbedAttentionGuidance(5.0, perturbed_guidance_config=layers, perturbed_guidance_start=0.0,
                                      perturbed_guidance_stop=1.0)


def _slg(stack: str) -> Any:
    return SkipLayerGuidance(5.0, skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0,
                             skip_layer_config=LayerSkipConfig([0], fqn=stack))


def _seg(stack: str) -> Any:
    return SmoothedEnergyGuidance(5.0, seg_guidance_start=0.0, seg_guidance_stop=1.0,
                                  seg_guidance_config=SmoothedEnergyGuidanceConfig([0], fqn=stack))


GUIDERS: dict[str, Callable[[str], Any]] = {"pag": _pag, "slg": _slg, "seg": _seg}
"""Each on the first block of the named stack, with CFG on, at every step: their most favourable setting."""


def diagnose(guider: str, network: torch.nn.Module, call: Callable[[], Any], stack: str, name: str) -> Finding:
    """Try one stock guider on the inputs of one evaluation inside `call`. `network` is spent: hooks may stay on it."""
    args, kwargs = first_inputs(network, call)
    try:
        clean, weak = _passes(GUIDERS[guider](stack), network, args, kwargs)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
        return Finding(f"diffusers {guider}", name, "unsupported", reason=reason)
    if weak.shape != clean.shape:
        return Finding(f"diffusers {guider}", name, "unsupported", reason="the weak prediction has another shape")
    effect = float((weak - clean).norm() / clean.norm())
    if effect == 0:
        return Finding(f"diffusers {guider}", name, "no-effect", reason="the weak pass is the clean one, bit for bit")
    return Finding(f"diffusers {guider}", name, "works", effect)


def first_inputs(network: torch.nn.Module, call: Callable[[], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the first evaluation of `network` inside `call`."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    forward = network.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return forward(*args, **kwargs)

    def spied(undo: Undo) -> None:
        patch(undo, network, "forward", spy)
        call()

    undone(spied)
    return seen[0]


@torch.no_grad()
def _passes(guider: Any, network: torch.nn.Module, args: tuple[Any, ...],
            kwargs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The first (conditional) and the last (weak) of a step's passes, all on the same inputs."""
    guider.set_state(step=1, num_inference_steps=10, timestep=torch.tensor(500.0))
    outputs = []
    for _ in range(guider.num_conditions):
        guider.prepare_models(network)
        outputs.append(_flat(network(*args, **kwargs)))
        guider.cleanup_models(network)
    return outputs[0], outputs[-1]


def _flat(answer: Any) -> torch.Tensor:
    """All tensors of a network's answer in one row."""
    if isinstance(answer, torch.Tensor):
        return answer.double().flatten()
    parts = answer.values() if hasattr(answer, "values") else answer
    return torch.cat([_flat(part) for part in parts if part is not None])
