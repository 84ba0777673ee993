"""docs/how-to/loaded.md: every row is exact or refused and has its test; every way that the code knows has its row."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from diffusers import hooks

from emag.engine.reading import WRAPPERS
from emag.hosts.hooks import SPLIT
from emag.hosts.opening import UNSAFE, ModelSource

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "loaded.md").read_text()
ROWS = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith("| how")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_row_says_what_becomes_of_it_and_who_tested_it(row):
    _, becomes, tested = row
    assert re.match(r"exact|refused|goes to|`NoEffect`", becomes)
    file, _, name = tested.strip("` ").partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert not name or name in {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}


def test_every_way_that_the_code_knows_has_a_row():
    hows = " ".join(row[0] for row in ROWS)
    known = {name for name in vars(hooks) if name.endswith("Config")} | set(WRAPPERS) | set(SPLIT) | {
        "FullyShardedDataParallel"} | {field.name for field in fields(ModelSource)} | set(UNSAFE[:2])
    assert {name for name in known if name not in hows} == set()
