"""Domain guidance: the unconditional prediction of the pretrained network."""

from dataclasses import dataclass

from ..common.other_null import OtherNull


@dataclass(frozen=True)
class Domain(OtherNull):
    """Domain guidance: the pretrained network gives the unconditional prediction of one tuned on a domain.

    What combines then gives q(null) + w (p - q(null)), p of the pipeline's network, tuned on a domain, and q
    pretrained. The scale is that of what combines; the paper's is unconfirmed. Name it before the null rules that
    rewrite u.

    Args:
        model: the pretrained network, a name from emag.guide(..., models={name: network}).
        null: "uncond", or a label of the pretraining by name (which of the two the paper means is unconfirmed).

    >>> import emag
    >>> emag.Domain().model  # emag.guide(pipe, emag.Domain(), emag.CFG(4.0), models={"pretrained": network})
    'pretrained'
    """

    model: str = "pretrained"

    name = "domain"
    paper = "arXiv 2504.01521"
    equation = "u <- q(null), q the pretrained network"
