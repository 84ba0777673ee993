"""Models of the libraries' own classes that were trained on a known rule: guidance makes them keep it more often."""

from pathlib import Path

import pytest
import torch
import typer

import emag
from emag.lab.evaluate.metrics.jackknife import wilson
from emag.lab.texts import TextJob, make_texts
from emag.lab.train.tokens.__main__ import main
from emag.lab.train.tokens.host import trained
from emag.lab.train.tokens.kinds import KINDS, PLACES, embedded
from emag.lab.train.tokens.languages import NAMELESS, both_count, counts, patterns, striped
from emag.lab.train.tokens.measure import ENOUGH, measured
from emag.models import WEIGHTS
from emag.tokens.load import load_text_model

FAST = ("causal", "encoder-decoder", "codec")
PAGE = (Path(__file__).parents[2] / "docs" / "results" / "tokens.md").read_text()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST))
                                  for name in PLACES])
def test_guidance_makes_more_texts_keep_the_rule(name):
    """By more than both intervals, in as many passes of the null as were planned."""
    model = embedded(name)
    plain, guided = (measured(KINDS[name], model, scale, count=240) for scale in (1.0, BEST[name]))
    assert plain.high < guided.low and plain.tokens < guided.tokens
    assert guided.passes == guided.planned > 0 == plain.passes == plain.planned


BEST = {"causal": 1.5, "encoder-decoder": 2.0, "codec": 2.0, "image": 2.0, "masked": 2.0, "masked-image": 4.0}


def test_all_weights_are_small():
    assert sum(file.stat().st_size for place in PLACES.values() for file in (WEIGHTS / place).rglob("*")
               if file.is_file()) < 2e6


@pytest.mark.parametrize("name", PLACES)
def test_the_page_has_each_kind(name):
    assert f"`--kind {name}`" in PAGE and KINDS[name].title in PAGE


@pytest.mark.parametrize("name", PLACES)
def test_texts_of_a_language_keep_their_rule_as_often_as_is_said(name):
    language = KINDS[name].language
    prompts, tokens = language.draw(3000, torch.Generator().manual_seed(0))
    named = prompts < language.prompts
    share = language.kept(prompts[named], tokens[named]).double().mean()
    assert float(named.double().mean()) == pytest.approx(0.8, abs=0.03)
    assert float(share) == pytest.approx(0.8125 if "image" in name else 0.7, abs=0.01)


def test_rules_are_exact():
    digits = torch.tensor([[7, 0, 3, 6, 9, 2, 5, 9]])  # +3, and one of seven steps is wrong
    step = torch.tensor([2])
    assert counts(step, digits).sum() == 6 and counts(step + 1, digits)[0].tolist() == [False] * 6 + [True]
    codes = torch.cat([digits, (digits + 3) % 10], dim=1)
    assert both_count(step, codes).sum() == 6 + 8 and both_count(step, codes).shape == (1, 15)
    image = (patterns()[2] + 3) % 4
    assert striped(torch.tensor([2]), image[None]).all() and striped(torch.tensor([0]), image[None]).sum() == 16
    assert patterns().view(4, 8, 8)[3, 1].tolist() == [1, 0, 3, 2, 1, 0, 3, 2] and NAMELESS == 9


@pytest.mark.long
@pytest.mark.parametrize("name", PLACES)
def test_what_is_trained_is_what_is_embedded(name):
    kind, random = KINDS[name], torch.Generator().manual_seed(5)
    drawn = kind.language.draw(300, random)
    with torch.no_grad():
        one, other = (float(kind.loss(model, *drawn, torch.Generator().manual_seed(6)))
                      for model in (trained(kind), embedded(name)))
    assert one == pytest.approx(other, abs=0.05)


def test_one_command_trains_a_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("emag.lab.train.tokens.measure.SCALES", (1.0,))
    main(tmp_path / "t5", "encoder-decoder", updates=2, seed=0)
    assert "| none | " in capsys.readouterr().out
    model, words = load_text_model(str(tmp_path / "t5"), torch.device("cpu"))
    assert type(model).__name__ == "T5ForConditionalGeneration" and words.decode(words("+3")["input_ids"]) == "+3"
    with pytest.raises(typer.Exit):
        main(tmp_path / "x", "codecs", updates=2, seed=0)
    assert "did you mean codec" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_the_interval_is_wilsons():
    low, high = wilson(ENOUGH, 100)
    assert (low, high) == pytest.approx((0.7112, 0.8666), abs=1e-3)


def test_emag_text_writes_by_the_embedded_encoder():
    made = make_texts(TextJob("digits-t5", ("+3", "+7"), (emag.CFG(2.0),), "none", tokens=8))
    for text, step in zip(made["texts"], (3, 7), strict=True):
        digits = torch.tensor([[int(word) for word in text.split()]])
        assert digits.shape == (1, 8) and counts(torch.tensor([step - 1]), digits).all()
    assert made["run"]["passes"] == {"uncond": 8} and made["record"]["model"]["model"] == "digits-t5"
