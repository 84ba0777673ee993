"""Joint models in five steps, and what their tests share."""

from dataclasses import replace

import pytest
import torch

import emag
from emag.testing.small_joint import MORE as JOINT
from emag.testing.small_longcat import MORE as LONGCAT

close = torch.testing.assert_close
MORE = JOINT | {"longcat": LONGCAT["longcat"]}
SCALE, WINDOW = 4.0, emag.Window.progress(0, 0.2, 0.9)


def short(case):
    """The same case in five steps."""
    return replace(case, call=lambda seeds=(8, 9), **more: case.call(seeds, **{"num_inference_steps": 5, **more}))


def cases(*names, uncond=False):
    kept = [short(case) for name, case in MORE.items() if name in (names or MORE) and (case.uncond or not uncond)]
    return pytest.mark.parametrize("case", kept, ids=[case.name for case in kept])


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 3), "window": WINDOW, **more})


def attention_of(case):
    return "attn1" if case.name == "cogview4" else "attn"


def far(made, plain):
    return float((made - plain).norm() / plain.norm())
