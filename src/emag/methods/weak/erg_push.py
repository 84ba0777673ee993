"""ERG as a weak branch: push away from a prediction at another attention temperature."""

from dataclasses import dataclass

from ..common.push import Push
from ..common.rectified import RectifiedAttention, check_rectified


@dataclass(frozen=True)
class ERGPush(Push):
    """Entropy rectifying guidance as a weak branch: push away from a network at another attention temperature.

    It is the weak branch of `ERG`, used beside CFG or on a model without CFG: p + (w - 1) (cond - weak). As first rule
    without CFG this is the paper's weak + w (cond - weak). In the weak branch the attention of image queries is
    Q <- Q - gamma (Q - alpha softmax(tau S) V), `steps` times; text rows stay. tau = alpha = gamma = steps = 1 is off.

    The kick-off of `ERG` is a schedule here, e.g. `scale=Interval(1.5, 0.2, 1, "progress")`.

    Args:
        layers: blocks to perturb, by number; None is the model's default, "auto" the middle block.
        tau: factor on the logits, at least 0. 1 is none, 0 is uniform attention.
        alpha: weight of the attention's output in each step, at least 0.
        gamma: step size, at least 0; 1 takes the whole step.
        steps: how many steps, a whole number of at least 1.

    >>> import emag
    >>> late = emag.Interval(1.5, 0.2, 1, "progress")  # no push in the first fifth of the run
    >>> emag.ERGPush(late, layers=(13,)).scale.low
    0.2
    >>> emag.ERGPush(1.5, tau=1).neutral
    True
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
