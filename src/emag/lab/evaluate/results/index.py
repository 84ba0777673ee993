"""The list of results pages: a model a paragraph, what it was measured by, and what comes out."""

from pathlib import Path

from .as_json import read
from .numbers import Results
from .verdict import code, sentences

HEAD = """# Results

What guidance does to images, measured: a page for each model. Made by `emag results` from the numbers beside the pages.
"""


def index(folder: Path) -> str:
    """The list of all pages in a folder, for a file beside the folder. Raises `BadValue` for numbers that are damaged."""
    files = sorted(folder.glob("*.json"))
    return "\n".join([HEAD, *(_entry(read(file), file.stem, folder.name) for file in files)])


def _entry(results: Results, name: str, folder: str) -> str:
    metrics = ", ".join(results.judged[:6])
    steps = results.run.get("steps") or "the default"
    said = f"{results.images} images of each of {len(results.compared)} recipes, {steps} steps; by {metrics}."
    return "\n".join([f"## [{name}]({folder}/{name}.md)\n", said + "\n", *_best(results), *sentences(results), ""])


def _best(results: Results) -> list[str]:
    """The best value of what is asked first, beside the base's."""
    name = next((one for one in ("correct", "fd") if one in results.metrics), None)
    if name is None or name not in results.base.values:
        return []
    pick = max if results.metrics[name].higher else min
    best = pick((row for row in results.compared if name in row.values), key=lambda row: row.values[name].value)
    return [f"- **{name}**: {results.base.values[name].value:.4g} of {code(results.against)}; best of all "
            f"{best.values[name].value:.4g} of {code(best.name)} ({code(best.setting)})."]
