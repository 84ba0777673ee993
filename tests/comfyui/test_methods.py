"""Every method of the library under a ComfyUI model: it changes the result, or is refused in words. None is silent."""

import functools
from typing import Any

import pytest
import torch

from emag.errors import EmagError
from emag.hosts.comfy.patch import patched
from emag.methods import METHODS
from emag.records.graph import guidance_rules
from smallcomfy import SMALL, build, sample

VALUES = {"ag": "=0"}
"""Where a default does nothing on a random network: its branches never come as near to each other."""
STEPS = 6


@functools.cache
def made(family: str) -> tuple[Any, torch.Tensor]:
    """A model, and its latents without a guidance of ours."""
    model = build(SMALL[family])
    return model, sample(model, SMALL[family], steps=STEPS)


def outcome(family: str, text: str) -> torch.Tensor | str:
    """The latents under rules, or why there are none."""
    try:
        return sample(patched(made(family)[0], guidance_rules(text)), SMALL[family], steps=STEPS)
    except EmagError as error:
        return str(error)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["sd3", "sdxl"])
def test_no_method_is_silent(family: str, name: str) -> None:
    """As it comes; where that is refused with a first value, and where that is behind a rule that combines."""
    plain, own = made(family)[1], name + VALUES.get(name, "")
    for text in (own, f"{name}=1.5", f"cfg=4 {own}"):
        out = outcome(family, text)
        if not isinstance(out, str):
            assert torch.isfinite(out).all()
            assert (out - plain).abs().max() > 1e-4 * plain.abs().max(), text
            return
        assert len(out.split()) > 4
