"""What was found of one method on one network."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One method on one backbone. status: "works", "unsupported" or "no-effect". effect: |image - plain| / |plain|.

    evaluations: block evaluations per image, against those of the pipeline alone.
    """

    method: str
    backbone: str
    status: str
    effect: float = 0.0
    evaluations: float = 0.0
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        return asdict(self)
