"""The shipped workflows on ComfyUI's own page: that it posts the API's graphs, and the pictures of docs/comfy.md.

In a ComfyUI's environment, with the page's files in FRONT (`comfyui_frontend_package/static`):
COMFYUI=TREE PYTHONPATH=src python tests/comfyui/server.py TREE NEW_FOLDER 8188 FRONT
Then, in one with Playwright: `python tests/comfyui/shot.py http://127.0.0.1:8188`. CHROMIUM: another browser than its own.
"""

import json
import os
import sys
from typing import Any

from playwright.sync_api import Page, sync_playwright

from workflows import API, PAGE, TOP, small

VIEW = {"width": 1700, "height": 1100}
SHOWN = {"emag": ("Model", "Positive", "Negative", "EMAG", "Sampler"),
         "guidance": ("Model", "Positive", "Negative", "EMAG, SEG and APG", "Sampler"),
         "report": ("EMAG", "Sampler", "Report", "Picks"), "recipe": ("EMAG", "Recipe", "Recipe as text")}
"""The titles of the nodes in each picture."""
RUN = ("report", "recipe")
"""Those whose nodes show what comes out: run with stand-ins for what would have to be downloaded."""
FIT = """([titles, margin]) => {
    const canvas = window.app.canvas, seen = canvas.canvas.getBoundingClientRect()
    const boxes = window.app.graph._nodes.filter(node => titles.includes(node.title)).map(node => node.getBounding())
    const left = Math.min(...boxes.map(box => box[0])), top = Math.min(...boxes.map(box => box[1]))
    const width = Math.max(...boxes.map(box => box[0] + box[2])) - left
    const height = Math.max(...boxes.map(box => box[1] + box[3])) - top
    const scale = canvas.ds.scale = Math.min(0.8, (seen.width - 300) / width, (seen.height - 200) / height)
    canvas.ds.offset = [seen.width / 2 / scale - left - width / 2, seen.height / 2 / scale - top - height / 2]
    canvas.deselectAll?.()
    canvas.setDirty(true, true)
    const shown = [width, height].map(side => side * scale + 2 * margin)
    const at = [seen.x + (seen.width - shown[0]) / 2, seen.y + (seen.height - shown[1]) / 2]
    return {x: at[0], y: at[1], width: shown[0], height: shown[1]}
}"""
"""Bring nodes to the middle of the page; where they are on it."""

POST = """async graph => {
    const api = window.app.api, body = JSON.stringify({prompt: graph, client_id: api.clientId})
    const said = await (await api.fetchApi("/prompt", {method: "POST", body})).json()
    if (!said.prompt_id) throw new Error(JSON.stringify(said))
    const ended = async () => said.prompt_id in await (await api.fetchApi(`/history/${said.prompt_id}`)).json()
    while (!await ended()) await new Promise(resolve => setTimeout(resolve, 200))
}"""
"""Post a graph in the page's name, and wait for its end."""


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
    posted = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert plain(posted) == plain(json.loads((API / f"{name}.json").read_text())), name
    if name in RUN:
        run(page, name)
    clip = page.evaluate(FIT, [SHOWN[name], 24])
    page.wait_for_timeout(1500)
    page.screenshot(path=str(TOP / "docs" / f"comfy-{name}-node.png"), clip=clip)


def run(page: Page, name: str) -> None:
    """Post a workflow in the page's name, which then shows what its nodes gave."""
    page.evaluate(POST, small(API / f"{name}.json"))
    page.wait_for_timeout(2000)


def main(url: str) -> None:
    """All of them."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=os.environ.get("CHROMIUM"), args=["--no-sandbox"])
        page = browser.new_page(viewport=VIEW)
        page.goto(url)
        page.wait_for_function("window.app && window.app.graph", timeout=120_000)
        page.wait_for_timeout(5000)
        for name in SHOWN:
            shown(page, name)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
