"""Heads for annealing guidance, as files."""

import tempfile
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZES = (12, 16, 16, 1)


def head(sizes=SIZES, seed=0, size=0.3):
    """The tensors of a head by name; `size` 0 makes one that always gives 0."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for i, (into, out) in enumerate(pairwise(sizes)):
        tensors[f"combined_head.{2 * i}.weight"] = size * torch.randn(out, into, generator=generator)
        tensors[f"combined_head.{2 * i}.bias"] = size * torch.randn(out, generator=generator)
    return tensors


def written(tensors=None, folder=None):
    """A safetensors file of a head; its path."""
    path = Path(folder or tempfile.mkdtemp()) / "head.safetensors"
    save_file(head() if tensors is None else tensors, path)
    return str(path)
