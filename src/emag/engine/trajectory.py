"""Where a scheduler takes a run: timesteps, noise levels and prediction space, copied to the host once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core import Step
from ..errors import Unsupported
from ..maths.predictions import Space
from ..maths.streams import Streams

SPACE_OF: dict[str, Space] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}

# spacings of noise levels that lie between training timesteps, to which a scheduler rounds
ROUNDED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


@dataclass(frozen=True)
class Trajectory:
    """The conditional evaluations of one run, or of each of its parts, in order.

    timesteps: the scheduler's, one per evaluation. index: for each, its number among the distinct ones.
    times, alphas, sigmas: per distinct timestep; x = alpha x0 + sigma epsilon. space: the network's prediction.
    end: (alpha, sigma) that the sampler ends at. takeover: number of the distinct timestep at which a second network takes
    over, None where none does. whole: distinct timesteps of the schedule of which a late start leaves out the first; None
    where the run has them all. clock: see `Step`. parts: how often the run goes along it, each time for another part of
    its answer.
    """

    timesteps: tuple[float, ...]
    index: tuple[int, ...]
    times: tuple[float, ...]
    alphas: tuple[float, ...]
    sigmas: tuple[float, ...]
    space: Space
    end: tuple[float, float] = (1.0, 0.0)
    takeover: int | None = None
    whole: int | None = None
    clock: float = 1.0
    parts: int = 1

    @classmethod
    def even(cls, count: int) -> "Trajectory":
        """A flow run over `count` evenly spaced noise levels: what is assumed before a scheduler is asked."""
        sigmas = tuple(1 - i / count for i in range(count))
        return cls(sigmas, tuple(range(count)), sigmas, tuple(1 - s for s in sigmas), sigmas, "flow")

    def as_flow(self) -> "Trajectory":
        """Of a path whose times are the sigma of x0 + sigma epsilon: the same path for x over 1 + sigma, a straight flow."""
        times = tuple(sigma / (1 + sigma) for sigma in self.times)  # x / (1 + sigma) = (1 - t) x0 + t epsilon
        told = tuple(times[at] * self.clock for at in self.index)
        return replace(self, timesteps=told, times=times, sigmas=times, alphas=tuple(1 - t for t in times))

    @property
    def schedule_length(self) -> int:
        """Distinct timesteps of the whole schedule, those that a late start leaves out included."""
        return self.whole or len(self.sigmas)

    def places(self) -> list[Step]:
        """The steps of its evaluations in order, before there is any x_t."""
        return [self.step(i, torch.empty(0), Streams([])) for i in self.index]

    def step(self, index: int, x: torch.Tensor, streams: Streams, grid: tuple[int, ...] | None = None,
             masks: Mapping[str, torch.Tensor] | None = None) -> Step:
        """The step at distinct timestep `index`, with x_t of its conditional rows."""
        return Step(index, self.sigmas, self.alphas, self.times[index], self.space, x, streams, end=self.end, grid=grid,
                    masks=masks or {}, fresh=index == self.takeover, clock=self.clock, times=self.times)


def trajectory(scheduler: Any, late: int | None = None) -> Trajectory:
    """Read a scheduler whose timesteps are set. Raises `Unsupported` for one whose prediction space is unknown.

    late: first timestep of the run; None is the one at which the scheduler says it begins.
    """
    if hasattr(scheduler, "_alpha_cumprod"):
        return _continuous_time(scheduler)
    # a late start (image to image) leaves out the first ones
    first = (getattr(scheduler, "begin_index", None) or 0) if late is None else late
    timesteps = tuple(float(t) for t in scheduler.timesteps[first:].tolist())
    distinct = list(dict.fromkeys(timesteps))
    space = prediction_space(scheduler)
    trained = scheduler.config.num_train_timesteps
    inverted = scheduler.config.get("invert_sigmas", False)  # time runs from 0 at noise to 1 at data
    times = tuple((trained - t if inverted else t) / trained for t in distinct)
    if space == "flow":
        sigmas = times
        alphas = tuple(1 - s for s in sigmas)
    else:
        alphas, sigmas = _variance_preserving(scheduler, distinct, [first + timesteps.index(t) for t in distinct])
        times = sigmas if _continuous(scheduler) else times
    index = tuple(distinct.index(t) for t in timesteps)
    whole = len(set(scheduler.timesteps.tolist()))
    return Trajectory(timesteps, index, times, alphas, sigmas, space, _end(scheduler, space), whole=whole,
                      clock=0 if _continuous(scheduler) else -trained if inverted else trained)


def _continuous_time(scheduler: Any) -> Trajectory:
    """The path of a scheduler (Wuerstchen's) whose time runs from 1 at noise to 0, with noise levels by a formula."""
    times = scheduler.timesteps[:-1].double().cpu()  # the last one is where it ends
    bars = scheduler._alpha_cumprod(times, times.device).tolist()
    path = tuple(times.tolist())
    return Trajectory(path, tuple(range(len(path))), path, tuple(bar**0.5 for bar in bars),
                      tuple((1 - bar)**0.5 for bar in bars), "epsilon")


def _continuous(scheduler: Any) -> bool:
    """True where timesteps are a function of the noise level (0.25 ln s), and not its place in a schedule."""
    return bool(scheduler.config.get("timestep_type") == "continuous")


def preconditioned(scheduler: Any) -> Trajectory:
    """Read a scheduler of EDM, whose network is given x0 + sigma epsilon over (sigma^2 + sigma_data^2)^(1/2) and predicts v.

    Raises `Unsupported` for another prediction.
    """
    if scheduler.config.get("prediction_type") != "v_prediction" or not hasattr(scheduler.config, "sigma_data"):
        raise Unsupported(f"{type(scheduler).__name__} is not one of EDM with v_prediction, whose noise levels are known")
    sigmas, data = scheduler.sigmas[:-1].double(), scheduler.config.sigma_data
    size = (sigmas**2 + data**2).sqrt()  # x / size = alpha x0 / data + sigma epsilon, alpha^2 + sigma^2 = 1
    timesteps = tuple(float(t) for t in scheduler.timesteps.tolist())
    times = tuple(((sigmas / data).atan() * 2 / torch.pi).tolist())
    return Trajectory(timesteps, tuple(range(len(timesteps))), times, tuple((data / size).tolist()),
                      tuple((sigmas / size).tolist()), "v", whole=len(timesteps))


def trigonometric(scheduler: Any, count: int | None = None) -> Trajectory:
    """Read a scheduler whose times are angles t of cos(t) x0 + sin(t) epsilon, for a flow network that is given that over
    cos(t) + sin(t). count: steps of the run, the last ones of the schedule; None is all."""
    angles = scheduler.timesteps[:-1].double()  # the last one is where it ends
    whole = len(angles)
    angles = angles[whole - (count or whole):]
    # (cos x0 + sin epsilon) / (cos + sin) = (1 - s) x0 + s epsilon
    times = tuple((angles.sin() / (angles.sin() + angles.cos())).tolist())
    return Trajectory(times, tuple(range(len(times))), times, tuple(1 - s for s in times), times, "flow", whole=whole)


def prediction_space(scheduler: Any) -> Space:
    """Prediction space a scheduler expects: flow matching by class, else by its `prediction_type`."""
    if type(scheduler).__name__.startswith(("FlowMatch", "FlowMap")):
        return "flow"
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind not in SPACE_OF:
        raise Unsupported(f"{type(scheduler).__name__} has prediction_type {kind!r}; known are {', '.join(SPACE_OF)}")
    return SPACE_OF[kind]


def _end(scheduler: Any, space: Space) -> tuple[float, float]:
    """The level after the last step: clean, but for schedulers that stop at their first training step."""
    last = getattr(scheduler, "final_alpha_cumprod", None)
    if space == "flow" or last is None:
        return 1.0, 0.0
    return float(last)**0.5, (1 - float(last))**0.5


def _variance_preserving(scheduler: Any, timesteps: list[float], at: list[int]) -> tuple[tuple[float, ...], ...]:
    """Levels of the network's input; schedulers whose noise has size s beside data of size 1 divide x by (1 + s^2)^(1/2)."""
    if not hasattr(scheduler, "alphas_cumprod"):
        raise Unsupported(f"the noise levels of {type(scheduler).__name__} are not those of a variance preserving process "
                          "(it has no alphas_cumprod): use another scheduler, such as EulerDiscreteScheduler")
    bars = scheduler.alphas_cumprod.double().tolist()
    if getattr(scheduler, "order", 1) == 1 and (
            _continuous(scheduler) or any(scheduler.config.get(name) for name in ROUNDED)):
        # x = x0 + s epsilon, divided by sqrt(1 + s^2): alpha^2 = 1 / (1 + s^2)
        squares = [1 / (1 + float(scheduler.sigmas[i])**2) for i in at]
    else:
        # alpha^2 is the cumulative product of the schedule, between two training steps a straight line
        squares = [_between(bars, t) for t in timesteps]
    return tuple(a**0.5 for a in squares), tuple((1 - a)**0.5 for a in squares)


def _between(values: list[float], at: float) -> float:
    # linear, and flat behind the last one
    low = min(int(at), len(values) - 1)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])
