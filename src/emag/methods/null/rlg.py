"""RLG: the step of reinforcement learning, taken further or back."""

from dataclasses import dataclass

from ..common.two_models import TwoModels


@dataclass(frozen=True)
class RLG(TwoModels):
    """Reinforcement-learning guidance, arXiv 2508.21016: p_ref + w (p_RL - p_ref), both guided with the same scale.

    The pipeline holds the tuned network. model: the one it was tuned from: "lora:0" where the tuning is a LoRA, else a name
    from emag.guide(..., models=...). scale: w, finite, or a schedule of time: 0 the reference, 1 the tuned network (off),
    published 1 to 3. null: "uncond" takes the unconditional rows of the pipeline's call; on pipelines that make two calls
    name the condition, e.g. "prompt:". First steps with the tuned network alone (the authors' zero_init_step): an Interval.
    Where there is no unconditional prediction, `Autoguidance` with this model is the same formula.
    """

    name = "rlg"
    paper = "arXiv 2508.21016"
