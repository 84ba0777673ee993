"""Every block of Python in README and docs is typed, and runs; what needs more than is here says so, and is only typed."""

import json
import re
import sys
from pathlib import Path

import pytest

from emag.families import EXAMPLES

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- type-checked only: [^>]+ -->\n)?```python\n(.*?)```", re.S)

PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "docs" / "llms.txt")
         if BLOCK.search(path.read_text())]
NAMES = {path: path.relative_to(ROOT).with_suffix("").as_posix() for path in PAGES}

ELSEWHERE = {
    "README": "test_docs.py",
    "docs/adding-a-method": "test_docs.py", "docs/adding-a-model": "test_strangers_model.py",
    "docs/models": "test_snippets.py",
    "docs/worlds": "test_world_judge.py",
}
"""Pages whose blocks another test runs, because it looks at what comes of them."""

GIVEN = dict.fromkeys(("docs/models", "docs/modular", "docs/worlds"),
                       "from typing import Any\nphoto: Any\npipe: Any\nimages: Any\nprompts: list[str]\n"
                      "face: Any\nfeatures: Any\nedges: Any\nposes: Any\nfaces: Any\n")
GIVEN["docs/tokens"] = "from typing import Any\ninput_ids: Any\nlogits: Any\ntokens: Any\nprompt: Any\n" \
                       "probabilities: Any\nnetwork: Any\nx: Any\n"
"""Names that a page says one has already."""

USER = """
import emag
with emag.guide(emag.load(), emag.EMAG(1.5)) as run: ...
reveal_type(run)
reveal_type(run.stats)
reveal_type(emag.EMAG(1.5).variant)
reveal_type(emag.guided(lambda x, t, c: x, path=[1.0, 0.0]))
emag.EMAG(1.5, variant="quary")
emag.Interval(4.0, unit="progess")
emag.guided(lambda x, t, c: x, path=[1.0, 0.0], prediction="flw")
emag.load(offload="disk")
"""
SEEN = [("note", "emag.hosts.pipeline.Guided"), ("note", "emag.engine.stats.Stats"), ("note", "query"),
        ("note", "emag.hosts.function.Function"),
        *(("error", word) for word in ("quary", "progess", "flw", "disk"))]
"""What mypy says of these lines: the types that users see."""

HOLES: dict[str, set[str]] = {}
"""Lines that mypy does not accept yet because of our types, by page: {page: {line of code}}. To be emptied."""


def blocks(path, declared=True):
    return [code for mark, code in BLOCK.findall(path.read_text()) if declared or not mark]


def loads_from_hub(code):
    return re.search(r"""(?:load|from_pretrained)\(\s*["'][\w.-]+/[\w.-]+["']""", code)


@pytest.mark.parametrize("path", PAGES, ids=NAMES.values())
def test_what_needs_a_hub_model_says_so(path):
    for declared, code in BLOCK.findall(path.read_text()):
        assert declared or not loads_from_hub(code) or NAMES[path] == "docs/models", code


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES if NAMES[path] not in ELSEWHERE and blocks(path, declared=False)],
                         ids=lambda path: NAMES[path])
def test_the_blocks_of_a_page_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code in blocks(path, declared=False):
        exec(code, names)


def test_the_quick_start_has_the_lines_of_the_models():
    """So that tests/families/test_snippets.py runs them, on small networks of the same classes."""
    known = {model.lines.strip() for model in EXAMPLES}
    shown = [code.strip().replace(', offload="model"', "") for code in blocks(ROOT / "docs" / "quickstart.md")]
    assert len(shown) == 4 and all(code in known for code in shown)


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """All pages and what mypy says of them, by the settings of `make types`; functions on a page need no annotations."""
    mypy, tmp_path = pytest.importorskip("mypy.api"), tmp_path_factory.mktemp("typed")
    package = tmp_path / "pages"
    package.mkdir()
    (package / "__init__.py").touch()
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        (package / f"tutorial_{module(path)}.py").write_text(cells(path))
    for path in PAGES:
        (package / f"{module(path)}.py").write_text(GIVEN.get(NAMES[path], "") + "\n".join(blocks(path)))
    (package / "user.py").write_text(USER)
    settings = re.search(r"\[tool\.mypy\]\n.*?(?=\[tool\.importlinter\])", (ROOT / "pyproject.toml").read_text(), re.S)[0]
    free = '[[tool.mypy.overrides]]\nmodule = ["pages.*"]\ndisallow_untyped_defs = false\ndisallow_incomplete_defs = false\n'
    (tmp_path / "pyproject.toml").write_text(settings + free)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MYPYPATH", f"{tmp_path}:{ROOT / 'src'}")
        text, errors, _ = mypy.run([
            "--config-file", str(tmp_path / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"),
            "--python-executable", sys.executable, "-p", "pages"])
    assert not errors, errors
    return package, text


@pytest.mark.slow
def test_the_blocks_of_every_page_are_typed(typed):
    package, text = typed
    assert said(text, package) == HOLES, text


@pytest.mark.slow
def test_a_type_checker_sees_what_a_user_may_write(typed):
    lines = re.findall(r"pages/user\.py:\d+: ((?:error|note): .*)", typed[1])
    assert len(lines) == len(SEEN), lines
    for line, (kind, word) in zip(lines, SEEN, strict=True):
        assert line.startswith(kind) and word in line


def module(path):
    return re.sub(r"\W", "_", NAMES.get(path, path.stem))


def cells(path):
    """The code of a notebook."""
    book = json.loads(path.read_text())
    return "\n".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code")


def said(text, package):
    """{page: {line of code}} of the errors of mypy."""
    names, found = {module(path): NAMES[path] for path in PAGES}, {}
    for name, line in re.findall(r"pages/(\w+)\.py:(\d+): error:", text):
        if name == "user":
            continue
        code = (package / f"{name}.py").read_text().splitlines()[int(line) - 1].strip()
        found.setdefault(names.get(name, name), set()).add(code)
    return found
