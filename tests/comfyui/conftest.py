"""These tests run on a ComfyUI tree: COMFYUI=its folder. Without one they are left out. See docs/comfy.md."""

import os
from pathlib import Path

import pytest

from tree import use

ROOT = os.environ.get("COMFYUI")
VERSION = use(ROOT) if ROOT else ""
WHOLE = ["test_nodes.py", "test_server.py"]  # what needs the whole of it: a tree without its autoencoders has no nodes
collect_ignore_glob = ["test_*.py"] if not ROOT else [] if (Path(ROOT) / "comfy/ldm/models").is_dir() else WHOLE


def pytest_report_header() -> str:
    return f"ComfyUI: {VERSION or 'none (say COMFYUI=folder); its tests are left out'}"


@pytest.fixture(scope="session")
def version() -> str:
    """ComfyUI's version."""
    return VERSION
