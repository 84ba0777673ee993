"""Personalization guidance: the unconditional prediction of weights between pretrained and tuned."""

from dataclasses import dataclass

from ..common.other_model import LORA
from ..common.other_null import OtherNull


@dataclass(frozen=True)
class Personalization(OtherNull):
    """Personalization guidance, arXiv 2508.00319: u <- q(null), q with weights between pretrained and tuned.

    The pipeline holds the tuned network. model: "lora:0.5" where the tuning is a LoRA: weights W0 + 0.5 dW, exactly; else
    the name of what `interpolated(pretrained, tuned, 0.5)` gives. A share omega of 1 is CFG on the tuned network (off), 0 is
    `Domain`. Which end the paper counts from, and its values, are unconfirmed: 0.5 is an untested default. See `OtherNull`.
    """

    model: str = f"{LORA}0.5"

    name = "personalization"
    paper = "arXiv 2508.00319"
    equation = "u <- q(null), q of weights (1 - omega) W0 + omega W1"
