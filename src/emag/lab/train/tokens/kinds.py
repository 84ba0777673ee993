"""All kinds of host by name, and their embedded models."""

from typing import Any

from ....models import WEIGHTS
from . import codec, filled, written
from .host import Kind

KINDS: dict[str, Kind] = {kind.name: kind for kind in (*written.KINDS, *codec.KINDS, *filled.KINDS)}
PLACES = {"causal": "digits", "encoder-decoder": "digits-t5", "codec": "digits-musicgen", "masked": "digits-modernbert",
          "image": "stripes-emu3", "masked-image": "stripes-amused"}
"""The folder of each embedded model."""


def embedded(name: str) -> Any:
    """The embedded model of a kind."""
    return KINDS[name].load(WEIGHTS / PLACES[name])
