"""One page for all tests of a file."""

import pytest

from page_server import running


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("gradio")
    from emag.lab.web.model import opened

    with running(opened("tiny")) as found:
        yield found
