"""How far each block's weak prediction moves, and in which frequency band: what a choice of layers rests on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from ...core import COND, Branches, Perturbation, Rule, Step
from ...engine.reading import read_network
from ...errors import BadValue
from ...hosts.defaults import models_of, resolved
from ...hosts.lookup import denoisers, host_of
from ...hosts.pipeline import guide
from ...maths.layout import unpack
from ...schedules import Schedule

BANDS = ("low", "middle", "high")


@dataclass(frozen=True)
class Probe(Rule):
    """Evaluates the weak branch of another rule, measures it, and changes nothing."""

    rule: Rule = field(default_factory=Rule)
    measured: list[torch.Tensor] = field(default_factory=list, hash=False, compare=False)

    name = "probe"
    kind = "weak"

    @property
    def weak(self) -> tuple[Perturbation, ...]:
        return self.rule.weak

    def branches(self, step: Step) -> tuple[Perturbation, ...]:
        return self.rule.branches(step)

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        for branch in self.rule.weak:
            if branch in branches:
                self.measured.append(bands(unpack(branches[COND] - branches[branch], step), unpack(branches[COND], step)))
        return pred


@dataclass(frozen=True)
class Reach:
    """One block: mean |cond - weak| / |cond| over steps and images, and the share of its energy in each of BANDS."""

    block: int
    effect: float
    shares: tuple[float, ...]


def measure(pipe: Any, rule: Rule, call: Callable[[Any], Any],
            progress: Callable[[int, int], None] | None = None) -> list[Reach]:
    """The reach of `rule` on each block alone. Raises `BadValue` for a rule that has no layers."""
    if "layers" not in {f.name for f in fields(rule)} or rule.kind != "weak":
        raise BadValue(f"{rule.name} is no weak branch on layers, so there is nothing to calibrate")
    network, models = read_network(denoisers(pipe, host_of(pipe))[0]), models_of(pipe)
    found = []
    for block in range(network.depth):
        alone, = resolved((replace(rule, layers=(block,)),), models, network)  # type: ignore[call-arg]
        probe = Probe(alone)
        with guide(pipe, probe):
            call(pipe)
        if progress is not None:
            progress(block + 1, network.depth)
        mean = torch.stack(probe.measured).mean((0, 1))
        found.append(Reach(block, float(mean[0]), tuple(mean[1:].tolist())))
    return found


def bands(difference: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """|difference| / |whole| and the shares of its energy below 1/4, below 1/2 and above 1/2 of the highest frequency.

    Both [batch, channels, ..., height, width]; returns [batch, 4].
    """
    spectrum = torch.fft.fft2(difference.double()).abs().square()
    height, width = difference.shape[-2:]
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64).abs() * 2 for n in (height, width))
    radius = torch.maximum(rows[:, None], columns[None, :])
    edges = ((radius < 0.25), (radius >= 0.25) & (radius < 0.5), (radius >= 0.5))
    energy = torch.stack([(spectrum * mask).flatten(1).sum(1) for mask in edges], 1)
    shares = energy / energy.sum(1, keepdim=True).clamp(min=1e-30)
    size = difference.flatten(1).norm(dim=1) / whole.flatten(1).norm(dim=1).clamp(min=1e-12)
    return torch.cat([size[:, None].double(), shares], 1).cpu()


def entry(rule: Rule, reach: Sequence[Reach], model: str, count: int = 3) -> dict[str, Any]:
    """A table entry: the `count` blocks in a row whose effect is largest together, and where that comes from."""
    count = min(count, len(reach))
    starts = range(len(reach) - count + 1)
    first = max(starts, key=lambda at: sum(one.effect for one in reach[at:at + count]))
    scale = getattr(rule, "scale", None)
    values = {"layers": [one.block for one in reach[first:first + count]],
              **({"scale": scale} if isinstance(scale, float) and not isinstance(scale, Schedule) else {})}
    return {"model": model, "method": rule.name, "values": values,
            "source": f"emag calibrate: largest mean effect of {count} neighbouring blocks of {len(reach)}",
            "blocks": [{"block": one.block, "effect": one.effect, **dict(zip(BANDS, one.shares))} for one in reach]}
