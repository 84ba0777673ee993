"""The generated pages: up to date, and a new method needs nothing else."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import emag
from emag.lab import pages
from emag.lab.pages import public
from emag.lab.pages.catalogue import KINDS, catalogue
from emag.lab.pages.functions import numbers_in
from emag.methods import METHODS

DOCS = Path(__file__).parents[2] / "docs"


def test_every_generated_page_is_up_to_date():
    assert pages.stale(DOCS) == [], "run make pages"


def test_a_page_is_written_whole_mended_and_removed(tmp_path):
    for name in ("methods", "llms.txt"):
        (shutil.copytree if (DOCS / name).is_dir() else shutil.copy)(DOCS / name, tmp_path / name)
    (tmp_path / "methods" / "weak.md").write_text("old")
    (tmp_path / "methods" / "gone.md").write_text("of a kind that is no more")
    (tmp_path / "mine.md").write_text("not generated")
    assert {"methods/weak.md", "methods/gone.md", "models.md"} <= set(pages.stale(tmp_path))
    assert "methods/null.md" not in pages.stale(tmp_path)
    pages.write(tmp_path)
    assert pages.stale(tmp_path) == [] and not (tmp_path / "methods" / "gone.md").exists()
    assert (tmp_path / "mine.md").read_text() == "not generated"


def test_a_new_method_needs_nothing_else(monkeypatch):
    @dataclass(frozen=True)
    class Dummy(emag.Rule):
        """Dummy guidance: the running prediction, a little louder.

        Args:
            loudness: factor, at least 0; 1 is off.
        """

        loudness: float = 1.25

        name = "dummy"
        paper = "arXiv 1234.56789"
        equation = "a p"
        kind = "after"

    before = pages.pages()
    monkeypatch.setitem(METHODS, "dummy", Dummy)
    changed = {name: text for name, text in pages.pages().items() if text != before[name]}
    assert set(changed) == {"methods/index.md", "methods/after.md", "llms.txt"}
    assert all("Dummy guidance: the running prediction, a little louder." in text for text in changed.values())
    section = changed["methods/after.md"].partition("\n## dummy\n")[2]
    for told in ("`emag.Dummy`", "https://arxiv.org/abs/1234.56789", "`a p`", "default 1.25. factor, at least 0; 1 is off."):
        assert told in section.partition("\n## ")[0], told


def test_every_method_stands_once_on_the_page_of_its_kind():
    for kind in KINDS:
        headings = re.findall(r"^## (.+)$", (DOCS / "methods" / f"{kind}.md").read_text(), re.M)
        assert headings == [method["name"] for method in catalogue() if method["kind"] == kind]


def test_every_paper_of_the_code_is_on_a_page_of_methods_and_the_other_way_round():
    """Numbers of arXiv: what code is after a paper, a reader finds by it."""
    home = Path(emag.__file__).parent
    texts = {path.relative_to(home).as_posix(): path.read_text() for path in home.rglob("*.py")}
    code = {number: path for path, text in texts.items() for number in numbers_in(text)}
    pages_ = "".join(text for name, text in pages.pages().items() if name.startswith("methods/"))
    told = set(numbers_in(pages_))
    assert {number: path for number, path in code.items() if number not in told} == {}
    assert told <= set(code) and len(told) > 90


def test_every_public_name_stands_once_in_the_reference():
    text = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md") if path.name != "index.md")
    named = re.findall(r"^(?:::: |## `)emag\.(\w+)", text, re.M)
    assert sorted(named) == sorted(emag.__all__) == sorted(name for name in dir(emag) if not name.startswith("_"))
    index = re.findall(r"^\| \[`(\w+)`\]", (DOCS / "reference" / "index.md").read_text(), re.M)
    assert sorted(index) == sorted(named)


def test_a_room_without_a_place_in_the_reference_is_an_error():
    with pytest.raises(LookupError, match=r"emag\.cellar"):
        public.group_of("cellar")
    assert public.group_of("methods") == "guiding" and public.group_of("methods.weak.pag") == "methods"


def test_every_public_name_is_told_in_one_line():
    for name in public.homes():
        line = public.line_of(name)
        assert line.endswith(".") and line.count("\n") == 0 and len(line) < 220, (name, line)


def test_llms_txt_leads_to_pages_that_are_there():
    text = (DOCS / "llms.txt").read_text()
    links = re.findall(r"^- \[([^]]+)\]\(\1\): ", text, re.M)
    assert len(links) > 20 and all((DOCS / link).is_file() for link in links)
    assert text.startswith("# emag\n\n> ") and len(re.search(r"```python\n(.*?)```", text, re.S)[1].splitlines()) <= 7


def test_every_page_is_in_the_menu():
    text = (DOCS.parent / "mkdocs.yml").read_text()
    menu = re.findall(r"[\w/-]+\.(?:md|ipynb)", text[text.index("nav:"):])
    there = [path.relative_to(DOCS).as_posix() for kind in ("md", "ipynb") for path in DOCS.rglob(f"*.{kind}")]
    assert sorted(menu) == sorted(there) and yaml.safe_load(text)["strict"]


@pytest.mark.parametrize("arguments", [[], ["no/such/folder"]])
def test_the_command_wants_a_folder(arguments):
    done = subprocess.run([sys.executable, "-m", "emag.lab.pages", *arguments], capture_output=True, text=True)
    assert done.returncode != 0 and done.stderr.startswith("expected one folder") and done.stderr.count("\n") == 1
