"""Models with an attention of their own for the text, rows counted from outside, and sizes."""

import pytest
import torch

import emag
from emag.engine.reading import read_network
from emag.testing.small_separate import MORE

# where the network, the layout of its calls or its x_t differs; the others differ in what the pipeline does around it
KINDS = pytest.mark.parametrize("case", [case for case in MORE.values() if case.name in (
    "sd3-inpaint-wide", "sd3-control", "sd3.5", "flux-img2img-cfg", "flux-fill", "auraflow", "hunyuan", "sana")],
    ids=lambda case: case.name)
WITH_UNCOND = pytest.mark.parametrize("case", [c for c in MORE.values() if c.uncond],
                                      ids=[c.name for c in MORE.values() if c.uncond])
WINDOW = emag.Window.progress(0, 0.2, 0.9)


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": WINDOW, **more})


def size_of(x):
    return x.abs().max()


def in_dtype(call, dtype):
    """The same arguments, their floats in `dtype`."""
    return {n: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for n, v in call.items()}


def rows_evaluated(pipe):
    """Rows that each block evaluates, counted from outside."""
    counts = {}

    def hook(index):
        def count(module, args, kwargs):
            x = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            counts[index] = counts.get(index, 0) + len(x)
        return count

    for block in read_network(pipe.transformer).blocks:
        block.module.register_forward_pre_hook(hook(block.index), with_kwargs=True)
    return counts
