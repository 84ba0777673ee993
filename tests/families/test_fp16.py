"""Every network in fp16, guided: wherever the network itself stays finite, so does the guided run, and it has an effect."""

import pytest
import torch

import emag
from emag.families import BACKBONES
from emag.lab.doctor.coverage import networks
from present import ABSENT

LINEAR = {"SanaTransformer2DModel", "SanaVideoTransformer3DModel"}  # no map, no queries
NAMES = sorted(set(BACKBONES) - ABSENT - LINEAR)


def halved(value):
    """fp32 tensors of a call in fp16, in lists and dicts too."""
    if isinstance(value, torch.Tensor):
        return value.half() if value.dtype == torch.float32 else value
    if isinstance(value, dict):
        return {key: halved(one) for key, one in value.items()}
    return [halved(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", NAMES)
def test_fp16(name):
    case, pipes = networks()[name], []
    for _ in range(2):
        pipes.append(case.pipe().to(torch.float16))
    call = halved(case.call((8,), num_inference_steps=4))
    call.pop("generator")

    def made(pipe):
        return case.run(pipe, (8,), **call, generator=torch.Generator().manual_seed(8))

    try:
        plain = made(pipes[0])
    except RuntimeError as error:
        pytest.skip(f"the network itself has no fp16 on a CPU: {error}")
    if not plain.isfinite().all():
        pytest.skip("the network itself overflows")
    with emag.guide(pipes[1], emag.EMAG(1.5, window=emag.Window.progress(0, 0.3, 1.0))) as run:
        assert made(pipes[1]).isfinite().all()
    assert run.stats.effect > 0
