"""What the rules that spare unconditional evaluations share."""

from dataclasses import dataclass
from typing import Any

from ...core import Rule, Step


@dataclass(frozen=True)
class Saver(Rule):
    """Base of null rules that give the unconditional prediction at steps known before the run.

    A subclass says which steps are due, and after how many others it has what it needs. It gives its estimate on every due
    step, also where another rule had the unconditional prediction evaluated, so that an image does not depend on that.
    """

    kind = "null"

    def due(self, step: Step) -> bool:
        """True where the evaluation is to be replaced."""
        raise NotImplementedError

    @property
    def needs(self) -> int:
        """Unconditional predictions wanted before the first estimate."""
        return 1

    def spares_null(self, step: Step, state: dict[str, Any]) -> bool:
        # asked at each step that reads the prediction, in a plan as in a run: so both count the same. A level that is
        # evaluated twice (a solver of second order) is one of those that are wanted
        if state.get("asked at") != step.index:
            state["asked at"], state["asked"] = step.index, state.get("asked", 0) + 1
        return self.due(step) and bool(state["asked"] > self.needs)
