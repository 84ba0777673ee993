"""The list of methods as HTML: a button each with what it does, its cost and its paper; what cannot work here is greyed.

The reasons are those with which a run would be refused.
"""

from collections.abc import Mapping
from html import escape

from ...core import Rule
from ...core.docs import summary_of
from ...methods import METHODS
from ...shown import visible
from ..pages.catalogue import KINDS

CSS = """
padding: 0 .3rem;
h4 { margin: .7rem 0 .2rem; font-size: .85rem; }
ul { list-style: none; margin: 0; padding: 0; }
li { display: flex; gap: .6rem; align-items: baseline; padding: .18rem 0; line-height: 1.3; font-size: .85rem; }
button { flex: 0 0 8.6rem; text-align: left; padding: .22rem .5rem; border-radius: 5px; cursor: pointer; font: inherit;
  overflow-wrap: anywhere; border: 1px solid var(--border-color-primary); color: var(--body-text-color);
  background: var(--button-secondary-background-fill); }
button:hover:enabled { border-color: var(--color-accent); }
button:focus-visible { outline: 2px solid var(--color-accent); }
button:disabled { cursor: not-allowed; border-style: dashed; background: none; opacity: .8;
  color: var(--body-text-color-subdued); }
li.off { color: var(--body-text-color-subdued); }
small { display: block; color: var(--body-text-color-subdued); }
"""
SCRIPT = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-name]');
  if (button && !button.disabled) trigger('select', {name: button.dataset.name});
});"""


def html(refused: Mapping[str, str], apart: Mapping[str, str] | None = None) -> str:
    """The list. refused: why a method cannot work on this model, by its name; apart: why not with the present rules."""
    reasons = {name: ("Not with these rules:", reason) for name, reason in (apart or {}).items()}
    reasons |= {name: ("Not on this model:", reason) for name, reason in refused.items()}
    parts = []
    for kind, title in KINDS.items():
        rules = [rule for rule in METHODS.values() if rule.kind == kind]
        if rules:
            parts.append(f"<h4>{escape(title)}</h4><ul>{''.join(_row(rule, reasons.get(rule.name)) for rule in rules)}</ul>")
    return "".join(parts)


def _row(rule: type[Rule], reason: tuple[str, str] | None) -> str:
    about, facts = escape(summary_of(rule)), escape(" · ".join(filter(None, (f"cost: {rule.cost}", rule.paper))))
    why = f"<small><strong>{reason[0]}</strong> {escape(visible(reason[1]))}</small>" if reason else ""
    state = (' class="off"', " disabled") if reason else ("", "")
    return (f'<li{state[0]}><button type="button" data-name="{escape(rule.name)}"{state[1]}>{escape(rule.name)}</button>'
            f"<span>{about}<small>{facts}</small>{why}</span></li>")
