"""The docs say what is so."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import emag
from emag.families import BACKBONES, DEFAULTS
from emag.hosts.defaults import blocks_at
from emag.methods import METHODS
from emag.records import recipe

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "emag"


def test_the_readme_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        exec(code, names)
    assert "block evaluations per image: 556" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert names["pipe"].__class__.__name__ == "TinyPipeline"


PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def anchors(text):
    """What the headings of a page can be linked by; a name that mkdocstrings fills in is one."""
    headings = [re.sub(r"[^\w\s-]", "", line).strip().lower() for line in re.findall(r"^#+ (.+)$", text, re.M)]
    given = {"".join(pair) for pair in re.findall(r"^::: (.+)$|{#(.+)}$", text, re.M)}
    return {re.sub(r"[-\s]+", "-", heading) for heading in headings} | given


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`(?:src/emag/)?((?!tests/)[a-z_]+(?:/[a-z_]+)*\.py)`", text))
    assert all((PACKAGE / name).is_file() or (ROOT / name).is_file() or list(PACKAGE.rglob(name)) for name in named)
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", text):
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not heading or heading in anchors(target.read_text()), link


def test_the_table_of_defaults_is_complete():
    for model, rows in DEFAULTS.items():
        assert model in (*BACKBONES, "tiny", "shapes", "*")
        for name, row in rows.items():
            assert row.source
            METHODS[name](**{key: value for key, value in row.values.items() if key != "layers"})
    assert all("emag" in DEFAULTS[name] for name in BACKBONES)


@pytest.mark.parametrize(("model", "depth", "blocks"), [
    ("SD3Transformer2DModel", 24, (6, 7, 8)), ("DiTTransformer2DModel", 28, (12, 13, 14, 15)),
    ("SD3Transformer2DModel", 12, (3, 4)), ("tiny", 8, (2, 3, 4)), ("PixArtTransformer2DModel", 1, (0,)),
])
def test_published_candidates(model, depth, blocks):
    assert blocks_at(DEFAULTS[model]["emag"].values["layers"], depth) == blocks


def test_commands_in_the_readme_parse():
    text = (ROOT / "README.md").read_text()
    for short in re.findall(r"-g (\S+)", text):
        assert isinstance(recipe.parse(short), emag.Rule)


def commands():
    """Every command line of emag in a block of README and docs, a line or a part of one behind a semicolon."""
    for page in PAGES:
        for block in re.findall(r"```\n(.*?)```|((?:^    emag .*\n)+)", (ROOT / page).read_text(), re.S | re.M):
            for line in "".join(block).splitlines():
                found = [part.strip() for part in line.split(" ; ") if part.strip().startswith("emag ")]
                yield from (pytest.param(part, id=f"{page}: {part[:50]}") for part in found)


@pytest.mark.parametrize("line", commands())
def test_command_lines_have_the_options_they_name(line):
    from typer.main import get_command

    from emag.lab.cli.app import app

    _, name, *arguments = shlex.split(line, comments=True)
    if not name.startswith("-"):
        get_command(app).get_command(None, name).make_context(name, arguments)


def test_adding_a_rule_is_as_the_page_says(capsys):
    """The page's code runs, and its rule obeys the laws."""
    text, names = (ROOT / "docs" / "adding-a-method.md").read_text(), {"__name__": "damped"}
    before = dict(METHODS)
    try:
        for code in re.findall(r"```python\n(.*?)```", text, re.S):
            exec(code, names)
        assert isinstance(recipe.parse("damped=3,damping=0.2"), names["Damped"])
    finally:
        METHODS.clear()
        METHODS.update(before)
    assert "damped 2.5" in capsys.readouterr().out


def test_the_house_is_drawn_as_its_layers_are_held():
    drawing = re.search(r"```text\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(), re.S)[1]
    drawn = re.findall(r"^(\w+) {2,}", drawing, re.M)
    layers = re.search(r"^layers = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M)[1]
    assert drawn == re.findall(r"emag\.(\w+)", layers)  # of one layer: the room beside it, too


def test_tests_named_in_the_docs_exist():
    for page in (ROOT / "docs").rglob("*.md"):
        named = re.findall(r"`(tests/[a-z_/]+\.py)`", page.read_text())
        assert all((ROOT / name).is_file() for name in named), page


@pytest.mark.slow
def test_every_bench_starts():
    """In one process, which loads torch once."""
    scripts = [str(path) for path in sorted((ROOT / "bench").glob("*.py"))]
    done = subprocess.run([sys.executable, "-c", HELP_OF_EACH, *scripts], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("Usage") == len(scripts), done.stdout + done.stderr


HELP_OF_EACH = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv, sys.path[0] = [script, "--help"], script.rpartition("/")[0]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, script
"""


def test_the_specs_of_the_evaluation_page_are_read(tmp_path):
    from emag.lab.evaluate.spec import parse
    from emag.lab.evaluate.sweep.spec import Options

    page = (ROOT / "docs" / "evaluate.md").read_text()
    run, sweep = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.S))
    (tmp_path / "prompts.tsv").write_text("Prompt\tCategory\na frog\tanimals\n")
    spec = parse(run, beside=tmp_path)
    assert [one.label for one in spec.recipes] == ["cfg", "emag", "apg", "named"] and spec.prompts[0].category == "animals"
    howto = (ROOT / "docs" / "how-to" / "evaluation.md").read_text()
    parse(yaml.safe_load(re.search(r"```yaml\n(.*?)```", howto, re.S)[1]), beside=tmp_path)
    assert Options(**{**sweep["sweep"], "objectives": tuple(sweep["sweep"]["objectives"])}).trials == 4


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_specs_of_bench_are_read(path):
    from emag.lab.evaluate.results.write import read_questions
    from emag.lab.evaluate.spec import read_spec
    from emag.lab.evaluate.sweep.spec import read_sweep

    data = yaml.safe_load(path.read_text())
    if isinstance(data, list):  # questions that a page answers
        assert read_questions(path)
        return
    swept = "sweep" in data
    assert read_sweep(path).recipes if swept else read_spec(path).recipes
