"""What tests over all pipelines share: the cases to run over, and an EMAG that fits each of them."""

import pytest

import emag
from tiny import CASES

KINDS = {name: case for name, case in CASES.items() if name != "sigma"}
"""One of each kind of network, scheduler and call: PixArt-Sigma has those of PixArt-alpha under another pipeline class."""
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
"""What depends on the pipeline class."""
ALL = pytest.mark.parametrize("case", KINDS.values(), ids=KINDS.keys())
"""What depends on the network, its scheduler and how it is called."""
WITH_UNCOND = pytest.mark.parametrize("case", [c for c in CASES.values() if c.uncond],
                                      ids=[c.name for c in CASES.values() if c.uncond])
WINDOW = emag.Window.progress(0, 0.2, 0.9)


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": WINDOW, **more})
