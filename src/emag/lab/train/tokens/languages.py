"""Three languages: counting texts, two codebooks that count, and striped images."""

import torch

from ..digits import DIGITS, DROPPED, NONE, STEPS, WRONG, texts
from .host import Language

NAMELESS = len(STEPS)
"""The number of the prompt "none" among those of counting texts."""


def counting(count: int, random: torch.Generator, steps: int = NAMELESS) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of `emag.lab.train.digits` as numbers of prompts [count] and digits 0 to 9 [count, 16]."""
    made = texts(count, random, steps)
    return torch.where(made[:, 0] == NONE, NAMELESS, made[:, 0] - STEPS[0]), made[:, 1:] - DIGITS[0]


def counts(prompts: torch.Tensor, digits: torch.Tensor) -> torch.Tensor:
    """Which digits but the first keep the rule: that before them and the step of the prompt, modulo 10."""
    return (digits[:, 1:] - digits[:, :-1]) % 10 == prompts[:, None] + 1


def two_books(count: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of two codebooks, [count, 2 * 8]: the first counts by the step, the second adds the step to the first's."""
    prompts, digits = counting(count, random)
    first, step = digits[:, :8], prompts[:, None] + 1
    # of a text without a prompt the step is the one that its digits were made with: the most frequent of them
    step = torch.where(prompts[:, None] == NAMELESS, _told(digits), step)
    any_digit = torch.randint(10, first.shape, generator=random)
    second = torch.where(torch.rand(first.shape, generator=random) < WRONG, any_digit, (first + step) % 10)
    return prompts, torch.cat([first, second], dim=1)


def _told(digits: torch.Tensor) -> torch.Tensor:
    """The step that most digits keep, [count, 1]."""
    return ((digits[:, 1:] - digits[:, :-1]) % 10).mode(1).values[:, None]


def both_count(prompts: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Which codes keep the rule: of the first codebook all but the first, of the second all."""
    first, second = codes[:, :8], codes[:, 8:]
    return torch.cat([counts(prompts, first), (second - first) % 10 == prompts[:, None] + 1], dim=1)


SIDE, COLOURS, WAYS, STRAY = 8, 4, ("rows", "columns", "falling", "rising"), 1 / 4
"""Images are SIDE x SIDE tokens of so many colours, and that share is of any; a prompt names the way their stripes run."""


def stripes(count: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of tokens, row by row, [count, 64]: stripes the way of the prompt, one token in four of any colour."""
    way, start = torch.randint(len(WAYS), (count,), generator=random), torch.randint(COLOURS, (count, 1), generator=random)
    clean = (patterns()[way] + start) % COLOURS
    any_colour = torch.randint(COLOURS, clean.shape, generator=random)
    image = torch.where(torch.rand(clean.shape, generator=random) < STRAY, any_colour, clean)
    return torch.where(torch.rand(count, generator=random) < DROPPED, len(WAYS), way), image


def stripes_or_none(count: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """As `stripes`, but what the prompt "none" names are images of any tokens: a thing to go away from."""
    prompts, image = stripes(count, random)
    any_colour = torch.randint(COLOURS, image.shape, generator=random)
    return prompts, torch.where(prompts[:, None] == len(WAYS), any_colour, image)


def patterns() -> torch.Tensor:
    """The stripes of each way, that begin with colour 0, [ways, 64]."""
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return torch.stack([row, column, row + column, row - column]).flatten(1) % COLOURS


def striped(prompts: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Which tokens are those of the prompt's stripes, begun with the colour that most of them keep."""
    right = torch.stack([(patterns()[prompts] + start) % COLOURS == images for start in range(COLOURS)])
    best = right.sum(-1).argmax(0)
    return right[best, torch.arange(len(images))]


COUNTING = Language(len(STEPS), counting, counts)
SLOWLY = Language(3, lambda count, random: counting(count, random, 3), counts)
"""Counting texts by 1, 2 and 3 alone."""
BOOKS = Language(len(STEPS), two_books, both_count)
STRIPES = Language(len(WAYS), stripes, striped)
STRIPES_OR_NONE = Language(len(WAYS), stripes_or_none, striped)
