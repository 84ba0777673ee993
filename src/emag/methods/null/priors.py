"""Unconditional priors: the unconditional prediction of a better network."""

from dataclasses import dataclass

from ..common.other_null import OtherNull


@dataclass(frozen=True)
class Priors(OtherNull):
    """Unconditional priors: a better network gives the unconditional prediction.

    Tuned networks often predict poorly without a condition. Here u <- q(null), q the base of a tuned network, or any
    better one (Eq. 7 of the paper). The scale is that of what combines. Name it before the null rules that rewrite u.

    Args:
        model: name of the better network, from emag.guide(..., models={name: network}). It may be of another
            architecture, if latents and noise levels agree: call it by a function of the pipeline network's
            arguments, and say its `prediction`.

    >>> import emag
    >>> emag.Priors().cost  # emag.guide(pipe, emag.Priors(), emag.CFG(4.0), models={"base": network})
    "none: the other network's evaluation is in the place of the unconditional one"
    """

    name = "priors"
    paper = "arXiv 2503.20240"
    equation = "u <- q(null), q a better unconditional network"
