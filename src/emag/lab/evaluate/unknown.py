"""Keys that nobody knows, refused with the nearest one that is known."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import BadValue
from ...near import nearest


def refuse_unknown(where: str, data: Any, known: Sequence[str]) -> None:
    """Raise `BadValue` for data that is no mapping, or has a key that is not `known`."""
    if not isinstance(data, Mapping):
        raise BadValue(f"{where} must be a mapping with keys {', '.join(known)}, got {data!r}")
    for key in data:
        if key not in known:
            near = nearest(str(key), known)
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join(known)}"
            raise BadValue(f"{where} has no key {key!r}; {hint}")
