"""Blind votes between two recipes: one JSON line each in votes/<name>.jsonl, and what they come to."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ... import files
from ...errors import BadValue
from ...files import parsed
from ..metrics.jackknife import wilson
from ..storage import Storage

FOLDER = "votes"
NAME = re.compile(r"[A-Za-z0-9][\w.+=-]*")
CHOICES = ("left", "right", "none")
BEGINS = '{"number": '
"""Of the line of a vote."""
UNDONE = "undone"
"""The choice of a line that takes back the vote before it on the same number and pair."""


@dataclass(frozen=True)
class Vote:
    """Which side was preferred for one image number, and whose images stood there."""

    number: int
    left: str
    right: str
    choice: str

    @property
    def winner(self) -> str | None:
        """The recipe preferred; None for no preference."""
        return {"left": self.left, "right": self.right}.get(self.choice)


@dataclass(frozen=True)
class Share:
    """k of n votes, and the ends of Wilson's 95 % interval; all of [0, 1] where n is 0.

    images: how many image numbers they are about (None: each about its own). Votes of several people on one image agree more
    than those on several, so the interval is that of so many images.
    """

    k: int
    n: int
    images: int | None = None

    @property
    def value(self) -> float:
        return self.k / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.value, self.n if self.images is None else self.images)

    @property
    def even(self) -> bool:
        """True where the interval holds one half."""
        return self.interval[0] <= 0.5 <= self.interval[1]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.0%} ({low:.0%} to {high:.0%})" if self.n else "none"


@dataclass(frozen=True)
class Tally:
    """Votes between a and b. wins: of a, among votes with a preference; lefts: votes for the left, among the same."""

    a: str
    b: str
    wins: Share
    lefts: Share
    ties: int
    voters: int

    @property
    def votes(self) -> int:
        """All of them, those without a preference included."""
        return self.wins.n + self.ties

    @property
    def data(self) -> dict[str, Any]:
        """The same as plain data; shares with their intervals, None where nothing was decided."""
        shares = {name: {"value": share.value, "low": share.interval[0], "high": share.interval[1]} if share.n else None
                  for name, share in (("wins", self.wins), ("lefts", self.lefts))}
        return {"a": self.a, "b": self.b, "votes": self.votes, "ties": self.ties, "voters": self.voters, **shares}

    @property
    def verdict(self) -> str:
        """Who won, where the interval says so."""
        if self.wins.even:
            return "no clear preference"
        return f"{self.a if self.wins.value > 0.5 else self.b} is preferred"


def tallies(storage: Storage) -> list[Tally]:
    """One tally for each pair of recipes that was voted on, all voters together."""
    held = {name: read(storage, name) for name in voters(storage)}
    pairs = sorted({(min(vote.left, vote.right), max(vote.left, vote.right)) for votes in held.values() for vote in votes})
    return [tally(held.values(), a, b) for a, b in pairs]


def tally(files: Iterable[Sequence[Vote]], a: str, b: str) -> Tally:
    """The votes between a and b. Of two votes of one name on one image number, cast in two windows, the first counts."""
    kept = [list({vote.number: vote for vote in reversed(votes) if {vote.left, vote.right} == {a, b}}.values())
            for votes in files]
    votes = [vote for one in kept for vote in one]
    decided = [vote for vote in votes if vote.winner is not None]
    images = len({vote.number for vote in decided})
    return Tally(a, b, Share(sum(vote.winner == a for vote in decided), len(decided), images),
                 Share(sum(vote.choice == "left" for vote in decided), len(decided), images), len(votes) - len(decided),
                 sum(map(bool, kept)))


def voters(storage: Storage) -> list[str]:
    """Names under which votes were cast."""
    return [name.removesuffix(".jsonl") for name in storage.names(FOLDER) if name.endswith(".jsonl")]


def read(storage: Storage, name: str) -> list[Vote]:
    """The votes of one name. A line that a crash cut off does not count. Raises `BadValue` for other damage."""
    file = file_of(name)
    text = storage.read(file).decode("utf-8", "replace") if storage.exists(file) else ""
    return _standing([_vote(file, at, line) for at, line in enumerate(text.split("\n"), start=1) if not _cut(line)])


def _standing(votes: Sequence[Vote]) -> list[Vote]:
    """The votes that were not taken back, in order."""
    kept: list[Vote] = []
    for vote in votes:
        if vote.choice != UNDONE:
            kept.append(vote)
            continue
        same = [at for at, other in enumerate(kept) if (other.number, {other.left, other.right})
                == (vote.number, {vote.left, vote.right})]
        if same:
            del kept[same[-1]]
    return kept


def append(storage: Storage, name: str, vote: Vote) -> None:
    """Store one vote, whole or not at all: at the end of a local file, or the file put again. Raises `BadValue`."""
    file = file_of(name)
    if storage.local:
        files.append(Path(storage.path(file)), line_of(vote))
    else:
        before = storage.read(file) if storage.exists(file) else b""
        storage.write(file, before + line_of(vote))


def file_of(name: str) -> str:
    """Where the votes of a name lie below the run folder. Raises `BadValue` for a name that is none of a file."""
    if not NAME.fullmatch(name):
        raise BadValue(f"the name {name!r} names a file: use letters, digits and . + = - _, a letter or digit first")
    return f"{FOLDER}/{name}.jsonl"


def line_of(vote: Vote) -> bytes:
    """A vote as a line of its file."""
    return (json.dumps(asdict(vote)) + "\n").encode()


def _cut(line: str) -> bool:
    """Whether a line is the beginning of a vote, or empty: the name of no recipe has a brace in it."""
    return not line.endswith("}") and (line.startswith(BEGINS) or BEGINS.startswith(line))


def _vote(file: str, at: int, line: str) -> Vote:
    try:
        return _checked(Vote(**parsed(line)))
    except (ValueError, TypeError):
        raise BadValue(f"line {at} of {file} is no vote: remove that line") from None


def _checked(vote: Vote) -> Vote:
    kinds: dict[str, Any] = {"number": int, "left": str, "right": str, "choice": str}
    if any(type(getattr(vote, name)) is not kind for name, kind in kinds.items()) or vote.choice not in (*CHOICES, UNDONE):
        raise ValueError(vote)
    return vote
