"""Every module of the package can be imported, so that no import names what is not there."""

import importlib.util
import pkgutil

import pytest

import emag

RUNS = ("emag.__main__", "emag.lab.train.__main__")  # commands: importing one runs it
# modules that need more than the dev extra brings, and what
NEEDS = {"emag.methods.emag.fused_map": "triton"}
MODULES = [module.name for module in pkgutil.walk_packages(emag.__path__, "emag.") if module.name not in RUNS]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_imported(name):
    if importlib.util.find_spec(NEEDS.get(name, "emag")) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    assert importlib.import_module(name).__name__ == name


def test_what_needs_more_is_there():
    assert set(NEEDS) <= set(MODULES)
