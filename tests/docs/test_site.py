"""The site builds without a warning, and fetches nothing from elsewhere."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from browser import needs_chromium
from browser import page as tab_of

pytest.importorskip("mkdocs", reason="pip install emag[docs]")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What `make site` has built of docs and sources as they are, or a build of its own."""
    built = ROOT / "out" / "site"
    told = [path.stat().st_mtime for part in ("docs", "src") for path in (ROOT / part).rglob("*.*") if path.suffix != ".pyc"]
    if (built / "sitemap.xml").exists() and (built / "sitemap.xml").stat().st_mtime > max(told):
        return built
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", folder]
    done = subprocess.run(command, cwd=ROOT, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_is_fetched_from_elsewhere(site):
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 30
    for page in pages:
        text = page.read_text()
        tags = re.findall(r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*>", text)
        assert not [tag for tag in tags if re.search(r"""(?:src|href|data)=["']?(?:https?:)?//""", tag)], page
        assert not re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", text), page
        assert 'class="mermaid"' not in text  # the theme would fetch a script for it


def test_every_public_name_and_its_text_are_there(site):
    text = (site / "reference" / "methods" / "index.html").read_text()
    for told in ('id="emag.EMAG"', "Exponential moving average guidance", "<strong>Cost</strong>", "where there is none."):
        assert told in text, told


@needs_chromium
def test_a_browser_asks_nobody_else(site, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, tab_of(tmp_path) as tab:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        tab.own = (*tab.own, address, f"blob:{address}")
        for page in ("", "architecture/", "tutorials/first-image/", "reference/guiding/"):
            tab.open(address + page)
            tab.run("new Promise(done => setTimeout(done, 300))")  # what scripts ask for once the page is there
        server.shutdown()
        assert tab.problems == []
