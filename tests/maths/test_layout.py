"""Packed latents: the same patches as diffusers packs, and back."""

import pytest
import torch
from diffusers import FluxPipeline

from emag.errors import BadValue
from emag.maths.layout import pack, unpack
from reference import at_step, tensors


def test_patches_are_those_of_flux():
    image = tensors(0, 1, 2, 4, 6, 10)[0]
    packed = FluxPipeline._pack_latents(image, 2, 4, 6, 10)
    step = at_step(grid=(3, 5, 2))
    assert torch.equal(unpack(packed, step), image) and torch.equal(pack(image, step), packed)


@pytest.mark.parametrize("shape", [(2, 4, 7), (2, 4, 6, 5), (2, 4, 3, 6, 5)])
def test_latents_without_a_grid_stay(shape):
    x = tensors(0, 1, *shape)[0]
    assert unpack(x, at_step()) is x and pack(x, at_step()) is x


@pytest.mark.parametrize("shape", [(2, 14, 16), (2, 15, 18), (2, 15, 4, 4)])
def test_another_shape_is_refused(shape):
    with pytest.raises(BadValue, match="no 3x5 sequence"):
        unpack(torch.zeros(shape), at_step(grid=(3, 5, 2)))
