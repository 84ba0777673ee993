"""Domain guidance: the unconditional prediction of the pretrained network."""

from dataclasses import dataclass

from ..common.other_null import OtherNull


@dataclass(frozen=True)
class Domain(OtherNull):
    """Domain guidance, arXiv 2504.01521: q(null) + w (p - q(null)), the pipeline's network tuned on a domain, q pretrained.

    model: the pretrained network. null: "uncond", or a label of the pretraining by name (which of the two the paper
    means is unconfirmed). The scale is that of what combines; the paper's is unconfirmed. See `OtherNull`.
    """

    model: str = "pretrained"

    name = "domain"
    paper = "arXiv 2504.01521"
    equation = "u <- q(null), q the pretrained network"
