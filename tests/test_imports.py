"""Every module of the package can be imported, so that no import names what is not there."""

import importlib
import pkgutil

import pytest

import emag

RUNS = ("emag.__main__", "emag.lab.train.__main__")  # commands: importing one runs it
# modules that need more than the dev extra brings, and what
NEEDS = {"emag.methods.emag.fused_map": "triton"}
MODULES = [module.name for module in pkgutil.walk_packages(emag.__path__, "emag.") if module.name not in RUNS]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_imported(name):
    try:
        importlib.import_module(name)
    except ImportError as error:
        assert error.name and error.name.partition(".")[0] == NEEDS.get(name), error


def test_what_needs_more_is_there():
    assert set(NEEDS) <= set(MODULES)
