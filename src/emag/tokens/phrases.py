"""A scorer made of phrases: which tokens go on with one that is to be said, and which would complete one that is not."""

from collections.abc import Sequence

import torch

from ..errors import BadValue


class Phrases:
    """CognacGen's scorer, arXiv 2212.10466: a trie of what to mention and what to avoid.

    A token is wanted (1) where it goes on with a phrase of `mention` that was not said yet: with those the text has begun
    the most of, or else with a new one. It is unwanted (-1) where it would complete a phrase of `avoid`.

    mention, avoid: phrases as token ids. prompt: tokens at the start of a text that do not count.
    """

    def __init__(self, mention: Sequence[Sequence[int]] = (), avoid: Sequence[Sequence[int]] = (), prompt: int = 0):
        if (not mention and not avoid) or not all([*mention, *avoid]):
            raise BadValue("Phrases needs phrases to mention or to avoid, each of at least one token id")
        self.mention, self.avoid, self.prompt = [list(one) for one in mention], [list(one) for one in avoid], prompt

    def __call__(self, ids: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """1, -1 or 0 for texts as token ids [rows, length] with each candidate [rows, n] added, [rows, n]."""
        signs = [self._signs(row[self.prompt:].tolist()) for row in ids]
        return torch.tensor([[sign.get(token, 0.0) for token in row.tolist()] for sign, row in zip(signs, candidates)])

    def _signs(self, text: list[int]) -> dict[int, float]:
        begun = [(_begun(text, phrase), phrase) for phrase in self.mention if not _said(text, phrase)]
        longest = max((length for length, _ in begun), default=0)
        wanted = {phrase[length]: 1.0 for length, phrase in begun if length == longest}
        return wanted | {phrase[-1]: -1.0 for phrase in self.avoid if _begun(text, phrase) == len(phrase) - 1}


def _begun(text: list[int], phrase: list[int]) -> int:
    """How many tokens of `phrase` the text ends with."""
    return next(n for n in range(min(len(text), len(phrase) - 1), -1, -1) if text[len(text) - n:] == phrase[:n])


def _said(text: list[int], phrase: list[int]) -> bool:
    return any(text[i:i + len(phrase)] == phrase for i in range(len(text)))
