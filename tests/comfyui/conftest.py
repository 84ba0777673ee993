"""These tests run on a ComfyUI tree: COMFYUI=its folder. Without one they are left out. See docs/comfy.md."""

import os
from pathlib import Path

import pytest

from tree import use

ROOT = os.environ.get("COMFYUI")
VERSION = use(ROOT) if ROOT else ""
WITHOUT = "test_comfy_pack.py"  # what needs no ComfyUI
collect_ignore = [] if ROOT else [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != WITHOUT]


def pytest_report_header() -> str:
    return f"ComfyUI: {VERSION or 'none (say COMFYUI=folder); its tests are left out'}"


@pytest.fixture(scope="session")
def version() -> str:
    """ComfyUI's version."""
    return VERSION
