"""The language of counting texts: what is right is known, and so what guidance and a mask do to it."""

import functools
import math
import re
from pathlib import Path

import pytest
import torch

from emag.lab.train.digits import (
    DIGITS,
    NONE,
    STEPS,
    WORDS,
    WRONG,
    CountingMask,
    counted,
    measured,
    table,
    texts,
    tokenizer,
)
from emag.lab.train.tokens.host import trained
from emag.lab.train.tokens.kinds import KINDS
from emag.models import WEIGHTS
from emag.tokens.load import load_text_model

RIGHT = 1 - WRONG * 0.9
"""Any digit is the right one once in ten."""


@functools.cache
def model():
    return trained(KINDS["causal"])


def test_texts_keep_their_rule_as_often_as_is_said():
    made = texts(20000, torch.Generator().manual_seed(0))
    named = made[made[:, 0] != NONE]
    kept = counted(named)
    assert abs(kept.share - RIGHT) < 2 * kept.half and kept.half < 0.005
    assert kept.first == pytest.approx(math.log2(10), abs=0.01) and len(named) / len(made) == pytest.approx(0.8, abs=0.02)


def test_counting_is_exact():
    text = torch.tensor([[STEPS[2], *(DIGITS[digit] for digit in (7, 0, 3, 6, 5, 8))]])  # +3: one of five steps is wrong
    assert counted(text).share == pytest.approx(4 / 5)
    assert counted(torch.tensor([[STEPS[2], DIGITS[7], STEPS[0], DIGITS[3]]])).share == 0


def test_words_go_there_and_back():
    words = tokenizer()
    assert words("+3 7 0 none")["input_ids"] == [STEPS[2], DIGITS[7], DIGITS[0], NONE] and len(words) == len(WORDS)
    assert words.decode([STEPS[2], DIGITS[7], DIGITS[0]]) == "+3 7 0"


@pytest.mark.long
def test_guidance_keeps_the_rule_more_often_and_too_much_of_it_less():
    plain, some, much = (measured(model(), scale) for scale in (1.0, 1.5, 5.0))
    assert abs(plain.share - RIGHT) < 0.05  # the language has been learned
    assert plain.share + plain.half < some.share - some.half and much.share + much.half < some.share - some.half


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 5.0])
def test_the_rule_as_a_mask_is_always_kept_under_guidance_too(scale):
    kept = measured(model(), scale, count=90, mask=True)
    assert kept.share == 1 and kept.half == 0


def test_the_mask_is_the_rule():
    scores = torch.zeros(1, len(WORDS))
    first, then = (CountingMask()(torch.tensor([text]), scores) for text in ([STEPS[2]], [STEPS[2], DIGITS[9]]))
    assert first.isfinite().sum() == 10 and then.isfinite().nonzero().tolist() == [[0, DIGITS[2]]]


def test_the_embedded_model_gives_the_table_of_the_docs():
    """Its rows are these counts (docs/results/tokens.md), by the seed; another processor may draw a few other digits, within
    the intervals."""
    embedded, words = load_text_model("digits", torch.device("cpu"))
    assert embedded.name_or_path == "digits" and words.decode(words("+3 7")["input_ids"]) == "+3 7"
    assert sum(file.stat().st_size for file in (WEIGHTS / "digits").iterdir()) < 2e6
    page = (Path(__file__).parents[2] / "docs" / "results" / "tokens.md").read_text()
    made = table(embedded, (1.0, 1.5, 2.0, 3.0, 5.0)).splitlines()
    start = page.index(made[0])
    told = page[start:].splitlines()[:len(made)]
    for ours, theirs in zip(map(numbers, made[2:]), map(numbers, told[2:])):
        assert ours[4:6] == theirs[4:6] == [100.0, 0.0]
        for at in (0, 2, 6):
            assert abs(ours[at] - theirs[at]) <= theirs[at + 1] + 0.005


def numbers(row):
    return [float(number) for number in re.findall(r"\d+\.\d+", row.partition("|")[2].partition("|")[2])]


@pytest.mark.slow
def test_what_is_trained_is_what_is_embedded():
    embedded, _ = load_text_model("digits", torch.device("cpu"))
    assert {name: value.shape for name, value in model().state_dict().items()} == {
        name: value.shape for name, value in embedded.state_dict().items()}
    tokens = texts(200, torch.Generator().manual_seed(5))
    with torch.no_grad():
        one, other = (float(it(input_ids=tokens, labels=tokens).loss) for it in (model(), embedded))
    assert one == pytest.approx(other, abs=0.02)


def test_the_interval_of_an_entropy_is_that_of_many_draws():
    p = torch.tensor([0.4, 0.3, 0.1, 0.05, 0.05, 0.02, 0.02, 0.02, 0.02, 0.02])
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(300):
        digits = torch.multinomial(p, 450, replacement=True, generator=random) + DIGITS[0]
        found.append(counted(torch.stack([torch.full((450,), STEPS[0]), digits, digits], dim=1)))
    spread = 1.96 * float(torch.tensor([one.first for one in found]).std())
    assert sum(one.first_half for one in found) / 300 == pytest.approx(spread, rel=0.15)
