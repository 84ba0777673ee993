"""The command line, called in this process."""

import sys

import pytest

from emag.lab.cli import main


def emag(monkeypatch, capsys, *arguments):
    """Run the command in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["emag", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *arguments: emag(monkeypatch, capsys, *arguments)
