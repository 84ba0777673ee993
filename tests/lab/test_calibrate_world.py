"""`emag calibrate --world`: the block and the scale that the judge finds best."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

import emag
from emag.errors import BadValue
from emag.lab.doctor import exact
from emag.lab.doctor.exact import Tried, choose, entry
from emag.lab.draw.columns import Outcome
from emag.lab.draw.sampling import DrawSettings, Job
from emag.methods import METHODS
from emag.worlds.shapes import place, read, render, to_bytes
from test_judged_results import pipe  # noqa: F401  (a fixture)

WORK = [Job("a red ring", None, number) for number in range(12)]


@dataclass
class Truth:
    """Draws true scenes; `wrong(rules)` of them are blank."""

    wrong: object

    def __call__(self, model, column, work, settings, batch_size):
        spoilt = self.wrong(column.rules)
        images = [render([place(read(one.prompt), np.random.default_rng(one.seed))])[0] for one in work]
        images = [np.full_like(image, 0.06) if at < spoilt else image for at, image in enumerate(images)]
        return Outcome(column, tuple(Image.fromarray(to_bytes(one[None])[0]) for one in images), (), (), 1, 1.0)


def test_it_finds_the_best_block_and_then_its_best_scale(pipe, monkeypatch):  # noqa: F811
    def wrong(rules):
        if not rules:
            return 4
        return (5 if rules[0].layers == (0,) else 3) + (-2 if rules[0].scale == 2.0 else 0)

    monkeypatch.setattr(exact, "run", Truth(wrong))
    heard = []
    found = choose(pipe, METHODS["pag"](scale=1.5), WORK, DrawSettings(2), (1.25, 2.0), lambda *at: heard.append(at))
    assert [one.layers for one in found] == [None, (0,), (1,), (1,), (1,)] and heard[-1] == (5, 5)
    assert [one.correct for one in found] == pytest.approx([8 / 12, 7 / 12, 9 / 12, 9 / 12, 11 / 12])
    made = entry(METHODS["pag"](), found, "shapes", 12)
    assert made["values"] == {"layers": [1], "scale": 2.0} and made["helps"]
    assert made["p"] == min(1, 4 * 2 / 2**3)  # three images mended, none broken, the best of four settings


def test_artifacts_decide_among_equally_right_settings():
    tried = [Tried(None, None, 0.5, -30.0), Tried((0,), 1.5, 0.5, -31.0), Tried((1,), 1.5, 0.5, -29.0)]
    assert entry(METHODS["pag"](), tried, "shapes", 9)["values"]["layers"] == [0]
    worse = [tried[0], Tried((1,), 1.5, 0.4, -40.0)]
    assert not entry(METHODS["pag"](), worse, "shapes", 9)["helps"]


def test_what_has_no_block_to_choose_is_refused(pipe, monkeypatch):  # noqa: F811
    monkeypatch.setattr(exact, "run", lambda *a: pytest.fail("drawn"))
    for rule in (emag.CFG(2.0), METHODS["icg"]()):
        with pytest.raises(BadValue, match="nothing to choose"):
            choose(pipe, rule, WORK, DrawSettings(2), (2.0,))


def test_the_command(run, pipe, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("emag.hosts.load.load", lambda *args, **more: pipe)
    line = ("calibrate", "pag=1.5", "--world", "--images", 3, "--scales", "1.5", "-n", 2, "-o", tmp_path, "--json")
    code, out, error = run(*line)
    assert code == 0, error
    made = json.loads((tmp_path / "pag-tiny.json").read_text())
    assert json.loads(out) == made and len(made["tried"]) == 3 and set(made["values"]) == {"layers", "scale"}
    for more, says in ((("-p", "a red ring"), "prompts of its own"), (("--scales", "x"), "write --scales")):
        code, _, error = run(*line, *more)
        assert code == 2 and says in error
