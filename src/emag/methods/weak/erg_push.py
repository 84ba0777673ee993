"""ERG as a weak branch: push away from a prediction at another attention temperature."""

from dataclasses import dataclass

from ..common.push import Push
from ..common.rectified import RectifiedAttention, check_rectified


@dataclass(frozen=True)
class ERGPush(Push):
    """The weak branch of `ERG` beside CFG, or on a model without it: p + (w - 1) (cond - weak).

    As first rule without CFG this is the paper's weak + w (cond - weak). The kick-off is a schedule here, e.g.
    `scale=Interval(1.5, 0.2, 1, "progress")`. tau, alpha, gamma, steps: as in `ERG`; all 1 is off.
    """

    layers: tuple[int, ...] | None = None
    tau: float = 0.01
    alpha: float = 1.0
    gamma: float = 1.0
    steps: int = 1

    name = "erg-push"
    paper = "arXiv 2504.13987"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rectified(self.name, (self.tau, self.alpha, self.gamma), self.steps)

    @property
    def neutral(self) -> bool:
        return self.scale == 1 or self.tau == self.alpha == self.gamma == self.steps == 1

    @property
    def perturbation(self) -> RectifiedAttention:
        assert self.layers is not None
        return RectifiedAttention(self.layers, self.tau, self.alpha, self.gamma, self.steps)
