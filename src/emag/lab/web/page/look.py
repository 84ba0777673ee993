"""How the page looks: the reader's own fonts, few colours, keys for the blind comparison, names for what has none."""

from typing import Any

from .heard import SCRIPT

SYSTEM, FIXED = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")

CSS = """
.gradio-container { max-width: min(1500px, 100vw) !important; margin: 0 auto; }
#title h1 { margin: 0; font-size: 1.35rem; }
#title p { margin: .1rem 0 0; }
#slider { max-width: 440px; margin: 0 auto; width: 100%; }
#verdict { max-width: 440px; margin: 0 auto; width: 100%; }
#verdict span { display: inline-block; margin-right: 1rem; }
#stack textarea, .mono textarea { font-family: ui-monospace, monospace; }
#price { padding: .55rem .7rem; border-radius: 6px; background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); }
#price .wrong { color: #a11a1a; font-weight: 600; }
.dark #price .wrong { color: #ff9d9d; }
#history .grid-container { grid-template-columns: repeat(4, 1fr) !important; }
#history img { image-rendering: pixelated; }
button[role=tab].selected { color: var(--primary-700); }
.dark button[role=tab].selected { color: var(--primary-300); }
#status { min-height: 2.6rem; }
footer { opacity: 1 !important; }
"""

HEAD = f"<script>{SCRIPT}</script>" + """<script>
document.addEventListener('keydown', (event) => {
  const button = {ArrowLeft: 'vote-left', ArrowRight: 'vote-right', ArrowDown: 'vote-none'}[event.key];
  const typing = event.target.closest('input, textarea, select, [role=slider], [role=tab], [contenteditable=true]');
  const found = button && document.getElementById(button);
  if (!found || typing || found.disabled || found.offsetParent === null) return;
  event.preventDefault();
  found.click();
});
// Gradio puts a picture into a button without a name: it gets that of its label; empty places have one without a role
new MutationObserver(() => {
  for (const button of document.querySelectorAll('.image-container > button:not([aria-label])')) {
    const label = button.closest('.block')?.querySelector('label, [data-testid=block-label]');
    button.setAttribute('aria-label', label?.innerText.trim() || 'picture');
  }
  for (const place of document.querySelectorAll('.empty[aria-label]:not([role])')) place.setAttribute('role', 'img');
}).observe(document.documentElement, {childList: true, subtree: true});
</script>"""


def theme() -> Any:
    """Gradio's plain theme without the fonts that it would fetch."""
    import gradio

    return gradio.themes.Default(primary_hue="indigo", font=list(SYSTEM), font_mono=list(FIXED)).set(
        body_text_color_subdued="*neutral_600", block_info_text_color="*neutral_600", block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700", button_primary_background_fill="*primary_600",
        button_cancel_background_fill="#b42318", input_placeholder_color="*neutral_600")
