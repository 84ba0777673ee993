"""Schedules that are exact on first-order deterministic samplers only: CFG++ and what is built on it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import Unsupported
from ..guidance import Rule
from ..samplers.first_order import needy

Reason = str | None
"""Why a scheduler as it is set makes other steps; None where its steps are alpha' x0 + sigma' epsilon."""

Config = Mapping[str, Any]


def _clips(config: Config) -> Iterator[Reason]:
    """Settings under which the x0 of a step is not that of the prediction."""
    yield from (f"changes x0 ({name})" for name in ("clip_sample", "thresholding") if config.get(name))


def _ddim(config: Config, call: Config) -> Iterator[Reason]:
    if call.get("eta"):
        yield f"adds noise (eta={call['eta']:g})"
    yield from _clips(config)


def _euler(config: Config, call: Config) -> Iterator[Reason]:
    if config.get("stochastic_sampling"):
        yield "adds noise (stochastic_sampling)"


def _dpm(config: Config, call: Config) -> Iterator[Reason]:
    if config["solver_order"] != 1:
        yield f"is of order {config['solver_order']} (solver_order=1 is DDIM)"
    if config["algorithm_type"] not in ("dpmsolver++", "dpmsolver"):
        yield f"adds noise (algorithm_type={config['algorithm_type']})"
    yield from _clips(config)


SCHEDULERS: dict[str, Callable[[Config, Config], Iterator[Reason]]] = {
    "DDIMScheduler": _ddim, "EulerDiscreteScheduler": _euler, "FlowMatchEulerDiscreteScheduler": _euler,
    "CogVideoXDDIMScheduler": lambda *_: iter(()),  # it neither clips nor reads eta
    "DPMSolverMultistepScheduler": _dpm,
}
"""Schedulers of diffusers that can make first-order deterministic steps, and what keeps one from it."""


def check_sampler(rules: Sequence[Rule], scheduler: Any, arguments: Mapping[str, Any]) -> None:
    """Raise `Unsupported` where a rule's scale is exact for other steps than those of a pipeline call's scheduler."""
    found = needy(rules)
    if not found:
        return
    reasons = SCHEDULERS.get(type(scheduler).__name__, lambda *_: iter(["is of a higher order, or adds noise"]))
    reason = next(reasons(getattr(scheduler, "config", {}), arguments), None)
    if reason is not None:
        raise Unsupported(f"{found} is exact for first-order deterministic samplers only, and {type(scheduler).__name__} "
                          f"here {reason}: set pipe.scheduler to a plain DDIM or Euler one, or take another scale")
