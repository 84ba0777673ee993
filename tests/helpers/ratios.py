"""Ratios for ReCFG, as files."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file


def ratios(tensor=None, name="ratios"):
    """A safetensors file of ratios, one number for all steps; its path."""
    path = Path(tempfile.mkdtemp()) / "ratios.safetensors"
    save_file({name: torch.tensor([0.7]) if tensor is None else tensor}, path)
    return str(path)
