"""Personalization guidance: the unconditional prediction of weights between pretrained and tuned."""

from dataclasses import dataclass

from ..common.other_model import LORA
from ..common.other_null import OtherNull


@dataclass(frozen=True)
class Personalization(OtherNull):
    """Personalization guidance: u comes from weights between the pretrained and the tuned network.

    The pipeline holds the tuned network; u <- q(null), q with weights (1 - omega) W0 + omega W1, pretrained and
    tuned. A share omega of 1 is CFG on the tuned network (off), 0 is `Domain`. Which end the paper counts from, and
    its values, are unconfirmed: 0.5 is an untested default. Name it before the null rules that rewrite u.

    Args:
        model: "lora:0.5" where the tuning is a LoRA: weights W0 + 0.5 dW, exactly. Else the name of what
            `emag.methods.common.other_model.interpolated(pretrained, tuned, 0.5)` gives, from emag.guide(...,
            models=...).

    >>> import emag
    >>> emag.Personalization("lora:0.3").neutral, emag.Personalization("lora:1").neutral
    (False, True)
    """

    model: str = f"{LORA}0.5"

    name = "personalization"
    paper = "arXiv 2508.00319"
    equation = "u <- q(null), q of weights (1 - omega) W0 + omega W1"
