"""A row over strengths, a grid of seeds, a blind comparison, and the reach of each block, without a page."""

import threading
from dataclasses import replace

import pytest

import emag
from emag.errors import BadValue
from emag.lab.draw.sampling import DrawSettings
from emag.lab.evaluate.report.ballot import drawn_sides
from emag.lab.evaluate.report.votes import Vote, tally
from emag.lab.web.blind import Blind, pair
from emag.lab.web.explore import explore, explored_rule, suggested
from emag.lab.web.job import Ask, draw, see
from emag.lab.web.model import opened
from emag.lab.web.plots import run_figure
from emag.lab.web.row import PUSHES, seed_grid, strength_row, strengths
from emag.lab.web.stack import parse, text_of
from emag.lab.web.watch import Stopped
from emag.records.png import same_pixels


@pytest.fixture(scope="module")
def model():
    return opened("tiny")


def silent(*told):
    pass


ASK = Ask("a photo of a ship", parse("seg=1.5"), settings=DrawSettings(2))


def test_strengths_are_multiples_of_the_push(model):
    found = strengths(model, parse("cads seg=1.5 cfg=3"))
    assert [rules[1].scale for _, rules in found] == [1 + k * 0.5 for k in PUSHES]
    assert [label for label, _ in found][:3] == ["seg=1", "seg=1.25", "seg=1.5"]
    assert strengths(model, parse("emag"))[2][0] == "emag=1.05"  # the model's own
    with pytest.raises(BadValue, match="no rule here pushes"):
        strengths(model, parse("cads"))


def test_a_row_and_a_grid_hold_the_pictures_of_single_runs(model):
    row = strength_row(model, ASK, silent, threading.Event())
    assert row.width > len(PUSHES) * 150
    told = []
    grid = seed_grid(model, replace(ASK, seeds=(8, 9)), lambda *one: told.append(one[0]), threading.Event())
    assert list(dict.fromkeys(told)) == ["plain, seed 8", "plain, seed 9", "guided, seed 8", "guided, seed 9"]
    assert grid.height > 300 and not model.lock.locked()


def test_a_row_can_be_stopped(model):
    stop = threading.Event()
    with pytest.raises(Stopped):
        strength_row(model, ASK, lambda what, *rest: stop.set() if what == "seg=1.25" else None, stop)
    assert not model.lock.locked()


def test_blind_sides_are_drawn_and_are_those_of_the_vote():
    blind = Blind.between("emag=1.5", "", ASK, 5)
    for _ in range(20):
        assert blind.sides == drawn_sides(("none", "emag=1.5"), 5, blind.number)
        blind = blind.voted("left")
    assert {vote.left for vote in blind.votes} == {"emag=1.5", "none"}
    assert blind.undone().number == 19
    with pytest.raises(BadValue):
        blind.voted("both")
    with pytest.raises(BadValue, match="two different"):
        Blind.between("emag=1.5", "emag=1.50", ASK, 5)


def test_blind_votes_come_to_what_the_vote_says():
    blind = Blind.between("seg=1.5", "", ASK, 3)
    for _ in range(12):
        blind = blind.voted(next(side for side, name in blind.sides.items() if name == "seg=1.5"))
    blind = blind.voted("none")
    again = tally([[Vote(n, vote.left, vote.right, vote.choice) for n, vote in enumerate(blind.votes)]], "seg=1.5", "none")
    assert blind.tally == again and (again.wins.k, again.wins.n, again.ties) == (12, 12, 1)
    assert str(blind).endswith("seg=1.5 is preferred")


def test_blind_pictures_are_of_the_guidances_on_their_sides(model):
    blind = Blind.between("seg=3", "", ASK, 4).voted("none")
    ask = replace(ASK, seeds=(9,))
    shown = dict(zip(("left", "right"), pair(model, blind, silent, threading.Event())))
    for side, name in blind.sides.items():
        alone = draw(model, ask, parse("" if name == "none" else name), "x", silent, threading.Event())
        assert same_pixels(alone.images[0], shown[side]) and not shown[side].info


def test_exploring_measures_each_block_and_suggests(model):
    told = []
    found = explore(model, ASK, lambda *one: told.append(one), threading.Event())
    depth = model.network.depth
    assert told == [(n, depth) for n in range(1, depth + 1)] and [one.block for one in found.reach] == list(range(depth))
    assert found.rule == ASK.rules[0] and len(found.layers) == 3
    sums = [sum(one.effect for one in found.reach[at:at + 3]) for at in range(depth - 2)]
    assert found.layers[0] == sums.index(max(sums))
    assert text_of(suggested(parse("cads seg=1.5"), found)).startswith("cads seg=1.5,layers=")
    with pytest.raises(BadValue, match="add it first"):
        suggested(parse("cfg=2"), found)


def test_exploring_can_be_stopped(model):
    stop = threading.Event()
    with pytest.raises(Stopped):
        explore(model, ASK, lambda *told: stop.set(), stop)
    assert not model.lock.locked() and explored_rule(()) == emag.PAG(1.5)


def test_the_plots_show_the_picks_and_the_steps(model):
    ask = replace(ASK, rules=parse("emag=1.5 seg=1.5"), settings=DrawSettings(4))
    drawn = see(model, ask, silent, threading.Event()).guided
    figure = run_figure(drawn.stats, drawn.sizes)
    picks, moves = figure.axes
    dots = picks.collections[0].get_offsets().tolist()
    assert dots == [[step + 1, block] for step, row in enumerate(drawn.stats.picks) if row for block in row]
    assert {one.get_label(): list(one.get_ydata()) for one in moves.lines} == {
        name: [value for value in row if value is not None] for name, row in drawn.sizes.items()}
