"""These tests run on a ComfyUI tree: COMFYUI=its folder. Without one they are left out. See docs/comfy.md."""

import os

import pytest

from tree import use

ROOT = os.environ.get("COMFYUI")
VERSION = use(ROOT) if ROOT else ""
collect_ignore_glob = [] if ROOT else ["test_*.py"]


def pytest_report_header() -> str:
    return f"ComfyUI: {VERSION or 'none (say COMFYUI=folder); its tests are left out'}"


@pytest.fixture(scope="session")
def version() -> str:
    """ComfyUI's version."""
    return VERSION
