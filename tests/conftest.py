"""What holds for every test."""

import gc
from zlib import crc32

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a cross product marked `sampled(n)`, one in n is held by CI and `make test`, and all of it by `make test-long`.

    Which, its name says, so that it is the same ones everywhere, and another case changes nothing for the others.
    """
    for item in items:
        sampled = item.get_closest_marker("sampled")
        if sampled and hasattr(item, "callspec") and crc32(item.nodeid.encode()) % sampled.args[0]:
            item.add_marker(pytest.mark.long)


def pytest_collection_finish():
    """The garbage collector need not look at eighteen thousand tests each time: a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
