"""What a pipeline does to the prediction that it combined: left out where a rule combines in its place."""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..guidance import Rule
from .entry import Host

log = logging.getLogger("emag")


def without_rescales(original: Callable[..., Any], pipe: Any, host: Host, rules: Sequence[Rule], args: tuple,
                     kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a call of the pipeline, with its own rescales off where a rule combines; says so where one was on.

    They keep our result as it is but for rounding, which is coarse in 16 bits.
    """
    combiner = next((rule.name for rule in rules if rule.kind == "combining"), None)
    if combiner is None or not host.rescales:
        return args, kwargs
    bound = inspect.signature(original).bind(pipe, *args, **kwargs)
    for name, off in host.rescales:
        given = bound.arguments.get(name)
        if given not in (None, off):
            log.warning("emag: %s combines; the pipeline's %s=%s is ignored", combiner, name, given)
        bound.arguments[name] = off
    return bound.args[1:], bound.kwargs
