"""What an adapter says of the guidance that is baked into it; and who guides it once more."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..core import Rule
from ..errors import BadValue
from ..files import parsed
from ..shown import visible
from .recipe import values_of

log = logging.getLogger("emag")

KEY = "emag_baked"
"""The entry of a safetensors header."""
CONVENTION = "w of u + w (c - u); 1 is off"


@dataclass(frozen=True)
class Baked:
    """What is baked in: the recipe in words, and the scale of CFG or of the rule that combines, where it is a number.

    ranged: the adapter learnt all scales from 1, where it is the plain network, to `scale`. Its weight chooses between
    them: scale w has the weight (w - 1) / (scale - 1).
    """

    words: str
    scale: float | None
    ranged: bool = False

    def weight(self, scale: float) -> float:
        """The weight that gives a scale. Raises `BadValue` for one that was not learnt."""
        if self.scale is None:
            raise BadValue(f"this adapter ({visible(self.words)}) has no scale that is a number: leave the scale out")
        lowest = 1.0 if self.ranged else self.scale
        if not lowest <= scale <= self.scale:
            learnt = f"the scales 1 to {self.scale:g}" if self.ranged else f"one scale, {self.scale:g}"
            raise BadValue(f"this adapter ({visible(self.words)}) learnt {learnt}: w={scale:g} cannot be asked of it")
        return (scale - 1) / (self.scale - 1) if self.ranged else 1.0

    def at(self, weight: float) -> "Baked | None":
        """What is baked in at a weight; None where nothing is. Raises `BadValue` for a weight outside a range."""
        if not self.ranged or self.scale is None:
            return self
        if not 0 <= weight <= 1:
            raise BadValue(f"this adapter ({visible(self.words)}) learnt the scales 1 to {self.scale:g}, at weights 0 to 1: "
                           f"its weight cannot be {weight:g}")
        return replace(self, scale=1 + weight * (self.scale - 1)) if weight else None


def baked_facts(rules: Sequence[Rule], scale: float | None, ranged: bool = False, shift: float = 0.0,
                **more: Any) -> dict[str, Any]:
    """What to write beside the weights. scale: of the pipeline's own guidance, None where it has none or a rule combines.

    ranged: whether all scales down to 1 were learnt, chosen by the adapter's weight. shift: what the pipeline's scale lacks
    to be the w of the convention.
    """
    combiner = next((rule for rule in rules if rule.kind == "combining"), None)
    baked = getattr(combiner, "scale", None) if combiner else None if scale is None else scale + shift
    own = [] if combiner or scale in (None, 1) else [f"guidance_scale={scale:g}"]
    words = " ".join([*(_said(rule) for rule in rules), *own])
    highest = float(baked) if isinstance(baked, (int, float)) else None
    span = None if highest is None else [1.0 if ranged else highest, highest]
    weight = f"(w - 1) / ({highest:g} - 1)" if ranged and highest is not None else "1"
    return {"rules": values_of(rules), "guidance": words, "guidance_scale": scale, "convention": CONVENTION,
            "baked_scale": highest, "scale_range": span, "weight": weight, **more}


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
            return Baked(facts["guidance"][:200], *_scales(facts.get("baked_scale"), facts.get("scale_range")))
    return None


def _scales(scale: Any, span: Any) -> tuple[float | None, bool]:
    """The highest scale and whether lower ones were learnt too, of a stranger's words."""
    if not isinstance(scale, (int, float)) or not math.isfinite(scale):
        return None, False
    return float(scale), scale > 1 and span == [1, scale]


def warn_of_baked(baked: Baked | None, scale: float | None, rules: Sequence[Rule]) -> None:
    """Say that scales multiply, where an adapter with guidance in it is guided again. scale: the host's w; None is off."""
    combiner = next((rule for rule in rules if rule.kind == "combining"), None)
    again = getattr(combiner, "scale", None) if combiner else scale
    if baked is None or (combiner is None and scale is None):
        return
    both = [value for value in (baked.scale, again) if isinstance(value, (int, float))]
    product = f" ({both[0]:g} x {both[1]:g} = {both[0] * both[1]:g})" if len(both) == 2 else ""
    log.warning("emag: this adapter has guidance in it already (%s), and is guided again: scales multiply%s. Set "
                "the pipeline's scale to 1, and name no rule that combines", visible(baked.words), product)
