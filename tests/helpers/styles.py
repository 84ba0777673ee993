"""Latents of style images, as files."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

SHAPE = (1, 4, 8, 8)  # what the small pipelines denoise


def latents(seed=3, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def style(tensor=None, name="latents"):
    """A safetensors file of latents; its path."""
    path = Path(tempfile.mkdtemp()) / "style.safetensors"
    save_file({name: latents() if tensor is None else tensor}, path)
    return str(path)
