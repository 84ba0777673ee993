"""What a pipeline does to the prediction that it combined, left out where a rule combines; and what it keeps."""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..core import Rule
from ..families import Host

log = logging.getLogger("emag")


def without_rescales(original: Callable[..., Any], pipe: Any, host: Host, rules: Sequence[Rule], args: tuple,
                     kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments of a call of the pipeline, with its own rescales off where a rule combines; says so where one was on.

    They keep our result as it is but for rounding, which is coarse in 16 bits. What its passes take of earlier ones is off
    too: ours would take it as well, and leave theirs.
    """
    combiner = next((rule.name for rule in rules if rule.kind == "combining"), None)
    rescales = host.rescales if combiner is not None else ()
    if not rescales and not (rules and host.kept):
        return args, kwargs
    bound = inspect.signature(original).bind(pipe, *args, **kwargs)
    bound.arguments |= dict(host.kept)
    for name, off in rescales:
        given = bound.arguments.get(name)
        if given not in (None, off):
            log.warning("emag: %s combines; the pipeline's %s=%s is ignored", combiner, name, given)
        bound.arguments[name] = off
    return bound.args[1:], bound.kwargs
