"""What holds for every test."""

import gc


def pytest_collection_finish():
    """The garbage collector need not look at eighteen thousand tests each time: a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
