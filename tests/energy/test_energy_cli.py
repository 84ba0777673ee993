"""Energies in the command line: images, prices before a run, refusals in one line."""

import json

import pytest

from shell import emag


@pytest.fixture
def run(monkeypatch, capsys):
    return lambda *arguments: emag(monkeypatch, capsys, *arguments)



@pytest.mark.slow
def test_images_are_steered_by_a_score_by_name(run, tmp_path):
    words = ("a photo of a ship", "-n", 4, "-s", "8", "--json")
    score = "energy=classifier:frog,strength=0.2,where=next,through_network=true"
    code, out, _ = run("generate", *words, "-g", "cfg=2", "-g", score, "-o", tmp_path / "steered")
    assert code == 0
    stats = json.loads(out)["run"]
    assert stats["evaluations"] == stats["planned"] == 2 * stats["clean"]
    assert "energy" in stats["rules"][-1] and stats["backward"] == stats["clean"]
    assert run("generate", *words, "-g", "cfg=2", "-o", tmp_path / "plain")[0] == 0
    pictures = [next((tmp_path / name).glob("*.png")) for name in ("steered", "plain")]
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
    code, out, err = run("again", pictures[0], "-o", tmp_path / "again")
    assert code == 0, err


def test_the_plan_counts_passes_of_both_kinds(run):
    score = "energy=classifier:frog,strength=0.2,where=next,through_network=true,recur=2"
    code, out, _ = run("plan", "-g", "cfg=2", "-g", score, "-n", 10, "--json")
    found = json.loads(out)
    # each step: the host's two rows, and two differentiated pairs
    assert code == 0 and found["evaluations"] == 3 * found["clean"] and found["backward"] == 2 * found["clean"]
    plain = json.loads(run("plan", "-g", "cfg=2", "-g", "energy=edges:0.1", "-n", 10, "--json")[1])
    assert plain["evaluations"] == plain["clean"] and plain["backward"] == 0


def test_what_cannot_work_is_one_line_before_any_image(run, tmp_path):
    for score, told in (("energy=classifier:forg", "did you mean frog"), ("energy=beauty", "there is no score 'beauty'"),
                        ("energy", "give one, e.g. energy=colour"),
                        ("energy=edges:0.1,where=x_t", "needs through_network=true")):
        code, _, err = run("generate", "a photo of a ship", "-g", "cfg=2", "-g", score, "-o", tmp_path / "out")
        assert code == 2 and told in " ".join(err.split()) and not (tmp_path / "out").exists(), err
    code, _, err = run("generate", "a photo of a ship", "-g", "energy=edges:0.1", "-o", tmp_path / "out")
    assert code == 2 and "name a combining rule before it" in " ".join(err.split())


@pytest.mark.slow
def test_the_plan_says_what_is_kept_and_what_checkpoints_spare(run):
    score = "energy=edges:0.1,where=next,through_network=true"
    found = json.loads(run("plan", "-m", "shapes", "-g", "cfg=2", "-g", score, "-n", 4, "-b", 2, "--json")[1])
    assert found["again"] == 0 and 0 < 2 * found["memory"]["least"] < found["memory"]["bytes"]
    code, out, _ = run("plan", "-g", "cfg=2", "-g", f"{score},checkpoint=true", "-n", 4)
    text = " ".join(out.split())
    assert code == 0 and "backward passes go through 64 of these blocks" in text
    assert "they evaluate 64 blocks again" in text and "MiB beside the weights for 1 image(s)" in text
    assert json.loads(run("plan", "-g", "cfg=2", "-n", 4, "--json")[1])["memory"] is None
