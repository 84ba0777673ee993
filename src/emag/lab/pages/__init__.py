"""Every generated page of the docs, from the code: `make pages` writes them, a test says when it should.

docs/coverage.md and docs/results.md are not among them: they are measured, by `emag doctor --matrix` and `make results`.
"""

from pathlib import Path

FOLDERS = ("methods", "reference")
"""Folders of the docs that hold generated pages alone: what else lies there is left over, and goes."""


def pages() -> dict[str, str]:
    """{file below docs/: text} of all generated pages."""
    from . import classes, functions, llms, methods, models, reference, works

    return {**methods.pages(), "methods/functions.md": functions.page(), **reference.pages(), "models.md": models.markdown(),
            "classes.md": classes.markdown(),
            "llms.txt": llms.text(), "works.md": works.markdown()}


def stale(docs: Path) -> list[str]:
    """The pages in `docs` that are not as the code would have them: changed, missing, or left over."""
    made = pages()
    old = [name for name, text in made.items() if not (docs / name).is_file() or (docs / name).read_text() != text]
    return old + [name for name in _lying(docs) if name not in made]


def write(docs: Path) -> None:
    """Bring every generated page in `docs` up to date, and remove those that nothing makes any more."""
    made = pages()
    for name in _lying(docs):
        if name not in made:
            (docs / name).unlink()
    for name, text in made.items():
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text(text)


def _lying(docs: Path) -> list[str]:
    return [path.relative_to(docs).as_posix() for folder in FOLDERS for path in sorted((docs / folder).glob("*.md"))]
