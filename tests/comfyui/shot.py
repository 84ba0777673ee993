"""The shipped workflows on ComfyUI's own page: that it posts the API's graphs, and the pictures of docs/comfy.md.

`python tests/comfyui/shot.py http://127.0.0.1:8188` in an environment with Playwright, against a server with our pack and
its page (comfyui-frontend-package). CHROMIUM: another browser than Playwright's own.
"""

import json
import os
import sys
from typing import Any

from playwright.sync_api import Page, sync_playwright

from workflows import API, PAGE, TOP

VIEW = {"width": 1500, "height": 1000}
CLIPS = {"emag": (318, 184, 620, 560), "guidance": (318, 184, 620, 620), "report": (644, 216, 600, 233),
         "recipe": (318, 306, 915, 440)}
"""x, y, width and height of what is shown of each."""


def plain(graph: dict[str, Any]) -> dict[str, Any]:
    """A graph without what is said about it."""
    return {key: (node["class_type"], node["inputs"]) for key, node in graph.items()}


def shown(page: Page, name: str) -> None:
    """One workflow opened, compared and pictured."""
    page.evaluate("graph => window.app.loadGraphData(graph)", json.loads((PAGE / f"{name}.json").read_text()))
    page.wait_for_timeout(1500)
    for _ in range(3):  # the templates that it shows a newcomer
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)
    page.evaluate("at => { at = window.app.canvas; at.ds.scale = 0.8; at.ds.offset = [70, 260]; at.setDirty(true, true) }")
    page.wait_for_timeout(1500)
    posted = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert plain(posted) == plain(json.loads((API / f"{name}.json").read_text())), name
    clip = dict(zip(("x", "y", "width", "height"), CLIPS[name], strict=True))
    page.screenshot(path=str(TOP / "docs" / f"comfy-{name}-node.png"), clip=clip)


def main(url: str) -> None:
    """All of them."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEW)
        page.goto(url)
        page.wait_for_function("window.app && window.app.graph", timeout=120_000)
        page.wait_for_timeout(5000)
        for name in CLIPS:
            shown(page, name)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
