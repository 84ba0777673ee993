"""ComfyUI's conditions as values: those of a weak pass as its clean pass had them."""

import copy
from collections.abc import Mapping
from typing import Any


def as_evaluated(conds: list[dict[str, Any]], texts: Mapping[Any, int | None]) -> list[dict[str, Any]]:
    """`conds` with each text as long as the clean pass had it.

    Where two texts of different lengths share a batch, ComfyUI repeats both until they are of one length. A pass of one
    alone that goes on from what was recorded there needs the same.
    """
    return [_repeated(cond, texts.get(cond["uuid"])) for cond in conds]


def _repeated(cond: dict[str, Any], length: int | None) -> dict[str, Any]:
    text = cond["model_conds"].get("c_crossattn")
    own = getattr(getattr(text, "cond", None), "shape", (0, 0))[1]
    if length is None or not own or length == own or length % own:
        return cond
    longer = copy.copy(text)
    longer.cond = text.cond.repeat(1, length // own, 1)
    return {**cond, "model_conds": {**cond["model_conds"], "c_crossattn": longer}}
