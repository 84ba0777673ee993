"""Pipelines that edit pictures, and what their tests share."""

from dataclasses import replace

import pytest

import emag
from emag.testing import small_control, small_edits, small_longcat
from separate import in_dtype

REFERENCES = small_edits.MORE | {"longcat-edit": small_longcat.MORE["longcat-edit"]}
MORE = REFERENCES | small_control.MORE
SCALE, WINDOW = 4.0, emag.Window.progress(0, 0.2, 0.9)
KINDS = ("qwen-edit-2511", "qwen-layered", "kontext-cfg", "klein-edit",
         "longcat-edit")  # where the network, or its sequence, is another


def cases(names=tuple(MORE), uncond=None):
    kept = [MORE[name] for name in names if uncond is None or MORE[name].uncond == uncond]
    return pytest.mark.parametrize("case", kept, ids=[case.name for case in kept])


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 3), "window": WINDOW, **more})


def far(made, plain):
    return float((made - plain).norm() / plain.norm())


def cast(case, dtype):
    """The same case, its tensors in `dtype`."""
    return replace(case, call=lambda seeds=(8, 9), **more: in_dtype(case.call(seeds, **more), dtype))
