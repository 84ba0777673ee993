"""Blind votes: what is asked, what is kept, what it comes to, and whom the server answers."""

import errno
import io
import json
import multiprocessing
import os
import threading
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import browser
from emag.errors import BadValue
from emag.lab.evaluate.folder import image_name
from emag.lab.evaluate.report import votes
from emag.lab.evaluate.report.ballot import Ballot
from emag.lab.evaluate.report.page import page
from emag.lab.evaluate.report.server import Server
from emag.lab.evaluate.report.votes import Share, Vote
from emag.lab.evaluate.storage import Storage
from reported import folder
from shell import emag

PAIR = ("cfg", "pag")


@pytest.fixture
def run(tmp_path):
    return folder(tmp_path / "run", images=6)


@pytest.fixture
def server(run):
    with Server(Ballot(run, PAIR, "ann", seed=3)) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server, method, path, body=None, **headers):
    """Status, headers and body of an answer."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.headers), answer.read()
    connection.close()
    return found


def vote(server, body, **headers):
    given = {"Origin": server.url.rstrip("/"), "Content-Type": "application/json", **headers}
    return ask(server, "POST", "/vote", body if isinstance(body, (bytes, str)) else json.dumps(body), **given)


def cast_all(ballot, prefer):
    """Vote by a function of the recipes on the two sides."""
    while (number := ballot.next) is not None:
        assert ballot.cast(number, prefer(**ballot.sides(number)))


# what it comes to


@pytest.mark.parametrize(("k", "n", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0, 0.2775), (50, 100, 0.4038, 0.5962),
                                                     (0, 0, 0, 1)])
def test_wilsons_interval(k, n, low, high):
    assert Share(k, n).interval == pytest.approx((low, high), abs=1e-4)


def test_wilsons_interval_holds_the_rate_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = [Share(int(k), 40).interval for k in rng.binomial(40, 0.3, 4000)]
    assert np.mean([low <= 0.3 <= high for low, high in draws]) == pytest.approx(0.95, abs=0.02)


def test_a_tally_counts_the_recipe_and_the_side():
    cast = [Vote(0, "a", "b", "left"), Vote(1, "b", "a", "right"), Vote(2, "a", "b", "right"), Vote(3, "b", "a", "none")]
    found = votes.tally([cast, [Vote(0, "a", "c", "left")], [Vote(0, "b", "a", "right")]], "a", "b")
    assert (found.wins, found.lefts, found.ties, found.votes, found.voters) == (Share(3, 4, 3), Share(1, 4, 3), 1, 5, 2)


def test_votes_of_many_people_on_few_images_are_about_few_images():
    """Ten people who agree on four images say what one says on four: nothing clear. On forty images, one is enough."""
    people = [[Vote(i, "a", "b", "left") for i in range(4)] for _ in range(10)]
    assert votes.tally(people, "a", "b").wins.interval == votes.tally(people[:1], "a", "b").wins.interval
    assert votes.tally(people, "a", "b").votes == 40
    assert not votes.tally([[Vote(i, "a", "b", "left") for i in range(40)]], "a", "b").wins.even


def test_a_number_voted_on_in_two_windows_counts_once():
    cast = [Vote(0, "a", "b", "left"), Vote(0, "a", "b", "right"), Vote(0, "a", "c", "right")]
    found = votes.tally([cast], "b", "a")
    assert (found.votes, found.wins.k) == (1, 0)


def test_who_always_takes_the_left_is_noticed():
    cast = [Vote(i, *(("a", "b") if i % 2 else ("b", "a")), "left") for i in range(20)]
    found = votes.tally([cast], "a", "b")
    assert found.wins.even and found.verdict == "no clear preference" and not found.lefts.even


# what is asked


def test_a_preference_is_found_whatever_the_sides(run):
    cast_all(Ballot(run, PAIR), lambda left, right: "left" if left == "pag" else "right")
    [found] = votes.tallies(run.storage)
    assert (found.a, found.b, found.wins) == ("cfg", "pag", Share(0, 6, 6))
    assert found.verdict == "pag is preferred"


def test_order_and_sides_are_seeded_and_mixed(tmp_path):
    run = folder(tmp_path / "run", images=40, recipes=PAIR)
    first, again, other = (Ballot(run, *given) for given in ((PAIR, "a", 1), (PAIR[::-1], "b", 1), (PAIR, "c", 2)))
    sides = [first.sides(number)["left"] for number in range(40)]
    assert first.numbers == again.numbers != other.numbers and sorted(first.numbers) == list(range(40))
    assert sides == [again.sides(number)["left"] for number in range(40)]
    assert sides != [other.sides(number)["left"] for number in range(40)]
    assert 10 < sides.count("cfg") < 30


def test_a_ballot_goes_on_where_it_was_left(run):
    first = Ballot(run, PAIR, "ann", limit=4)
    for _ in range(2):
        first.cast(first.next, "none")
    again = Ballot(run, PAIR[::-1], "ann", limit=4)
    assert again.progress == (2, 4) and again.next == first.next == first.numbers[2]
    assert Ballot(run, PAIR, "bob").progress == Ballot(run, ("cfg", "emag"), "ann").progress == (0, 6)


def test_a_vote_is_taken_back_and_asked_for_again(run):
    """Only the latest one, however often; after a restart too, and never one of another pair."""
    other, ballot = Ballot(run, ("cfg", "emag"), "ann"), Ballot(run, PAIR, "ann")
    assert not ballot.undo()
    other.cast(other.next, "right")
    assert not ballot.undo()
    first, second = ballot.numbers[:2]
    assert ballot.cast(first, "left") and ballot.cast(second, "left") and ballot.undo()
    assert (ballot.next, ballot.progress[0]) == (second, 1)
    assert ballot.cast(second, "none")
    again = Ballot(run, PAIR, "ann")
    assert again.undo() and again.undo() and not again.undo()
    assert again.next == first and again.progress[0] == 0
    assert [one.choice for one in votes.read(run.storage, "ann")] == ["right"]
    [found] = votes.tallies(run.storage)
    assert (found.a, found.b, found.votes) == ("cfg", "emag", 1)


def test_a_vote_that_was_cut_off_is_asked_for_again(run):
    ballot = Ballot(run, PAIR, "ann")
    for _ in range(2):
        ballot.cast(ballot.next, "left")
    path = run.storage.path(votes.file_of("ann"))
    with open(path, "rb+") as file:
        file.truncate(file.seek(0, 2) - 9)
    assert len(votes.read(run.storage, "ann")) == 1
    again = Ballot(run, PAIR, "ann")
    assert again.next == ballot.numbers[1]
    again.cast(again.next, "right")
    assert [one.choice for one in votes.read(run.storage, "ann")] == ["left", "right"]


def cast(storage, numbers):
    for number in numbers:
        votes.append(storage, "ann", Vote(number, "a", "b", "left"))


def numbers(storage):
    return [one.number for one in votes.read(storage, "ann")]


@pytest.mark.parametrize("room", [0, 1, 9, 40, 61])
def test_a_vote_on_a_full_disk_is_not_stored_and_harms_none(server, run, monkeypatch, room):
    """The disk takes `room` bytes of the vote, without an error, and then no more. The page hears of it."""
    real, path = os.write, run.storage.path(votes.file_of("ann"))
    vote(server, {"number": server.ballot.next, "choice": "left"})
    before = Path(path).read_bytes()
    assert len(before) > 61
    left = [room]

    def full(handle, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, left[0] = min(left[0], len(data)), 0
        return real(handle, bytes(data)[:taken])

    number = server.ballot.next
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        status, _, said = vote(server, {"number": number, "choice": "right"})
    assert status == 507 and "No space left" in json.loads(said)["error"]
    assert Path(path).read_bytes() == before and server.ballot.next == number
    assert vote(server, {"number": number, "choice": "right"})[0] == 200
    assert [one.number for one in votes.read(run.storage, "ann")] == server.ballot.numbers[:2]


def test_a_line_cut_off_by_a_crash_spoils_itself_alone(run):
    """At any place, and whatever is cast after it."""
    line = votes.line_of(Vote(7, "a", "b", "left"))
    for end in range(len(line) + 1):
        run.storage.write(votes.file_of("ann"), votes.line_of(Vote(1, "a", "b", "left")) + line[:end])
        whole = [7] if end >= len(line) - 1 else []
        assert numbers(run.storage) == [1, *whole]
        cast(run.storage, [2, 3])
        assert numbers(run.storage) == [1, *whole, 2, 3]


def test_votes_of_several_processes_are_all_there(run):
    """As with two pages open under one name, also where the file ends in half a line."""
    run.storage.write(votes.file_of("ann"), b'{"number": 5')
    context = multiprocessing.get_context("fork")
    voters = [context.Process(target=cast, args=(run.storage, range(start, 400, 4))) for start in range(4)]
    for one in voters:
        one.start()
    for one in voters:
        one.join()
    assert sorted(numbers(run.storage)) == list(range(400))


def test_votes_on_a_file_system_that_cannot_append():
    storage = Storage(MemoryFileSystem(), "/votes-of-a-test")
    cast = [Vote(0, "a", "b", "left"), Vote(1, "b", "a", "none")]
    for one in cast:
        votes.append(storage, "ann", one)
    assert votes.read(storage, "ann") == cast


def test_refusals(run):
    for recipes, name, says in ((("cfg", "cfg"), "a", "two different"), (("cfg", "apg"), "a", "no recipe"),
                                (PAIR, "../a", "names a file")):
        with pytest.raises(BadValue, match=says):
            Ballot(run, recipes, name)
    for line in (b"{}\n", b"[]\n", b"no\n", b'{"number": "1", "left": "a", "right": "b", "choice": "left"}\n',
                 b'{"number": 1, "left": "a", "right": "b", "choice": "up"}\n'):
        run.storage.write(votes.file_of("ann"), line)
        with pytest.raises(BadValue, match=r"line 1 of votes/ann\.jsonl"):
            Ballot(run, PAIR, "ann")


# the server


def test_it_listens_to_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(BadValue, match="give another --port"):
        Server(server.ballot, server.server_port)


def test_a_vote_over_http(server, run):
    state = json.loads(ask(server, "GET", "/next")[2])
    assert set(state) == {"number", "prompt", "done", "total"} and (state["done"], state["total"]) == (0, 6)
    status, _, text = vote(server, {"number": state["number"], "choice": "left"})
    assert status == 200 and json.loads(text)["done"] == 1
    assert vote(server, {"number": state["number"], "choice": "right"})[0] == 409
    [kept] = votes.read(run.storage, "ann")
    assert (kept.number, kept.choice, {kept.left, kept.right}) == (state["number"], "left", set(PAIR))


def test_no_answer_tells_which_recipe_it_is(server):
    number = server.ballot.next
    shown = {}
    for path in ("/next", f"/image/{number}/left", f"/image/{number}/right"):
        status, headers, body = ask(server, "GET", path)
        assert status == 200
        assert not any(name in f"{headers}{body!r}" for name in (*PAIR, "emag-run"))
        shown[path] = body
    for side, recipe in server.ballot.sides(number).items():
        assert server.ballot.run.storage.read(image_name(recipe, number)).count(b"emag-run") == 1
        image = Image.open(io.BytesIO(shown[f"/image/{number}/{side}"]))
        image.load()
        assert not image.info
        assert np.array_equal(image, server.ballot.run.image(recipe, number))


def test_a_vote_is_taken_back_over_http(server, run):
    first = json.loads(ask(server, "GET", "/next")[2])
    own = {"Origin": server.url.rstrip("/")}
    assert ask(server, "POST", "/undo", **own)[0] == 409
    vote(server, {"number": first["number"], "choice": "left"})
    assert ask(server, "POST", "/undo", Origin="http://example.com")[0] == 403
    status, _, text = ask(server, "POST", "/undo", **own)
    assert status == 200 and json.loads(text) == first and not votes.read(run.storage, "ann")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"number": 1}', b"[" * 900,
                                  b'"' + b"x" * 2000 + b'"', b'{"number": "0", "choice": "left"}',
                                  b'{"number": 0, "choice": "emag"}',
                                  b'{"number": true, "choice": "left"}', b'{"number": 0, "choice": ["left"]}',
                                  b'{"number": 0, "choice": "left", "file": "a"}'])
def test_bad_votes_are_refused(server, run, body):
    assert vote(server, body)[0] == 400
    assert not votes.read(run.storage, "ann")


@pytest.mark.parametrize("headers", [{"Origin": "http://example.com"}, {"Origin": "null"}, {"Origin": ""},
                                     {"Host": "example.com"}])
def test_votes_of_other_pages_are_refused(server, run, headers):
    assert vote(server, {"number": server.ballot.next, "choice": "left"}, **headers)[0] == 403
    assert ask(server, "GET", "/next", Host="example.com")[0] == 403
    assert not votes.read(run.storage, "ann")


@pytest.mark.parametrize("path", ["/run.json", "/image/0/../../run.json", "/image/0/cfg", "/image/99/left", "/image/-1/left",
                                  "/image/0/left/..", "/image/0%2fleft", "/vote", "/../run.json"])
def test_nothing_else_is_served(server, path):
    assert ask(server, "GET", path)[0] == 404


@pytest.mark.slow
@browser.needs_chromium
def test_in_a_browser(server, run, tmp_path):
    with browser.page(tmp_path / "profile") as tab:
        tab.width(390)
        tab.open(server.url)
        for done, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowDown")):
            tab.until(f"document.getElementById('bar').value === {done} && !document.querySelector('#pair.waiting')")
            assert tab.run("document.body.dataset.widths") == "32 32"
            assert tab.run("document.documentElement.scrollWidth") <= 390
            tab.press(key)
        for done in range(3, 6):
            tab.until(f"document.getElementById('bar').value === {done} && !document.querySelector('#pair.waiting')")
            tab.run("document.querySelector('#pair button').click()")
        tab.until("document.getElementById('pair').hidden")
        tab.run("document.getElementById('undo').click()")
        tab.until("document.getElementById('bar').value === 5 && !document.querySelector('#pair.waiting')")
        tab.run("document.querySelector('#pair button').click()")
        tab.until("document.getElementById('pair').hidden")
        assert not tab.problems
    cast = votes.read(run.storage, "ann")
    assert [one.choice for one in cast] == ["left", "right", "none", "left", "left", "left"]
    assert [one.number for one in cast] == server.ballot.numbers


# the command and the page


def test_the_command_prints_the_results_and_the_page_has_them(run, monkeypatch, capsys):
    assert "no votes yet" in emag(monkeypatch, capsys, "vote", run.url, "--results")[1]
    assert "Blind votes" not in page(run)
    cast_all(Ballot(run, PAIR), lambda left, right: "left" if left == "pag" else "right")
    code, said, _ = emag(monkeypatch, capsys, "vote", run.url, "--results", "--recipes", "pag", "cfg", "--json")
    assert code == 0
    [found] = json.loads(said)
    assert (found["a"], found["b"], found["votes"], found["wins"]["value"]) == ("cfg", "pag", 6, 0)
    assert "pag is preferred" in page(run)
    code, _, text = emag(monkeypatch, capsys, "vote", run.url)
    assert code == 2 and "--recipes A B" in text
