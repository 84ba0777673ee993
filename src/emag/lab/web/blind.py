"""Which of two guidances is liked better, asked blind: the sides are drawn as in `emag vote`, the votes counted as there."""

import threading
from dataclasses import dataclass, replace

from PIL import Image

from ...errors import BadValue
from ..evaluate.report.ballot import drawn_sides
from ..evaluate.report.votes import CHOICES, Tally, Vote, tally
from .job import Ask, Tell, alone, draw
from .model import Model
from .stack import parse, text_of


@dataclass(frozen=True)
class Blind:
    """Two guidances in words, and the votes between them; picture number n is of seed `first` + n.

    draw: seeds the sides, so that whoever knows it can tell them.
    """

    a: str
    b: str
    ask: Ask
    draw: int
    votes: tuple[Vote, ...] = ()

    @classmethod
    def between(cls, a: str, b: str, ask: Ask, draw: int) -> "Blind":
        """A comparison of two guidances. Raises `BadValue` where they are one, or one cannot be read."""
        first, second = (text_of(parse(text)) for text in (a, b))
        if first == second:
            raise BadValue("a comparison needs two different guidances")
        return cls(first or "none", second or "none", ask, draw)

    @property
    def number(self) -> int:
        """The picture to vote on."""
        return len(self.votes)

    @property
    def sides(self) -> dict[str, str]:
        """The guidance on each side of the present picture."""
        return drawn_sides((self.a, self.b), self.draw, self.number)

    def voted(self, choice: str) -> "Blind":
        """With one more vote. Raises `BadValue` for what is none."""
        if choice not in CHOICES:
            raise BadValue(f"a vote is one of {', '.join(CHOICES)}")
        return replace(self, votes=(*self.votes, Vote(self.number, **self.sides, choice=choice)))

    def undone(self) -> "Blind":
        """Without the latest vote."""
        return replace(self, votes=self.votes[:-1])

    @property
    def tally(self) -> Tally:
        """What the votes come to."""
        return tally([self.votes], self.a, self.b)

    def __str__(self) -> str:
        found = self.tally
        if not found.votes:
            return "no votes yet"
        return (f"{found.a} preferred {found.wins} of {found.wins.n} vote(s), {found.ties} without a preference; left side "
                f"{found.lefts}: {found.verdict}")


def pair(model: Model, blind: Blind, tell: Tell, stop: threading.Event) -> tuple[Image.Image, Image.Image]:
    """The two pictures of the present number, left and right; they carry no record."""
    ask = replace(blind.ask, seeds=(blind.ask.seeds[0] + blind.number,))
    rules = {text: parse("" if text == "none" else text) for text in (blind.a, blind.b)}
    with alone(model, stop):
        # always in one order, so that the time they take does not tell the sides
        made = {text: draw(model, ask, rules[text], "a picture", tell, stop).images[0] for text in (blind.a, blind.b)}
    return made[blind.sides["left"]], made[blind.sides["right"]]
