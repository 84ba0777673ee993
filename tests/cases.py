"""What tests over all pipelines share: the cases to run over, and an EMAG that fits each of them."""

import pytest

import emag
from tiny import CASES

ALL = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
WITH_UNCOND = pytest.mark.parametrize("case", [c for c in CASES.values() if c.uncond],
                                      ids=[c.name for c in CASES.values() if c.uncond])
WINDOW = emag.Window.progress(0, 0.2, 0.9)


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": WINDOW, **more})
