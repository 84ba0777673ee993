"""The docs say what is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import emag
from emag.families import BACKBONES, DEFAULTS, HOSTS
from emag.hosts.defaults import blocks_at
from emag.methods import METHODS
from emag.records import recipe

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "emag"


def test_the_readme_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        exec(code, names)
    assert "block evaluations per image: 556" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert names["pipe"].__class__.__name__ == "TinyPipeline"


PAGES = ("architecture", "emag", "adding-a-method", "adding-a-model", "index", "quickstart", "which-method", "diffusers",
         "methods", "evaluate", "modular", "gpu", "worlds", "comfy")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in PAGES)])
def test_named_files_exist(page):
    text = (ROOT / page).read_text()
    named = set(re.findall(r"`(?:src/emag/)?((?!tests/)[a-z_]+(?:/[a-z_]+)*\.py)`", text))
    assert all((PACKAGE / name).is_file() or (ROOT / name).is_file() or list(PACKAGE.rglob(name)) for name in named)
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", text):
        name, _, heading = link.partition("#")
        target = (ROOT / page).parent / name
        assert target.exists(), link
        assert not heading or f"# {heading.replace('-', ' ')}\n" in target.read_text().lower(), link


def test_the_page_of_models_is_up_to_date():
    """After a change: emag models --markdown > docs/models.md"""
    from emag.lab.pages.models import markdown

    text = (ROOT / "docs" / "models.md").read_text()
    assert text == markdown() and all(name in text for name in HOSTS)
    assert "docs/models.md" in (ROOT / "README.md").read_text()


def test_the_table_of_defaults_is_complete():
    for model, rows in DEFAULTS.items():
        assert model in (*BACKBONES, "tiny", "*")
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


def test_adding_a_rule_is_as_the_page_says(capsys):
    """The page's code runs, and its rule obeys the laws."""
    import test_properties as laws

    text, names = (ROOT / "docs" / "adding-a-method.md").read_text(), {"__name__": "damped"}
    before = dict(METHODS)
    try:
        for code in re.findall(r"```python\n(.*?)```", text, re.S):
            exec(code, names)
        row = names["row"]
        for law in (laws.test_neutral_parameters_change_nothing, laws.test_it_acts, laws.test_all_spaces_give_one_result,
                    laws.test_rows_do_not_see_each_other):
            law(row)
        for case in laws.PIPES:
            laws.test_neutral_is_the_plain_pipeline_bit_for_bit(row, case)
            laws.test_a_second_run_starts_anew(row, case)
        assert isinstance(recipe.parse("damped=3,damping=0.2"), names["Damped"])
    finally:
        METHODS.clear()
        METHODS.update(before)
    assert "damped 2.5" in capsys.readouterr().out


def test_adding_a_model_is_as_the_page_says(capsys):
    """The page's code runs, and its model is guided as any other."""
    from emag import families

    tables = families.BACKBONES, families.HOSTS, families.DEFAULTS
    before, names = [dict(table) for table in tables], {}
    try:
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "adding-a-model.md").read_text(), re.S):
            exec(code, names)
        assert names["run"].stats.evaluations == names["run"].stats.planned
        with pytest.raises(emag.BadValue, match="already known"):
            emag.register(names["family"])
    finally:
        for table, kept in zip(tables, before):
            table.clear()
            table.update(kept)
    assert "emag run" in capsys.readouterr().out


def test_the_page_of_methods_is_up_to_date():
    """After a change: emag methods --markdown > docs/methods.md"""
    from emag.lab.pages.catalogue import markdown

    assert (ROOT / "docs" / "methods.md").read_text() == markdown()


def test_tests_named_in_the_docs_exist():
    for page in (ROOT / "docs").glob("*.md"):
        named = re.findall(r"`(tests/[a-z_]+\.py)`", page.read_text())
        assert all((ROOT / name).is_file() for name in named), page


@pytest.mark.parametrize("script", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.name)
def test_a_bench_starts(script):
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


def test_the_specs_of_the_evaluation_page_are_read(tmp_path):
    from emag.lab.evaluate.spec import parse
    from emag.lab.evaluate.sweep.spec import Options

    page = (ROOT / "docs" / "evaluate.md").read_text()
    run, sweep = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.S))
    (tmp_path / "prompts.tsv").write_text("Prompt\tCategory\na frog\tanimals\n")
    spec = parse(run, beside=tmp_path)
    assert [one.label for one in spec.recipes] == ["cfg", "emag", "apg", "named"] and spec.prompts[0].category == "animals"
    assert Options(**{**sweep["sweep"], "objectives": tuple(sweep["sweep"]["objectives"])}).trials == 4


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_specs_of_bench_are_read(path):
    from emag.lab.evaluate.spec import read_spec
    from emag.lab.evaluate.sweep.spec import read_sweep

    swept = "sweep" in yaml.safe_load(path.read_text())
    assert read_sweep(path).recipes if swept else read_spec(path).recipes
