"""Laws of the command line, over every command: a new one is held against them without a line here."""

import errno
import importlib
import inspect
import json
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer.main

from emag.errors import BadValue
from emag.hosts import extras
from emag.lab import cli
from emag.lab.cli.app import SECTIONS, app
from shell import emag

EVIL = "a [red] frog [/b] :boom: \x1b[31mred\x07 \u202eeman\x9b5m"
ORDERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
NAMES = [name for names in SECTIONS.values() for name in names]
ALL = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return lambda *arguments: emag(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="module")
def commands():
    """Every command as click knows it."""
    group = typer.main.get_command(app)
    context = group.make_context("emag", [], resilient_parsing=True)
    return {name: group.get_command(context, name) for name in group.list_commands(context)}


def kind_of(name, param):
    """What a parameter takes: str, int, float or bool, whether once or more often; a path is a str."""
    callback = next(info.callback for info in app.registered_commands if info.name == name)
    kind = inspect.signature(callback, eval_str=True).parameters[param.name].annotation.__origin__
    while parts := [part for part in get_args(kind) if part is not type(None)]:
        kind = parts[0]
    return str if kind is Path else kind


def required(command, value="x"):
    """Arguments that a command does not go without."""
    return [word for param in command.params if param.required
            for word in ([value] if param.param_type_name == "argument" else [param.opts[0], value])]


def examples(command):
    return [shlex.split(line) for line in command.epilog.split("\n\n")[1:]]


def refused(code, error):
    """True for exit code 2 and a single line that says why."""
    return code == 2 and len(error.splitlines()) == 1 and error.startswith("emag: error: ")


def test_every_command_has_its_place(commands):
    for module in pkgutil.iter_modules(cli.__path__):
        importlib.import_module(f"emag.lab.cli.{module.name}")
    assert sorted(NAMES) == sorted(info.name for info in app.registered_commands) == sorted(commands)


@ALL
def test_help_has_examples_and_fits_in_80_columns(run, commands, name):
    code, text, error = run(name, "--help")
    assert code == 0 and not error
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for words in examples(commands[name]):
        line = next(line for line in commands[name].epilog.split("\n\n") if shlex.split(line) == words)
        assert line.replace("\\[", "[") in text, line
    assert "Examples:" in flat and "--json" in flat
    for part in (commands[name].help, *(param.help or "" for param in commands[name].params)):
        assert part.replace("\\[", "[").split()[0] in flat
    assert "emag[ray]" in flat or "emag[ray]" not in (commands[name].epilog + str([p.help for p in commands[name].params]))


def test_help_loads_nothing_heavy():
    """The help of all, that of each command, the version and the names of the package: none of them waits for torch."""
    code = ("import sys, emag\n"
            "from emag.lab.cli.app import SECTIONS, app\n"
            "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'accelerate'}\n"
            "assert 'guide' in dir(emag) and not heavy & set(sys.modules), 'emag'\n"
            "names = [name for names in SECTIONS.values() for name in names]\n"
            "for words in (['--help'], ['--version'], *([name, '--help'] for name in names)):\n"
            "    app(words, standalone_mode=False)\n"
            "    assert not heavy & set(sys.modules), words\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Examples:") == len(NAMES)


@ALL
def test_examples_can_be_given(commands, name):
    for words in examples(commands[name]):
        assert words[:2] == ["emag", name]
        commands[name].make_context(name, words[2:])


@ALL
def test_paragraphs_of_help_flow(commands, name):
    assert all("\n" not in part for part in commands[name].help.split("\n\n"))


def test_help_of_all_names_the_commands_in_order(run):
    code, text, _ = run("--help")
    places = [re.search(rf"│ {name} ", text).start() for name in NAMES]
    assert code == 0 and places == sorted(places) and max(map(len, text.splitlines())) <= 80


def test_options_mean_one_thing(commands):
    """A name has one type everywhere, a letter stands for one name, and what draws takes what others do."""
    kinds, letters = {}, {}
    for name, command in commands.items():
        for param in (param for param in command.params if param.param_type_name == "option"):
            for flag in param.opts:
                kinds.setdefault(flag, set()).add(kind_of(name, param))
                letters.setdefault(flag if flag[1] != "-" else "", set()).add(param.opts[0])
    assert not {flag: found for flag, found in kinds.items() if len(found) > 1}
    assert not {flag: found for flag, found in letters.items() if flag and len(found) > 1}
    drawing = {"--prompt", "--prompts", "--negative", "--recipe", "--json", "--out", "--model", "--seeds", "--steps",
               "--scale"}
    for name in ("generate", "compare", "calibrate"):
        assert not drawing - {flag for param in commands[name].params for flag in param.opts}, name


@ALL
def test_a_wrong_option_is_one_line_with_the_nearest(run, name):
    code, text, error = run(name, "--jsn")
    assert refused(code, error) and not text
    assert "did you mean --json?" in error and f"emag {name} --help" in error


@ALL
def test_ctrl_c_says_what_is_kept(run, commands, name, monkeypatch):
    def interrupted(*needs):
        raise KeyboardInterrupt

    monkeypatch.setattr("emag.lab.cli.app.require", interrupted)
    code, _, error = run(name, *required(commands[name]))
    assert code == 130 and re.fullmatch(r"emag: interrupted: [^{}]+\n", error)
    assert re.search("kept|lost|stays", error) or "nothing was written" in error


@ALL
def test_what_the_system_refuses_is_one_line(run, commands, name, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device", "out/a.png")
    for fault, says in ((full, "No space left on device: out/a.png"),
                        (PermissionError(errno.EACCES, "Permission denied", "out"), "Permission denied: out"),
                        (ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow.parquet"), "pip install emag[eval]"),
                        (ModuleNotFoundError("No module named 'nobody'", name="nobody"), "nobody is not installed"),
                        (BadValue(f"no {EVIL}"), "a [red] frog [/b]")):

        def refuse(*needs, fault=fault):
            raise fault

        monkeypatch.setattr("emag.lab.cli.app.require", refuse)
        code, text, error = run(name, *required(commands[name]))
        assert refused(code, error) and says in error and not text and not ORDERS.search(error)


@ALL
def test_a_missing_extra_is_said_before_anything_else(run, commands, name, monkeypatch):
    """For each module of each extra that the command needs; commands say which they need where they are declared."""
    needs = set(extras.EVAL) if name in SECTIONS["Evaluate"] else set()
    for module in sorted(needs):
        monkeypatch.setattr(extras, "find_spec", lambda found, module=module: None if found == module else True)
        code, _, error = run(name, *required(commands[name], "nowhere"))
        assert refused(code, error) and f"{module} is not installed: pip install emag[" in error


def test_extras_are_those_of_the_project():
    from pathlib import Path

    import tomllib

    told = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = {"yaml": "pyyaml", "torch_fidelity": "torch-fidelity",
                     "open_clip": "open_clip_torch"}
    for extra, modules in extras.EXTRAS.items():
        listed = {re.split(r"[>=\[]", one)[0] for one in told[extra] if not one.startswith("emag[")}
        nested = {re.split(r"[>=\[]", one)[0] for one in told["eval"]} if "emag[eval]" in told[extra] else set()
        assert {distributions.get(module, module) for module in modules} == listed | nested, extra


@ALL
def test_texts_of_users_are_shown_and_not_obeyed(run, commands, name, monkeypatch):
    """Whatever takes a text gets one full of markup and escapes: it is refused, and shown as it is."""
    def refuse(*given, **more):
        raise BadValue(f"no model today: {EVIL}")

    monkeypatch.setattr("emag.lab.cli.common.open_pipeline", refuse)
    command = commands[name]
    for param in (param for param in command.params if kind_of(name, param) is str):
        given = [EVIL] * max(1, param.nargs)
        words = [] if param.required else required(command, "nowhere")
        words += ["-m", "nowhere"] if name == "doctor" and "--model" not in param.opts else []
        code, text, error = run(name, *words, *([] if param.param_type_name == "argument" else [param.opts[0]]), *given)
        assert code in (0, 2) and not ORDERS.search(text + error), (param.name, text, error)
        assert code == 0 or refused(code, error)


def test_texts_in_tables_sheets_and_records_are_shown(run, tmp_path):
    """A label in the table and on the sheet, a prompt in a record, a folder in the last line."""
    from PIL import Image

    from emag.records import png as images

    code, text, error = run("compare", "a frog", "-c", f"{EVIL.replace(':', '')}: emag=1.5", "-c", "host", "-n", 4,
                            "-s", "8", "-o", tmp_path / "[b] x" / "s.png")
    assert code == 0 and not ORDERS.search(text + error)
    flat = "".join(text.split())
    assert all(part in flat for part in ("a[red]frog[/b]boom", "\\x1b[31mred\\x07\\u202eeman\\x9b5m", "[b]x/s.png"))
    record = images.read_record(tmp_path / "[b] x" / "s.png")
    call = {**record["call"], "prompt": [EVIL]}
    images.write(Image.new("RGB", (4, 4)), tmp_path / "evil.png", {**record, "call": call, "unrecorded": [EVIL]})
    for words in (("show", "evil.png"), ("show", "evil.png", "--json"), ("again", "evil.png")):
        _, text, error = run(*words)
        assert not ORDERS.search(text + error) and "[red] frog [/b]" in text + error


def test_version_and_suggestions(run, tmp_path):
    (tmp_path / "s.yaml").write_text("classes: all\nimages: 2\nout: a\nrecipes: {cfg: {guidance_scale: {grid: [1, 2]}}}\n"
                                     "sweep: {method: grid, select: acuracy, objectives: [acuracy]}\n")
    assert run("--version")[1].startswith("emag ")
    for words, says in ((("generat", "frog"), "did you mean generate?"), (("plan", "-g", "emga=1"), "did you mean emag?"),
                        (("plan", "--recipe", "emag+agp"), "did you mean emag+apg?"),
                        (("methods", "apgg"), "did you mean apg?"),
                        (("generate", "a frog", "-m", "tny"), "did you mean tiny?"),
                        (("plan", "-g", "emag=1,layer=3"), "did you mean layers?"),
                        (("plan", "-g", "cfg=intervall:3"), "did you mean interval?"),
                        (("compare", "a frog", "-c", "pgc=1"), "did you mean pcg?"),
                        (("reproduce", "emag-tabel2"), "did you mean emag-table2?"),
                        (("sweep", "s.yaml"), "did you mean accuracy?"),
                        (("doctor", "-m", "tiny", "emga"), "did you mean emag?")):
        code, _, error = run(*words)
        assert refused(code, error) and says in error, error


@pytest.mark.parametrize("words", [("plan", "-g", "emga=1"), ("plan", "-g", "xyzzy=1"),
                                   ("compare", "a frog", "-c", "xyzzy=1"), ("methods", "xyzzy"),
                                   ("doctor", "-m", "tiny", "xyzzy"), ("plan", "--recipe", "xyzzy")])
def test_a_wrong_name_is_no_wall_of_names(run, words):
    code, _, error = run(*words)
    assert refused(code, error) and len(error) < 500 and any(
        way in error for way in ("did you mean", "lists all", "there are", "all are tried"))


@pytest.mark.parametrize(("shell", "words", "expected"), [
    ("bash", "emag comp", {"compare"}), ("bash", "emag generate --rec", {"--recipe"}),
    ("bash", "emag plan -g ema", {"emag", "emag-null"}),
    ("bash", "emag generate --recipe emag+", {"emag+cfg", "emag+apg", "emag+cads"}),
])
def test_tab_completion(run, monkeypatch, shell, words, expected):
    monkeypatch.setenv("_EMAG_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    code, text, _ = run()
    assert code == 0 and set(text.split()) == expected


def test_json_is_safe_to_show(run, capsys):
    from emag.lab.cli.screen import show_json

    show_json({"prompt": EVIL})
    text = capsys.readouterr().out
    assert json.loads(text)["prompt"] == EVIL and not ORDERS.search(text)
