"""What an adapter says of the guidance that is baked into it; and who guides it once more."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..core import Rule
from ..files import parsed
from ..shown import visible
from .recipe import values_of

log = logging.getLogger("emag")

KEY = "emag_baked"
"""The entry of a safetensors header."""
CONVENTION = "w of u + w (c - u); 1 is off"


@dataclass(frozen=True)
class Baked:
    """What is baked in: the recipe in words, and the scale of CFG or of the rule that combines, where it is a number."""

    words: str
    scale: float | None


def baked_facts(rules: Sequence[Rule], scale: float | None, **more: Any) -> dict[str, Any]:
    """What to write beside the weights. scale: of the pipeline's own guidance, None where it has none or a rule combines."""
    combiner = next((rule for rule in rules if rule.kind == "combining"), None)
    baked = getattr(combiner, "scale", None) if combiner else scale
    own = [] if combiner or scale in (None, 1) else [f"guidance_scale={scale:g}"]
    words = " ".join([*(_said(rule) for rule in rules), *own])
    return {"rules": values_of(rules), "guidance": words, "guidance_scale": scale, "convention": CONVENTION,
            "baked_scale": float(baked) if isinstance(baked, (int, float)) else None, **more}


def _said(rule: Rule) -> str:
    scale = getattr(rule, "scale", None)
    return f"{rule.name}={scale:g}" if isinstance(scale, (int, float)) else rule.name


def read_baked(source: str | Path) -> Baked | None:
    """What a LoRA's file, or the one in its folder, says is baked in, a stranger's text; None where nothing."""
    path = Path(source).expanduser()
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                facts = parsed((opened.metadata() or {}).get(KEY, "null"))
        except (SafetensorError, OSError, ValueError):
            continue
        if isinstance(facts, Mapping) and isinstance(facts.get("guidance"), str):
            scale = facts.get("baked_scale")
            return Baked(facts["guidance"][:200], float(scale) if isinstance(scale, (int, float)) else None)
    return None


def warn_of_baked(baked: Baked | None, scale: float | None, rules: Sequence[Rule]) -> None:
    """Say that scales multiply, where an adapter with guidance in it is guided again. scale: the host's, None where off."""
    combiner = next((rule for rule in rules if rule.kind == "combining"), None)
    again = getattr(combiner, "scale", None) if combiner else scale
    if baked is None or (combiner is None and scale is None):
        return
    both = [value for value in (baked.scale, again) if isinstance(value, (int, float))]
    product = f" ({both[0]:g} x {both[1]:g} = {both[0] * both[1]:g})" if len(both) == 2 else ""
    log.warning("emag: this adapter has guidance in it already (%s), and is guided again: scales multiply%s. Set "
                "the pipeline's scale to 1, and name no rule that combines", visible(baked.words), product)
