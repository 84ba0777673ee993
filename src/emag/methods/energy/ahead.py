"""Steps of a run made ahead of it: a few first-order ones, for what a score should see of their end."""

from collections.abc import Callable
from itertools import pairwise

import torch

from ...core import RunStart, Step
from ...errors import Unsupported
from ...maths.energies import first_order_step


def check_ahead(who: str, start: RunStart, farthest: Callable[[Step], int]) -> None:
    """Raise `Unsupported` where the network cannot evaluate a later step: it cannot be told its time, or another serves it.

    who: the rule in words. farthest: the number of the last step that the rule looks at from a step.
    """
    if not start.first.clock:
        raise Unsupported(f"{who} evaluates the network at the times of later steps, and this scheduler's timesteps are a "
                          "function of the noise level: choose another scheduler, DDIM or Euler in steps of training")
    taken = next((step.index for step in start.steps if step.fresh), None)
    if taken is None:
        return
    crossing = next((step for step in start.steps if step.index < taken <= farthest(step)), None)
    if crossing is not None:
        raise Unsupported(f"{who} looks ahead from step {crossing.index + 1} to where another network takes over, at step "
                          f"{taken + 1}, and would ask the one before: say an interval behind that")


def stops(step: Step, steps: int) -> list[int]:
    """Where `steps` first-order steps from `step` to the end begin, by the numbers of the run's own: evenly, each once."""
    left = step.count - step.index
    count = min(steps, left)
    return [step.index + left * at // count for at in range(count)]


def last_estimate(step: Step, steps: int, x: torch.Tensor, x0: torch.Tensor,
                  estimate: Callable[[torch.Tensor, int], torch.Tensor]) -> torch.Tensor:
    """The clean sample at the end of `steps` first-order steps from x, the first along x0 [batch, ...]; differentiable.

    estimate: (x of a later level, steps ahead) -> x0 there. One step is x0 itself: it ends where sigma is 0 and alpha 1.
    """
    levels = tuple(zip(step.alphas, step.sigmas))
    for here, after in pairwise(stops(step, steps)):
        x = first_order_step(x, x0, levels[here], levels[after])
        x0 = estimate(x, after - step.index)
    return x0
