"""What a guidance costs on a model, known before it runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...core import Rule
from ...engine.plan import plan
from ...engine.trajectory import Trajectory
from ..draw.sampling import DrawSettings, Job
from ..forecast import foretold
from .model import Model


@dataclass(frozen=True)
class Price:
    """Block evaluations per image, with the guidance and of the pipeline alone; bytes that the guidance keeps in a run."""

    evaluations: int
    plain: int
    bytes: int
    steps: int

    @property
    def extra(self) -> float:
        """The share that the guidance adds."""
        return self.evaluations / self.plain - 1

    def __str__(self) -> str:
        memory = f", {self.bytes / 2**20:,.1f} MiB kept" if self.bytes else ""
        return (f"{self.evaluations} block evaluations per image in {self.steps} steps ({self.extra:+.1%} over the pipeline "
                f"alone){memory}")


def price(model: Model, rules: Sequence[Rule], job: Job, settings: DrawSettings) -> Price:
    """The price of one image. Raises `BadValue` and `Unsupported` for what would be refused as it is drawn."""
    call = model.call(job, settings)
    active = model.check(rules, call)
    steps, uncond = model.host.steps(call) or model.steps, model.host.guides(call)
    planned = plan(active, model.network.depth, Trajectory.even(steps), uncond)
    kept = foretold(model.network, model.name, rules, steps, settings.height, settings.width, uncond=uncond)["weak"]
    return Price(planned.total, planned.host, sum(branch["bytes"] for branch in kept), steps)
