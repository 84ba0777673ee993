"""The rows of a pass by whose condition they are under."""

from ...core import COND, UNCOND, Rows, Side


def sides(rows: Rows) -> list[tuple[Side, slice]]:
    """(side, its rows) of those that are in a pass, in the order of the rows."""
    found: list[tuple[Side, slice | None]] = [(COND, rows.cond), (UNCOND, rows.uncond)]
    there = [(side, part) for side, part in found if part is not None and part.start < part.stop]
    return sorted(there, key=lambda pair: pair[1].start)
