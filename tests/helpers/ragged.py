"""Models whose rows hold texts of different lengths, and what their tests share."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import emag
from emag.engine.reading import read_network
from emag.testing.small_ragged import MORE

close = torch.testing.assert_close
WINDOW, SCALE, STEPS = emag.Window.progress(0, 0.2, 0.9), 4.0, 5
LATE = "z-image-img2img"  # its network and its calls are those of z-image
TWO_CALLS, ANCHORED, NEGATED = ("lumina2", "krea2"), ("z-image", LATE, "krea2"), ("lumina2", "z-image", LATE, "hidream")


def short(case):
    """The same case in a few steps."""
    return replace(case, call=lambda seeds=(8, 9), **more: case.call(seeds, **{"num_inference_steps": STEPS, **more}))


def cases(*names):
    kept = [short(case) for name, case in MORE.items() if name in (names or MORE)]
    return pytest.mark.parametrize("case", kept, ids=[case.name for case in kept])


NETWORKS = [name for name in MORE if name != LATE]


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 3), "window": WINDOW, **more})


def far(made, plain):
    return float((made - plain).norm() / plain.norm())


def cast(value, dtype):
    if isinstance(value, list):
        return [cast(one, dtype) for one in value]
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def precise(case, dtype=torch.float64):
    """A pipeline in another precision, and what calls it."""
    pipe = case.pipe().to(dtype)
    return pipe, lambda seeds=(8, 9), **more: pipe(**{n: cast(v, dtype) for n, v in case.call(seeds, **more).items()}).images


def counted(pipe):
    """Rows that each block evaluates, counted from outside."""
    rows = Counter()

    def hook(index):
        def count(module, args, kwargs):
            rows[index] += len(args[0] if args else kwargs["hidden_states"])
        return count

    for block in read_network(pipe.transformer).blocks:
        block.module.register_forward_pre_hook(hook(block.index), with_kwargs=True)
    return rows
