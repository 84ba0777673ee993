"""The page as a client of Gradio's sees it: what it can ask, one run after another, a closed window, and no growth."""

import threading
import time

import pytest

from emag.lab.draw.sampling import DrawSettings
from emag.lab.web.job import Ask, see
from emag.lab.web.model import opened
from emag.lab.web.stack import parse
from emag.records import png
from page_server import running

pytest.importorskip("gradio")
gradio_client = pytest.importorskip("gradio_client")
Client = gradio_client.Client
CALL = {"prompt": "a photo of a ship", "negative": "", "seed": 8, "steps": 3, "scale": 2.5, "guidance": "emag=1.5"}


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, verbose=False, analytics_enabled=False)


def test_the_interface_is_declared_with_words(client):
    told = client.view_api(return_format="dict")["named_endpoints"]
    assert set(told) == {"/draw", "/price", "/methods"}
    names = [one["parameter_name"] for one in told["/draw"]["parameters"]]
    assert names[:6] == list(CALL)


def test_price_and_methods(client):
    found = client.predict(prompt="a photo of a ship", guidance="emag=1.5", steps=6, api_name="/price")
    assert (found["evaluations"], found["plain"]) == (120, 96)
    methods = {one["name"]: one for one in client.predict(api_name="/methods")}
    assert methods["emag"]["refused"] is None and "moves tokens" in methods["tpg"]["refused"]


def test_a_wrong_guidance_is_a_line_for_a_client(client):
    with pytest.raises(gradio_client.exceptions.AppError, match="no method"):
        client.predict(prompt="a ship", guidance="nosuch", steps=6, api_name="/price")
    with pytest.raises(gradio_client.exceptions.AppError, match="both combine"):
        client.predict(**{**CALL, "guidance": "cfg=2 apg=2"}, api_name="/draw")


@pytest.mark.slow
def test_a_client_draws_what_guide_draws(client):
    """The picture is that of a run without the page, and the file carries its recipe."""
    file = client.predict(**CALL, api_name="/draw")[5]
    sight = see(opened("tiny"), Ask("a photo of a ship", parse("emag=1.5"), settings=DrawSettings(3, 2.5)),
                lambda *told: None, threading.Event())
    assert png.same_pixels(png.read_image(file), sight.guided.images[0])
    assert png.read_record(file)["seeds"] == [8]


@pytest.mark.long
def test_two_clients_are_served_one_after_another(server, client):
    """The second waits for the first, is told its place, and gets its picture."""
    other = Client(server.url, verbose=False, analytics_enabled=False)
    long = client.submit(**{**CALL, "steps": 40}, api_name="/draw")
    while long.status().code.name not in ("PROCESSING", "ITERATING"):
        time.sleep(0.02)
    short, places = other.submit(**CALL, api_name="/draw"), set()
    while not short.done():
        places.add(short.status().rank)
        time.sleep(0.02)
    assert long.done() and short.result() and 0 in places


@pytest.mark.slow
def test_closing_a_window_ends_its_run():
    model = opened("tiny")
    with running(model) as server:
        gone = Client(server.url, verbose=False, analytics_enabled=False)
        job = gone.submit(**{**CALL, "steps": 900}, api_name="/draw")
        while not model.lock.locked():
            time.sleep(0.02)
        before = time.monotonic()
        job.cancel()
        while model.lock.locked():
            assert time.monotonic() - before < 60, "the run goes on"
            time.sleep(0.02)
        assert "forward" not in vars(model.pipe.transformer) and not model.pipe.transformer._forward_hooks
