"""A network over two processes: weights in pieces (FSDP), tokens in parts (context parallelism)."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
def test_two_processes(tmp_path):
    """The images of one process, with sharded weights and where tokens are split; EMAG's maps are refused there."""
    script, port, out = ROOT / "tests/helpers/one_of_two.py", str(free_port()), tmp_path / "found.json"
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests/helpers"), os.environ.get("PYTHONPATH", "")])
    both = [subprocess.Popen([sys.executable, str(script), str(rank), port, str(out)], stderr=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONPATH": paths}) for rank in range(2)]
    try:
        said = [one.communicate(timeout=240)[1] for one in both]
    finally:
        for one in both:
            one.kill()
    assert [one.returncode for one in both] == [0, 0], said
    found = json.loads(out.read_text())
    assert "some heads alone" in found.pop("map")
    assert len(found) == 11 and max(found.values()) < 1e-5, found
