"""Where a scheduler takes a run: timesteps, noise levels and prediction space, copied to the host once."""

from dataclasses import dataclass
from typing import Any

from ..errors import Unsupported

SPACE_OF = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}


@dataclass(frozen=True)
class Trajectory:
    """The conditional evaluations of one run, in order.

    timesteps: the scheduler's, one per evaluation. index: for each, its number among the distinct ones.
    times, alphas, sigmas: per distinct timestep; x = alpha x0 + sigma epsilon. space: the network's prediction.
    """

    timesteps: tuple[float, ...]
    index: tuple[int, ...]
    times: tuple[float, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    space: str


def trajectory(scheduler: Any) -> Trajectory:
    """Read a scheduler whose timesteps are set. Raises `Unsupported` for one whose prediction space is unknown."""
    timesteps = tuple(float(t) for t in scheduler.timesteps.tolist())
    distinct = list(dict.fromkeys(timesteps))
    space = prediction_space(scheduler)
    trained = scheduler.config.num_train_timesteps
    times = tuple(t / trained for t in distinct)
    if space == "flow":
        sigmas = times
        alphas = tuple(1 - s for s in sigmas)
    else:
        alphas, sigmas = _variance_preserving(scheduler, distinct)
    return Trajectory(timesteps, tuple(distinct.index(t) for t in timesteps), times, alphas, sigmas, space)


def prediction_space(scheduler: Any) -> str:
    """Prediction space a scheduler expects: flow matching by class, else by its `prediction_type`."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return "flow"
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind not in SPACE_OF:
        raise Unsupported(f"{type(scheduler).__name__} has prediction_type {kind!r}; known are {', '.join(SPACE_OF)}")
    return SPACE_OF[kind]


def _variance_preserving(scheduler: Any, timesteps: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    bars = scheduler.alphas_cumprod.double().tolist()
    squares = [_between(bars, t) for t in timesteps]
    return tuple(a**0.5 for a in squares), tuple((1 - a)**0.5 for a in squares)


def _between(values: list[float], at: float) -> float:
    low = min(int(at), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])
