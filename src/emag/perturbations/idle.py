"""Combinations of EMAG's parameters in which one would do nothing, refused: what is said is done."""

from typing import TYPE_CHECKING, Any

from ..errors import BadValue
from .compat import PRESETS, Compat

if TYPE_CHECKING:
    from .ema_attention import EMAG

PLAIN = PRESETS["clean"]


def check_idle(rule: "EMAG", switches: Compat) -> None:
    """Raise `BadValue` where a parameter, or a switch set by hand, has no effect beside the others.

    A preset is one thing: some of its switches may be idle. So is a neutral rule, which is off.
    """
    found = [text for idle, text in _parameters(rule, switches) if idle]
    by_hand = switches not in PRESETS.values()
    found += [f"compat {field}={getattr(switches, field)!r} does nothing {text}"
              for field, idle, text in _switches(rule, switches)
              if by_hand and idle and getattr(switches, field) != getattr(PLAIN, field)]
    if found:
        raise BadValue(f"emag {found[0]}")


def _parameters(rule: "EMAG", switches: Compat) -> tuple[tuple[bool, str], ...]:
    query, pickless = rule.variant == "query", rule.statistic in ("fixed", "entropy")
    full = rule.variant == "map" and not switches.reweighs
    sparse = switches.accumulate_in != "clean" or switches.every_step
    return (
        (query and rule.maps != "auto",
         "maps is for variant='map', 'image' or 'text'; averaged queries are small, and kept in float32"),
        (rule.maps != "auto" and switches.ema_dtype != "float32",
         f"maps={rule.maps!r} and compat ema_dtype={switches.ema_dtype!r} both say how the average is kept: leave one"),
        (rule.every > 1 and sparse,
         f"compat={rule.compat!r} evaluates its weak branch at every step: every must be 1 with it"),
        (rule.every > 1 and switches.weak_row != "cond", "every extrapolates cond - weak, so it must be 1 with weak_row"),
        (query and switches.renorm != "row", "compat renorm is about rows of a map, and variant='query' has none"),
        (query and switches.reweighs, "compat text_scale is about rows of a map, and variant='query' has none"),
        (full and switches.renorm != "row",
         "compat renorm does nothing with variant='map', whose rows sum to 1, unless text_scale is another than 1"),
        (switches.renorm == "text" and switches.reweighs,
         "compat renorm='text' undoes text_scale, whatever it is: leave one"),
        (rule.statistic == "fixed" and switches.groups is not None, "statistic='fixed' picks nothing, also not by groups"),
        (rule.beta == 0 and not rule.neutral and switches.stat_against == "updated" and not pickless,
         "beta=0 with compat stat_against='updated' picks by a statistic that is always 0"),
    )


def _switches(rule: "EMAG", switches: Compat) -> tuple[tuple[str, bool, str], ...]:
    fixed, lagged = rule.statistic == "fixed", switches.accumulate_in == "perturbed"
    blind = fixed or rule.statistic == "entropy"
    named = rule.variant != "query" or rule.statistic != "auto"
    return (
        ("stat_lag", fixed and not lagged, "with statistic='fixed', which picks nothing"),
        ("stat_scope", fixed, "with statistic='fixed', which picks nothing"),
        ("stat_against", blind, f"with statistic={rule.statistic!r}, which does not look at the average"),
        ("query_statistic", named, "but for variant='query' and statistic='auto'"),
    )


def check_groups(layers: tuple[int, ...], groups: tuple[int, ...] | None, auto: Any) -> None:
    """Raise `BadValue` where groups are not those of `layers`, once these are known."""
    if groups is not None and layers != auto and sum(groups) != len(layers):
        raise BadValue(f"emag compat groups {groups} are {sum(groups)} blocks, and layers are {len(layers)}: {layers}")
