"""The language of counting texts: what is right is known, and so what guidance and a mask do to it."""

import functools
import math

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
    texts,
    tokenizer,
    trained,
)

RIGHT = 1 - WRONG * 0.9
"""Any digit is the right one once in ten."""


@functools.cache
def model():
    return trained()


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


@pytest.mark.slow
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
