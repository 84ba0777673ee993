"""`patched`: a ComfyUI model (a `ModelPatcher`) whose sampling runs under a guidance.

The model that comes in is left as it was: the answer is a clone of it that carries the rules and one wrapper around a
sampler's run. Everything else is put in when a run begins, and taken out when it ends, in whatever way it ends.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ...core import Rule
from ...engine.lock import hold
from ...engine.undo import Undo, undone
from ...families.comfy import ComfyNetwork
from .attention import override
from .checks import check_call, check_cfg, check_host, check_steps, concrete
from .levels import Levels
from .networks import Layout, entry_of, like_of, network_of
from .passes import NetworkCall
from .report import Latest, report
from .run import Run
from .setting import Batch, Setting

KEY = "emag"
SLOT = "optimized_attention_override"


@dataclass(frozen=True)
class Carried:
    """What a patched model carries. conditions: by the names that rules use, in ComfyUI's form."""

    rules: tuple[Rule, ...]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    latest: Latest = field(default_factory=Latest)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Carried":
        """Itself: a clone of a model made further down, a LoRA's for instance, reports to the same place."""
        return self


def patched(model: Any, rules: tuple[Rule, ...], conditions: Mapping[str, Any] | None = None) -> Any:
    """A clone of a ComfyUI model under `rules`, after those it has. Raises `BadValue` and `Unsupported`, at once."""
    from comfy.patcher_extension import WrappersMP

    had = carried(model)
    rules = (*had.rules, *rules) if had else rules
    further = {**(had.conditions if had else {}), **(conditions or {})}
    module = model.model.diffusion_model
    entry = entry_of(module)
    concrete(rules, network_of(module, entry), entry, like_of(module, entry))
    clone = model.clone()
    clone.model_options[KEY] = Carried(rules, further)
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sampled)
    return clone


def carried(model: Any) -> Carried | None:
    """What a model carries of ours; None for one that is not guided."""
    found = model.model_options.get(KEY)
    return found if isinstance(found, Carried) else None


def sampled(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """A sampler's run: `executor` is ComfyUI's own, with its guider in `class_obj`."""
    guider = executor.class_obj
    mine = guider.model_options.get(KEY)
    if mine is None:
        return executor(*args, **kwargs)
    module = guider.model_patcher.model.diffusion_model
    entry = entry_of(module)
    network = network_of(module, entry)
    rules = concrete(mine.rules, network, entry, like_of(module, entry))
    sigmas = [float(sigma) for sigma in (kwargs["sigmas"] if "sigmas" in kwargs else args[3])]
    if not rules or len(sigmas) < 2:  # no step, nothing to guide
        return executor(*args, **kwargs)
    check_host(rules, guider.model_options, bool(guider.conds.get("negative")), mine.conditions)
    check_cfg(rules, guider.model_options, getattr(guider, "cfg", 1.0))
    check_steps(rules, kwargs["sampler"] if "sampler" in kwargs else args[2])
    levels = Levels.of(guider.model_patcher.get_model_object("model_sampling"), sigmas)

    def guided(undo: Undo) -> Any:
        hold(network.module, "ComfyUI", undo)
        run = Run(network, rules, levels, Layout.of(module, entry), _setting(guider, mine, entry))
        run.install(undo)
        _hook(guider, run, entry)
        start = time.perf_counter()
        out = executor(*args, **kwargs)
        run.finish()
        mine.latest.report = report(run, time.perf_counter() - start, out)
        return out

    mine.latest.begin()
    return undone(guided)


def _setting(guider: Any, mine: Carried, entry: ComfyNetwork) -> Setting:
    from comfy.sampler_helpers import convert_cond

    for name, cond in mine.conditions.items():  # ComfyUI prepares them with its own, before the first step
        guider.conds[_named(name)] = [dict(one) for one in convert_cond(cond)]
    out = guider.model_patcher.model.process_latent_out
    return Setting(_Further(guider), out, entry.condition)


class _Further(dict[str, Any]):
    """Conditions that rules name, as ComfyUI has prepared them."""

    def __init__(self, guider: Any):
        super().__init__()
        self.guider = guider

    def __missing__(self, name: str) -> Any:
        return self.guider.conds[_named(name)]


def _named(name: str) -> str:
    return f"{KEY}:{name}"


def _hook(guider: Any, run: Run, entry: ComfyNetwork) -> None:
    """Our hooks in the options of this run, which ComfyUI throws away after it."""
    from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

    options = guider.model_options
    inner = options.setdefault("transformer_options", {})
    assert run.network.slot is not None
    inner[SLOT] = override(run.network.slot, inner.get(SLOT))
    hooks: dict[str, Callable[..., Any]] = {WrappersMP.PREDICT_NOISE: partial(_predicted, run),
                                            WrappersMP.CALC_COND_BATCH: partial(_batched, run),
                                            WrappersMP.APPLY_MODEL: partial(_applied, run, entry)}
    for kind, hook in hooks.items():
        add_wrapper_with_key(kind, KEY, hook, options, is_model_options=True)
    if run.combines:
        options["disable_cfg1_optimization"] = True  # else ComfyUI leaves the negative out at cfg 1
        options["sampler_cfg_function"] = partial(_combined, run)


def _predicted(run: Run, executor: Any, *args: Any, **kwargs: Any) -> Any:
    """A step: the first batch call inside it is the step's own, what follows are other nodes'."""
    run.waiting = True
    try:
        return executor(*args, **kwargs)
    finally:
        run.waiting = False


def _batched(run: Run, executor: Any, model: Any, conds: list[Any], x: torch.Tensor, timestep: torch.Tensor,
             options: dict[str, Any]) -> list[torch.Tensor]:
    if not run.waiting:
        return executor(model, conds, x, timestep, options)
    run.waiting = False
    watched = bool(options.get("sampler_post_cfg_function"))  # a sampler may be who reads: those of the CFG++ kind
    batch = Batch(lambda some, at: executor(model, some, at, timestep, options), watched)
    return run.step(batch, conds, x, float(timestep[0]))


def _applied(run: Run, entry: ComfyNetwork, executor: Any, x: torch.Tensor, t: torch.Tensor, c_concat: Any = None,
             c_crossattn: Any = None, control: Any = None, transformer_options: Any = None, **more: Any) -> torch.Tensor:
    check_call(entry, more)
    options = transformer_options or {}
    call = NetworkCall.of(x, options,
                          lambda: executor(x, t, c_concat, c_crossattn, control, options, **more))
    return run.network_call(call)


def _combined(run: Run, args: dict[str, Any]) -> torch.Tensor:
    """ComfyUI's hook for what combines: it takes x minus the answer for the guided clean sample."""
    assert run.result is not None
    return args["input"] - run.result

