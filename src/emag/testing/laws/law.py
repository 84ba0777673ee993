"""A law, and what is said where one is broken."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .trial import Trial


class LawBroken(AssertionError):
    """A rule breaks a law: which one, what the law says, and what was found."""


@dataclass(frozen=True)
class Law:
    """One law. `holds` takes a trial (and the name of a small pipeline), and raises where the law is broken."""

    holds: Callable[..., None]
    """Its docstring is the law's text; its name the law's."""
    applies: Callable[[Trial], bool]
    """The trials it speaks of."""
    on_pipelines: bool = False
    """It is held on each small pipeline of the trial."""

    @property
    def name(self) -> str:
        return self.holds.__name__

    @property
    def text(self) -> str:
        return " ".join((self.holds.__doc__ or "").split())


@dataclass(frozen=True)
class Check:
    """One law for one trial, on one small pipeline where the law speaks of them. Calling it holds the law."""

    law: Law
    trial: Trial
    case: str | None = None

    def __call__(self) -> None:
        """Raise `LawBroken` where the law does not hold."""
        held: Callable[[], Any] = partial(self.law.holds, self.trial, *([self.case] if self.case else []))
        try:
            held()
        except Exception as error:  # what a rule raises on the way, it does not keep the law
            raise LawBroken(f"{self.trial.name} breaks the law {self.law.name}{f' on {self.case}' if self.case else ''}: "
                            f"{self.law.text} Found: {error or type(error).__name__}") from error

    def __str__(self) -> str:
        return "-".join(filter(None, (self.law.name, self.trial.name, self.case)))


def require(held: bool, found: str) -> None:
    """Raise what was found, unless the law held."""
    if not held:
        raise AssertionError(found)


def far(made: torch.Tensor, other: torch.Tensor) -> str:
    """How far apart two tensors are, for messages."""
    return f"they differ by up to {float((made - other).abs().max()):.3g}"
