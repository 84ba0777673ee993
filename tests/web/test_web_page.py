"""The page in a real browser: built, run, slid, cancelled, voted on, a picture dropped, and nobody else asked."""

import os
import shutil
import time

import pytest

from emag.hosts.load import MODELS
from emag.lab.draw.sampling import DrawSettings, Job, arguments, draw_images
from emag.lab.web.model import opened
from emag.lab.web.stack import parse
from emag.records import png
from page_server import running

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"), pytest.mark.slow]
SECONDS = 45_000


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def page(browser, server):
    """A window, whose console has no errors and which asks nobody but the server."""
    with window(browser, server) as found:
        yield found


class window:
    """A window of its own session, `width` pixels wide. first: a script that it runs before the page's own."""

    def __init__(self, browser, server, width=1400, first=""):
        self.context = browser.new_context(viewport={"width": width, "height": 1000})
        self.context.add_init_script(first)
        self.own, self.problems = (server.url, "data:", "blob:"), []
        self.url = server.url

    def __enter__(self):
        page = self.context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(self.own) else self.problems.append(asked.url))
        page.goto(self.url)
        page.wait_for_selector("#rule-0")
        page.fill("#steps input", "4")
        return page

    def __exit__(self, *error):
        self.context.close()
        assert not self.problems or error[0], self.problems


def says(page, text, at="#status"):
    page.wait_for_function("([at, text]) => document.querySelector(at).innerText.includes(text)", arg=[at, text])


def words(page, text):
    page.wait_for_function("text => document.querySelector('#stack textarea').value === text", arg=text)


def test_a_stack_is_built_run_and_slid(page):
    page.click("#add button")
    page.click('button[data-name="seg"]')
    words(page, "emag=1.5 seg")
    page.click("#up-1")
    words(page, "seg emag=1.5")
    page.wait_for_selector("#rule-1:has-text('emag')")
    slider = page.locator("#field-0-scale input[type=number]")
    slider.fill("2")
    slider.press("Enter")
    words(page, "seg=2 emag=1.5")
    says(page, "+43.8%", "#price")
    page.click("#draw")
    says(page, "Done: 92 block")
    assert page.locator("#slider img").count() == 2 and page.locator("#weak img").count() == 1
    page.wait_for_selector("#plot img")
    handle = page.locator("#slider .inner, #slider [role=slider], #slider .icon-wrap").first
    box, before = handle.bounding_box(), page.locator("#slider").screenshot()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert page.locator("#slider").screenshot() != before


def test_rules_are_dragged_and_moved_by_arrow(page):
    page.fill("#stack textarea", "emag=1.5 seg=1.2 cads")
    places = page.locator("#order button")
    page.wait_for_selector("#order button >> nth=2")
    places.nth(2).hover()
    page.mouse.down()
    first = places.nth(0).bounding_box()
    page.mouse.move(first["x"] + 20, first["y"] + first["height"] / 2, steps=4)
    page.mouse.up()
    words(page, "cads emag=1.5 seg=1.2")
    says(page, "1. cads", "#order")
    page.wait_for_selector("#rule-0:has-text('cads')")
    places.nth(0).press("ArrowDown")
    words(page, "emag=1.5 cads seg=1.2")
    says(page, "2. cads", "#order")
    playwright.expect(places.nth(1)).to_be_focused(timeout=SECONDS)
    page.keyboard.press("ArrowDown")  # the keyboard went with the rule
    words(page, "emag=1.5 seg=1.2 cads")
    page.keyboard.press("ArrowDown")  # and the last one stays, in the new list and in the old one, if that still stands
    page.fill("#stack textarea", "cads")
    page.wait_for_function("document.querySelectorAll('#order button').length === 0")


def test_words_make_controls_and_greyed_ones_say_why(page):
    page.fill("#stack textarea", "cads apg=4")
    page.wait_for_selector("#rule-1:has-text('apg')")
    page.fill("#stack textarea", "cfg=2 apg=4")
    says(page, "both combine", "#price")
    page.click("#remove-0")
    words(page, "apg=4")
    page.click("#add button")
    second = page.locator("li:has(button[data-name=cfg])")
    playwright.expect(second).to_contain_text("Not with these rules: apg and cfg both combine", timeout=SECONDS)
    assert page.locator('button[data-name="cfg"]').is_disabled()
    page.click('button[data-name="rescale"]')
    words(page, "apg=4 rescale")
    page.wait_for_selector("#rule-1:has-text('rescale')")
    page.click("#remove-0")
    words(page, "rescale")
    playwright.expect(second).not_to_contain_text("Not with", timeout=SECONDS)
    page.click('button[data-name="cfg"]')  # before the one that works on what it combines
    words(page, "cfg rescale")
    greyed = page.locator('button[data-name="tpg"]')
    assert greyed.is_disabled() and "moves tokens about" in page.locator("li:has(button[data-name=tpg])").inner_text()


def test_a_run_is_cancelled_and_the_next_one_is_as_ever(page, server):
    page.fill("#steps input", "800")
    page.click("#draw")
    says(page, "step")
    page.click("#cancel")
    says(page, "Stopped")
    page.fill("#steps input", "4")
    page.click("#draw")
    says(page, "Done: 76 block")


def test_two_windows_take_turns(browser, server):
    with window(browser, server) as first, window(browser, server) as second:
        first.fill("#steps input", "150")
        first.click("#draw")
        says(first, "step")
        second.click("#draw")
        says(second, "queue")
        first.click("#cancel")
        says(second, "Done: 76 block")


def test_a_closed_window_frees_the_model(browser, server):
    with window(browser, server) as first:
        first.fill("#steps input", "900")
        first.click("#draw")
        says(first, "step")
    with window(browser, server) as second:
        start = time.monotonic()
        second.click("#draw")
        says(second, "Done: 76 block")
        assert time.monotonic() - start < SECONDS / 1000


def test_a_vote_by_key_and_its_result(page):
    page.click("button[role=tab]:has-text('Blind')")
    page.click("#begin")
    says(page, "Pair 1")
    page.locator("#title").click()
    for key, pair in (("ArrowLeft", "Pair 2"), ("ArrowDown", "Pair 3"), ("ArrowRight", "Pair 4")):
        page.keyboard.press(key)
        says(page, pair)
    says(page, "3 vote(s)", "#result")
    page.click("#vote-undo")
    says(page, "2 vote(s)", "#result")
    page.click("#tell")
    says(page, "of 1 vote(s), 1 without a preference", "#result")


def test_a_dropped_picture_fills_the_form(page, tmp_path):
    pipe = opened("tiny").pipe
    call = arguments(pipe, [Job("a photo of a frog", None, 5)], DrawSettings(3, 1.5))
    made, run = draw_images(pipe, call, [5], parse("seg=1.3 apg=3"))
    path, = png.save(made, tmp_path, run.record)
    page.set_input_files("#drop input[type=file]", str(path))
    says(page, "Read from a picture of emag", "#read")
    assert page.input_value("#prompt textarea") == "a photo of a frog" and page.input_value("#seed input") == "5"
    page.wait_for_selector("#rule-1:has-text('apg')")
    page.click("#draw")
    says(page, "Done")
    page.wait_for_selector("#download:not([disabled])")
    with page.expect_download() as got:
        page.click("#download")
    assert png.same_pixels(png.read_image(got.value.path()), png.read_image(path))
    assert png.read_record(got.value.path())["rules"] == png.read_record(path)["rules"]


LATE = """(() => {
  const plain = window.fetch, end = 'data: {"msg":"close_stream"';
  window.fetch = async (...given) => {
    const answer = await plain(...given);
    if (!String(given[0]?.url ?? given[0]).includes('/queue/data')) return answer;
    const late = new TransformStream({async transform(part, to) {
      const text = new TextDecoder().decode(part), at = text.indexOf(end), code = new TextEncoder();
      if (at < 0) return to.enqueue(part);
      if (at > 0) to.enqueue(code.encode(text.slice(0, at)));
      window.ending = true;
      await new Promise((go) => setTimeout(go, 2000));
      window.ending = false;
      to.enqueue(code.encode(text.slice(at)));
    }});
    return new Response(answer.body.pipeThrough(late), answer);
  };
})();"""
"""What the server says of the end of its answers comes two seconds late to the window."""


def test_a_press_as_the_last_run_ends_is_answered(browser, server):
    """The server has closed its stream, and the window does not know it yet."""
    with window(browser, server, first=LATE) as page:
        page.click("#draw")
        says(page, "Done: 76 block")
        page.wait_for_function("window.ending")
        page.locator("#steps input").fill("5")
        with page.expect_response(lambda answer: "/queue/join" in answer.url):
            page.click("#draw")
        assert page.evaluate("window.ending"), "the press came too late to be one of these"
        says(page, "Done: 98 block")


@pytest.mark.skipif("shapes" not in MODELS, reason="its weights are not in this package")
def test_the_world_of_shapes_is_judged(browser, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))  # Gradio has one for all servers
    with running(opened("shapes")) as server, window(browser, server) as page:
        assert page.input_value("#prompt textarea") == opened("shapes").example and page.input_value("#scale input") == "3"
        page.click("#draw")
        says(page, "Done")
        for name in ("Plain", "Guided", "Weak"):
            says(page, name, "#verdict")


def test_a_reload_begins_anew(page):
    page.fill("#stack textarea", "pag=2")
    page.wait_for_selector("#rule-0:has-text('pag')")
    page.reload()
    page.wait_for_selector("#rule-0:has-text('emag')")
    words(page, "emag=1.5")


@pytest.mark.parametrize("width", [1400, 420])
def test_nothing_serious_in_the_way_of_a_reader(browser, server, width):
    """Labels, contrasts and roles by axe; no part is wider than the window."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with window(browser, server, width) as page:
        page.click("#draw")
        says(page, "Done")
        page.wait_for_timeout(500)
        for tab in ("See", "Strengths", "Seeds", "Blind", "Explore"):
            page.click(f"button[role=tab]:has-text('{tab}')", force=True) if width > 500 else None
            found = axe.run(page).response["violations"]
            serious = [(one["id"], [node["target"] for node in one["nodes"]]) for one in found
                       if one["impact"] in ("serious", "critical") and one["id"] not in GRADIO]
            assert not serious, serious
        assert page.evaluate("document.documentElement.scrollWidth") <= width


GRADIO = ()
"""Findings about components of Gradio's own, which a page cannot change."""
