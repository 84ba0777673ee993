"""What we know of a model family, as data. Nothing here is guessed: what is not declared is refused where it is needed.

An entry is a frozen record, and each field says what it means where it stands: networks in `network.py`, pipelines in
`pipeline.py`, the family itself in `family.py`, values that many of them share in `usual.py`.
"""

from .family import Default, Example, Family
from .network import Backbone, Encode, Stack, Tensors
from .pipeline import Host, Layout
from .usual import (
    CROSS,
    DIT_WINDOW,
    DUAL,
    EARLY,
    FLUX_NEGATIVE,
    JOINT,
    MERGED,
    MIDDLE,
    OWN_PAG,
    RESCALE,
    SD3_WINDOW,
    SINGLE,
    SKIP,
)

__all__ = ["CROSS", "DIT_WINDOW", "DUAL", "EARLY", "FLUX_NEGATIVE", "JOINT", "MERGED", "MIDDLE", "OWN_PAG", "RESCALE",
           "SD3_WINDOW", "SINGLE", "SKIP", "Backbone", "Default", "Encode", "Example", "Family", "Host", "Layout", "Stack",
           "Tensors"]
