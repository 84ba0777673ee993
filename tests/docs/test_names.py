"""One name, one thing: what a reader looks up by name is found in one place."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import emag

HOME = Path(emag.__file__).parent
BARE = {"one", "at", "found", "taken", "given", "read"}
# rooms where a name is one file's own: tables of one shape, a family each; small models; commands and pages; a world
OWN = ("families/", "testing/", "lab/", "worlds/", "hosts/comfy/")
# a class of the lab that has a namesake below it, and why
SHARED = {
    "Negative": "an option of the command line, named after what it takes", "Scale": "an option of the command line",
    "Recipe": "an option of the command line",
    "Plan": "what an evaluation is to measure", "Statistic": "a number of a sample of images",
    "Verdict": "what a table says of a difference, and what a judge says of an image",
}


TWICE = {"guide": "emag.guide is of a pipeline, emag.tokens.guide of a model of tokens: one word for those who use both"}


def bound(node):
    """Names that a statement of a module binds, without those of type variables."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign) and not (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "TypeVar"):
        return [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []


def public(path):
    """Public functions, classes and names of types of a module: no constants, no logs."""
    names = [name for node in ast.parse(path.read_text(encoding="utf-8")).body for name in bound(node)]
    return {name for name in names if name[0] != "_" and not name.isupper() and name != "log"}


@pytest.fixture(scope="module")
def places():
    found = defaultdict(set)
    for path in sorted(HOME.rglob("*.py")):
        for name in public(path) if path.name != "__init__.py" else ():
            found[name].add(str(path.relative_to(HOME)))
    return found


ANOTHER_HOST = "hosts/comfy/"
"""It has the nouns of the engine for the same things, seen by another program."""


def outside(paths):
    return {path for path in paths if not path.startswith(OWN)}


def test_no_two_things_below_the_lab_have_one_name(places):
    assert {name: paths for name, paths in places.items() if len(outside(paths)) > 1 and name not in TWICE} == {}


def test_no_type_of_the_library_has_a_namesake_in_the_lab(places):
    ours = {name: {path for path in paths if not path.startswith(ANOTHER_HOST)} for name, paths in places.items()}
    types = {name: paths for name, paths in ours.items() if name[0].isupper() and outside(paths) and len(paths) > 1}
    assert {name: paths for name, paths in types.items() if name not in SHARED} == {}


def test_names_say_what_they_are_of(places):
    assert {name: outside(places[name]) for name in BARE if outside(places[name])} == {}
