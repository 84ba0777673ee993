"""Unconditional priors: the unconditional prediction of a better network."""

from dataclasses import dataclass

from ..common.other_null import OtherNull


@dataclass(frozen=True)
class Priors(OtherNull):
    """Unconditional priors, arXiv 2503.20240 Eq. 7: u <- q(null), q the base of a tuned network, or any better one.

    model: may be of another architecture, if latents and noise levels agree; call it by a function of the pipeline network's
    arguments, and say its `prediction`. The scale is that of what combines. See `OtherNull`.
    """

    name = "priors"
    paper = "arXiv 2503.20240"
    equation = "u <- q(null), q a better unconditional network"
