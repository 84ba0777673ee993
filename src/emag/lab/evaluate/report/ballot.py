"""What a voter is shown: image numbers in a seeded order, the two recipes of each on seeded sides."""

import io
import threading
from random import Random

from ....errors import BadValue
from ..folder import RunFolder
from . import votes
from .votes import CHOICES, Vote


class Ballot:
    """The votes of one name between two recipes; votes cast before count as done."""

    def __init__(self, run: RunFolder, recipes: tuple[str, str], name: str = "votes", seed: int = 0,
                 limit: int | None = None):
        """limit: votes asked for in all; None: one for each image number. Raises `BadValue`."""
        self.a, self.b = (run.recipe_of(recipe).label for recipe in recipes)
        if self.a == self.b:
            raise BadValue("a vote needs two different recipes")
        both = [set(run.index(recipe)["number"].to_pylist()) for recipe in (self.a, self.b)]
        self.run, self.name, self.seed = run, name, seed
        self.numbers = sorted(both[0] & both[1])
        if not self.numbers:
            raise BadValue(f"{self.a} and {self.b} have no image number finished by both: give emag run first")
        Random(f"{seed} order").shuffle(self.numbers)
        self.numbers = self.numbers[:limit]
        pair = {self.a, self.b}
        self.cast_before = [vote.number for vote in votes.read(run.storage, name) if {vote.left, vote.right} == pair]
        self.done = set(self.cast_before)
        self.prompts = {row["number"]: row["prompt"] for row in run.index(self.a).select(["number", "prompt"]).to_pylist()}
        self.lock = threading.Lock()

    @property
    def next(self) -> int | None:
        """The image number to vote on now; None when there is no more."""
        return next((number for number in self.numbers if number not in self.done), None)

    @property
    def progress(self) -> tuple[int, int]:
        """Votes cast, and votes asked for."""
        return sum(number in self.done for number in self.numbers), len(self.numbers)

    def sides(self, number: int) -> dict[str, str]:
        """The recipe on each side; the same again after a restart, whichever recipe was named first."""
        return drawn_sides((self.a, self.b), self.seed, number)

    def image(self, number: int, side: str) -> bytes:
        """The image on a side as a PNG of its pixels alone: the stored one names its recipe. Raises `BadValue`."""
        if number not in self.numbers:
            raise BadValue(f"the ballot has no image {number}")
        sink = io.BytesIO()
        self.run.image(self.sides(number)[side], number).save(sink, format="PNG")
        return sink.getvalue()

    def cast(self, number: object, choice: object) -> bool:
        """Store a vote; False where that number has one, or is not the one asked for. Raises `BadValue`."""
        if type(number) is not int or choice not in CHOICES:
            raise BadValue(f"a vote is a number and one of {', '.join(CHOICES)}")
        with self.lock:
            if number != self.next:
                return False
            votes.append(self.run.storage, self.name, Vote(number, **self.sides(number), choice=str(choice)))
            self.done.add(number)
            self.cast_before.append(number)
        return True

    def undo(self) -> bool:
        """Take back the latest vote, which is asked for again next; False where there is none."""
        with self.lock:
            if not self.cast_before:
                return False
            number = self.cast_before[-1]
            votes.append(self.run.storage, self.name, Vote(number, **self.sides(number), choice=votes.UNDONE))
            self.done.discard(self.cast_before.pop())
        return True


def drawn_sides(pair: tuple[str, str], seed: int, number: int) -> dict[str, str]:
    """Which of two stands on each side for an image number; the same again for the same seed, in whichever order given."""
    drawn = sorted(pair)
    Random(f"{seed} side {number}").shuffle(drawn)
    return dict(zip(("left", "right"), drawn))
