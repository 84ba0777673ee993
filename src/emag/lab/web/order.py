"""The rules as a short list, each dragged to its place or moved there by the arrow keys; empty where none can move."""

from collections.abc import Sequence
from html import escape

from ...core import Rule
from ...shown import visible
from .stack import short, text_of

CSS = """
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: .2rem; }
p { margin: 0 0 .25rem; font-size: .85rem; color: var(--body-text-color-subdued); }
button { width: 100%; text-align: left; padding: .28rem .55rem; border-radius: 5px; font: inherit; font-size: .85rem;
  border: 1px solid var(--border-color-primary); color: var(--body-text-color); overflow-wrap: anywhere;
  background: var(--button-secondary-background-fill); cursor: grab; touch-action: none; }
button:focus-visible { outline: 2px solid var(--color-accent); }
button.held { cursor: grabbing; opacity: .6; }
button.over { border-color: var(--color-accent); box-shadow: inset 0 0 0 1px var(--color-accent); }
"""
SCRIPT = """
const all = () => [...element.querySelectorAll('button[data-rule]')];
let held = null, over = null, next = null;
const clear = () => {
  all().forEach((one) => one.classList.remove('held', 'over'));
  held = over = null;
};
const move = (at, to) => {
  if (at === to || to < 0 || to >= all().length) return;
  next = to;
  // places mean something in the list that a person sees: the answer of the last move may still be on its way
  trigger('select', {at, to, seen: element.querySelector('ol').dataset.rules});
};
element.addEventListener('pointerdown', (event) => {
  held = event.button === 0 ? event.target.closest('button[data-rule]') : null;
  if (held) { held.setPointerCapture(event.pointerId); held.classList.add('held'); }
});
element.addEventListener('pointermove', (event) => {
  if (!held) return;
  const below = element.getRootNode().elementFromPoint(event.clientX, event.clientY)?.closest('button[data-rule]');
  over = all().includes(below) ? below : null;
  all().forEach((one) => one.classList.toggle('over', one === over && one !== held));
});
element.addEventListener('pointerup', () => {
  const [at, to] = [all().indexOf(held), all().indexOf(over)];
  clear();
  if (at >= 0 && to >= 0) move(at, to);
});
element.addEventListener('pointercancel', clear);
element.addEventListener('keydown', (event) => {
  const by = {ArrowUp: -1, ArrowDown: 1}[event.key], at = all().indexOf(event.target);
  if (!by || at < 0) return;
  event.preventDefault();
  event.stopPropagation();
  move(at, at + by);
});
// the keyboard stays with the rule that it moved
watch('value', () => {
  if (next !== null && element.contains(document.activeElement)) all()[next]?.focus();
  next = null;
});
"""


def html(rules: Sequence[Rule]) -> str:
    """The list, of two rules or more."""
    if len(rules) < 2:
        return ""
    items = "".join(f'<li><button type="button" data-rule="{at}">⠿ {at + 1}. {escape(visible(short(rule)))}</button></li>'
                    for at, rule in enumerate(rules))
    head = '<p id="order-how">Order: drag, or arrow up and down</p>'
    return f'{head}<ol aria-labelledby="order-how" data-rules="{escape(text_of(rules))}">{items}</ol>'
