"""Pictures of the page, for docs/web.md and for whoever changes it: `python tests/web/shot.py FOLDER [--narrow]`.

In an environment with the extra `web` and Playwright; CHROMIUM names another browser than Playwright's own. Writes web.png,
the page with two rules on the world of shapes; with --narrow web-narrow.png, the whole page 420 pixels wide, too.
"""

import os
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from emag.lab.web.model import opened
from page_server import running

STACK, PROMPT = "emag=1.5 seg=1.3", "a red circle above a blue square"


def drawn(page: Page, url: str) -> None:
    """The page once it has drawn."""
    page.goto(url)
    page.wait_for_selector("#rule-0")
    page.fill("#prompt textarea", PROMPT)
    page.fill("#stack textarea", STACK)
    page.wait_for_selector("#rule-1:has-text('seg')")
    page.click("#draw")
    page.wait_for_function("document.querySelector('#status').innerText.includes('Done')", timeout=240_000)
    page.wait_for_selector("#plot img")
    page.wait_for_timeout(800)


def main(folder: Path, narrow: bool) -> None:
    """Both pictures, or the first alone."""
    with running(opened("shapes")) as server, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox", "--disable-gpu"])
        for name, width, whole in (("web", 1000, False), *((("web-narrow", 420, True),) if narrow else ())):
            page = browser.new_page(viewport={"width": width, "height": 900})
            drawn(page, server.url)
            page.screenshot(path=str(folder / f"{name}.png"), full_page=whole)
            page.close()
        browser.close()


if __name__ == "__main__":
    if not sys.argv[1:] or not Path(sys.argv[1]).is_dir():
        sys.exit("expected a folder: python tests/web/shot.py docs")
    main(Path(sys.argv[1]), "--narrow" in sys.argv)
