"""The notebook runs as it stands, and shows pictures."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "web.ipynb"


@pytest.mark.slow
def test_every_cell_runs_and_shows(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    held, shown = {}, []
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        assert not cell["outputs"] and cell["execution_count"] is None
        *body, last = "".join(cell["source"]).splitlines()
        exec("\n".join(body), held)
        try:
            shown.append(eval(last, held))
        except SyntaxError:
            exec(last, held)
    assert sum(type(one).__name__ == "Image" for one in shown) >= 3 and any(type(one).__name__ == "Figure" for one in shown)
