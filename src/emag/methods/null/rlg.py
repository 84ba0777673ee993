"""RLG: the step of reinforcement learning, taken further or back."""

from dataclasses import dataclass

from ..common.two_models import TwoModels


@dataclass(frozen=True)
class RLG(TwoModels):
    """Reinforcement-learning guidance: take the step from a network to its tuned version further, or back.

    p_ref + w (p_RL - p_ref), both guided with the same scale. The pipeline holds the tuned network. Name it before
    the rule that combines. For first steps with the tuned network alone (the authors' zero_init_step) give an
    `Interval`. Where there is no unconditional prediction, `Autoguidance` with this model is the same formula.

    Args:
        scale: w, finite, or a schedule of time: 0 the reference, 1 the tuned network (off), published 1 to 3.
        model: the network it was tuned from: "lora:0" where the tuning is a LoRA, else a name from emag.guide(...,
            models=...).

    >>> import emag
    >>> emag.RLG(2.0).equation
    'q + w (p - q) for both branches, q of another network'
    """

    name = "rlg"
    paper = "arXiv 2508.21016"
