"""First steps in which a method does nothing yet."""

from ...core import RunStart
from ...errors import BadValue


def check_warm_up(name: str, warm_up: int, start: RunStart) -> None:
    """Raise `BadValue` for a run that ends before the `warm_up` steps do: nothing of the method would be in it."""
    if warm_up >= start.first.count:
        raise BadValue(f"{name} begins behind warm_up={warm_up} steps, and the run has {start.first.count}: say fewer, or "
                       "make more steps")
