"""The tutorials run as they stand, and what they show is what running them gives."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install emag[docs]")
nbclient = pytest.importorskip("nbclient", reason="pip install emag[docs]")

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
BOOKS = sorted(TUTORIALS.glob("*.ipynb"))


def texts(cell):
    """What a cell printed, numbers left out: their last digits are those of a machine."""
    shown = "".join(out.text for out in cell.outputs if out.output_type == "stream" and out.name == "stdout")
    return re.sub(r"[\d.]+", "0", shown)


def pictures(cell):
    return ["image/png" in out.get("data", {}) for out in cell.outputs if out.output_type == "execute_result"]


RUN = [pytest.param(path, marks=pytest.mark.slow if path.stem == "first-image" else pytest.mark.long) for path in BOOKS]


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_a_tutorial_runs_and_shows_what_is_stored(path, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stored, book = nbformat.read(path, 4), nbformat.read(path, 4)
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    for before, after in zip(stored.cells, book.cells):
        if before.cell_type == "code":
            assert (texts(before), pictures(before)) == (texts(after), pictures(after)), "run make tutorials"


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_tutorial_is_stored_small_and_clean(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert path.stat().st_size < 300_000 and len(code) >= 3
    assert not any(out.output_type == "error" or out.get("name") == "stderr" for cell in code for out in cell.outputs)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any("execution" in cell.metadata for cell in code)  # times of a run
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", "".join(cell.source for cell in book.cells)):
        assert (TUTORIALS / link).exists(), link


def test_there_are_three():
    assert [path.stem for path in BOOKS] == ["first-image", "own-rule", "paired"]
