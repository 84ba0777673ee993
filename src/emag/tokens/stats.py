"""What a run over tokens did, as plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TokenStats:
    """One run over tokens.

    rows: texts side by side, beams included. tokens: the most that were asked for of a row. passes: calls of the model by
    branch, beside the one a token that decoding takes; fed: tokens a row in them, the context's included. scored: calls of
    scorers.
    """

    model: str
    rules: tuple[str, ...]
    rows: int
    tokens: int
    passes: Mapping[str, int]
    fed: Mapping[str, int]
    scored: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        return asdict(self)

    def __str__(self) -> str:
        further = ", ".join(f"{count} under {name!r}" for name, count in self.passes.items()) or "none"
        scored = f", {self.scored} calls of scorers" if self.scored else ""
        return (f"emag run: {', '.join(self.rules) or 'nothing active'} on {self.model}\n"
                f"  {self.rows} row(s), {self.tokens} tokens, {self.seconds:.2f} s\n"
                f"  passes beside {self.tokens} of plain decoding: {further}{scored}")
