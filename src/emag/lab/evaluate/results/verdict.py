"""What the numbers say: which differences are clear, as sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics.bootstrap import Estimate
from ..pareto import front
from .numbers import Results, Row

NAMED = 6
"""Most metrics without a difference that a sentence names."""


@dataclass(frozen=True)
class Verdict:
    """Metrics in which one recipe differs from another, by whether the paired difference is clear (`Results.clear`)."""

    better: tuple[str, ...]
    worse: tuple[str, ...]
    unclear: tuple[str, ...]


def verdict(results: Results, row: Row, base: str) -> Verdict | None:
    """How a row compares to another recipe; None where that was not measured."""
    found = {name: one for name, one in results.differences(row, base).items() if name in results.judged}
    if not found:
        return None
    up = {name: (one.value > 0) == results.metrics[name].higher for name, one in found.items()}
    clear = {name: results.clear(row, base, name) for name in found}
    return Verdict(tuple(name for name in found if clear[name] and up[name]),
                   tuple(name for name in found if clear[name] and not up[name]),
                   tuple(name for name in found if not clear[name]))


def on_front(results: Results, names: Sequence[str]) -> list[str]:
    """Recipes that no other beats in all of these metrics."""
    rows = [row for row in results.compared if all(name in row.values for name in names)]
    values = np.array([[row.values[name].value for name in names] for row in rows]).reshape(len(rows), len(names))
    there = front(values, [bool(results.metrics[name].higher) for name in names])
    return [row.name for row, on in zip(rows, there) if on]


def sentences(results: Results) -> list[str]:
    """Which recipes beat the base, which do not, which are worse."""
    base = results.against
    found = {row.name: verdict(results, row, base) for row in results.compared if row.name != base}
    known = {name: one for name, one in found.items() if one is not None}
    groups = {f"Clearly better than `{base}` in some metrics, clearly worse in none":
              [_named(name, one.better) for name, one in known.items() if one.better and not one.worse],
              "Better in some, worse in others":
              [f"{code(name)} (better: {', '.join(one.better)}; worse: {', '.join(one.worse)})"
               for name, one in known.items() if one.better and one.worse],
              f"Clearly worse than `{base}` in some, clearly better in none":
              [_named(name, one.worse) for name, one in known.items() if one.worse and not one.better],
              f"Not clearly different from `{base}` in any metric":
              [code(name) for name, one in known.items() if not one.worse and not one.better]}
    lines = [f"- **{head}** ({len(who)} of {len(known)}): {', '.join(who) or 'none'}." for head, who in groups.items()]
    return lines + [f"- Finished, but without a measured difference to `{base}`: {', '.join(map(code, silent))}."
                    for silent in [[name for name, one in found.items() if one is None]] if silent]


def about_emag(results: Results) -> list[str]:
    """Where each recipe with EMAG helps and where not: against the base, and against what it was also compared with.

    Where the page has questions, these say which other recipes matter.
    """
    return _pairs(results, [(row, base) for row in results.compared if row.emag for base in row.minus
                            if base == results.against or not results.questions])


def about_others(results: Results) -> list[str]:
    """The same of recipes without EMAG, against what is not the base."""
    rows = [row for row in results.compared if not row.emag and not results.questions]
    return _pairs(results, [(row, base) for row in rows for base in row.minus if base not in (results.against, row.name)])


def _pairs(results: Results, pairs: Sequence[tuple[Row, str]]) -> list[str]:
    return [line for row, base in pairs for line in [_pair(results, row, base)] if line]


def _pair(results: Results, row: Row, base: str) -> str:
    found, said = results.differences(row, base), verdict(results, row, base)
    if said is None:
        return ""
    parts = [f"{word} in {', '.join(f'{name} ({change(found[name])})' for name in names)}"
             for word, names in (("better", said.better), ("worse", said.worse)) if names]
    parts += [f"no clear difference in {_unclear(said, len(parts) > 0)}"] if said.unclear else []
    cost = _cost(results, row, base)
    return f"- {code(row.name)} against {code(base)}: {'; '.join(parts)}.{cost}"


def _unclear(said: Verdict, others: bool) -> str:
    """The metrics that tell nothing; of many, how many they are. others: whether some do tell something."""
    if len(said.unclear) <= NAMED:
        return ", ".join(said.unclear)
    return f"{len(said.unclear)} others" if others else "any metric"


def _cost(results: Results, row: Row, base: str) -> str:
    other = next((one for one in results.rows if one.name == base), None)
    if not row.evaluations or other is None or not other.evaluations:
        return ""
    return f" It takes {row.evaluations / other.evaluations:.2f} times the block evaluations."


def change(one: Estimate) -> str:
    """A difference and its interval, to the digits that the interval warrants."""
    places = digits([one])
    return f"{one.value:+.{places}f} [{one.low:+.{places}f}, {one.high:+.{places}f}]"


def digits(found: Sequence[Estimate]) -> int:
    """Decimal places that show two digits of the typical half width of the intervals."""
    widths = [(one.high - one.low) / 2 for one in found if one.high > one.low]
    if not widths:
        return 0
    return int(np.clip(1 - np.floor(np.log10(np.median(widths))), 0, 6))


def code(name: str) -> str:
    """A recipe's name as it is written on the page."""
    return f"`{name}`"


def _named(name: str, metrics: Sequence[str]) -> str:
    return f"{code(name)} ({', '.join(metrics)})"
