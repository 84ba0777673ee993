"""The nodes, loaded and run as ComfyUI does it: validation, effect, several methods at once, refusals in words."""

import importlib.util
import re
import sys
from typing import Any

import pytest
import torch

import emag
import pack
from emag.records.graph import guidances

NAN = float("nan")


@pytest.fixture(scope="module")
def executor() -> Any:
    pack.load()
    return pack.executor()


def latents(executor: Any, graph: dict[str, Any]) -> torch.Tensor:
    assert pack.validated(graph) == (True, [])
    (kept,), errors = pack.run(executor, graph, ["4"])
    assert not errors
    return kept["samples"]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_emag_has_an_effect_and_is_exact_at_one(executor: Any) -> None:
    plain = latents(executor, pack.graph(None))
    assert torch.equal(latents(executor, pack.graph(pack.emag(scale=1.0))), plain)
    assert far(latents(executor, pack.graph(pack.emag())), plain) > 1e-2


def test_guidance_is_the_same_rule_as_text(executor: Any) -> None:
    node = latents(executor, pack.graph(pack.emag()))
    text = latents(executor, pack.graph(pack.guidance("emag=1.5,layers=1-2,window=progress:0:0.2:0.8,beta=0.7")))
    assert torch.equal(node, text)


def test_several_rules_at_once(executor: Any) -> None:
    """Ours that combines takes the place of the sampler's cfg, whose value is then without effect."""
    rules = "emag=1.5,layers=1-2,window=progress:0:0.2:0.8 seg=1.2,layers=1 apg=4"
    one = latents(executor, pack.graph(pack.guidance(rules)))
    assert torch.equal(one, latents(executor, pack.graph(pack.guidance(rules), cfg=1.0)))
    assert far(one, latents(executor, pack.graph(pack.guidance("apg=4")))) > 1e-2
    assert far(latents(executor, pack.graph(pack.guidance("cfg=4"))), latents(executor, pack.graph(None))) < 2e-3


def test_recipes_by_name_and_as_json(executor: Any) -> None:
    named = latents(executor, pack.graph(pack.guidance("", recipe="emag+apg"), steps=28))
    json = '{"rules": [{"emag": {}}, {"apg": {}}]}'
    assert torch.equal(named, latents(executor, pack.graph(pack.guidance(json), steps=28)))


@pytest.mark.parametrize(("guide", "words"), [
    (pack.emag(scale=99.0), "scale must lie in [0, 10], got 99"),
    (pack.emag(scale=-0.1), "scale must lie in [0, 10]"),
    (pack.emag(scale="much"), "could not convert"),
    (pack.emag(beta=[]), "beta must be a number, got []"),
    (pack.emag(scale=NAN), "scale must lie in [0, 10], got nan"),
    (pack.emag(scale="nan"), "scale must lie in [0, 10], got nan"),
    (pack.emag(beta=NAN), "beta must lie in [0, 1], got nan"),
    (pack.emag(beta=float("inf")), "beta must lie in [0, 1], got inf"),
    (pack.emag(every=NAN), "Failed to convert an input value to a INT value"),
    (pack.emag(every=101), "bigger than max"),
    (pack.emag(window="progress:0:nan:0.8"), "window"),
    (pack.emag(blocks="nan"), "layers=nan is not a list of block numbers"),
    (pack.emag(blocks="six", window=["8", 0]), "layers=six is not a list of block numbers"),
    (pack.emag(variant="maps"), "not in list"),
    (pack.emag(blocks="six"), "layers=six is not a list of block numbers"),
    (pack.emag(window="0:1"), "write a window as unit:start:delta:stop"),
    (pack.guidance("emga=1.5"), "emag"),
    (pack.guidance("emag=1.5,beta=2"), "beta must lie in"),
    (pack.guidance("emag=nan"), "nan"),
    (pack.guidance("emag=1.5,beta=nan"), "beta must be finite, got nan"),
    (pack.guidance("apg=4,eta=nan"), "nan"),
    (pack.guidance('{"rules": [{"emag": {"scale": NaN}}]}'), "NaN"),
    (pack.guidance(["8", 0], recipe="best"), "there is no recipe 'best'"),
    (pack.guidance("emga=1.5", recipe=["8", 0]), "there is no method 'emga'"),
    (pack.guidance(""), "name a recipe, or write rules"),
    (pack.guidance('{"rules": 3}'), "list of one-key objects"),
    (pack.guidance("emag=1.5", recipe="best"), "there is no recipe 'best'"),
])
def test_bad_values_are_refused_before_anything_runs(executor: Any, guide: dict[str, Any], words: str) -> None:
    graph = pack.graph(guide) | {"8": {"class_type": "Words", "inputs": {"value": "auto"}}}
    good, said = pack.validated(graph)
    assert not good
    assert words in " ".join(said)


@pytest.mark.parametrize(("guide", "words"), [
    (pack.emag(blocks="9"), "blocks 0 to 3"),
    (pack.guidance("apg=4 cfg=3"), "both combine"),
    (pack.guidance("autoguidance=2,model=small"), "another network"),
    (pack.guidance("rescale=0.7"), "name a combining rule"),
    (pack.guidance("negative=1.5,negative=other"), "connect one to the Guidance node, whose input is called other"),
    (pack.guidance("textailor=1.5,layers=1"), "not built for ComfyUI's classes"),
    (pack.guidance("cfg=4 icg"), "icg=given,conditions=other"),
])
def test_what_a_model_cannot_do_is_refused_in_words(executor: Any, guide: dict[str, Any], words: str) -> None:
    _, errors = pack.run(executor, pack.graph(guide), ["4"])
    assert words in errors[0]["exception_message"]


def test_report(executor: Any) -> None:
    kept, errors = pack.run(executor, pack.graph(pack.emag(), report=True), ["4", "6", "7", "8", "9"])
    assert not errors
    by_kind = {type(one): one for one in kept if not isinstance(one, dict)}
    assert "block evaluations per image" in by_kind[str]
    assert by_kind[torch.Tensor].shape[-1] == 3
    assert by_kind[torch.Tensor].min() >= 0 and by_kind[torch.Tensor].max() <= 1
    samples = [one["samples"] for one in kept if isinstance(one, dict)]
    assert {tuple(one.shape) for one in samples} == {(1, 16, 8, 8)}
    assert len({float(one.sum()) for one in samples}) == 3  # the sampler's, the weak and the clean ones


def test_report_without_a_run_says_so(executor: Any) -> None:
    _, errors = pack.run(executor, pack.graph(pack.emag(scale=1.0), report=True), ["5"])
    assert "nothing to report" in errors[0]["exception_message"]


def test_recipe_out_goes_in_again(executor: Any) -> None:
    graph = pack.graph(pack.emag())
    graph["6"] = {"class_type": "EmagRecipe", "inputs": {"model": ["2", 0]}}
    graph["7"] = {"class_type": "Keep", "inputs": {"value": ["6", 0]}}
    (text,), errors = pack.run(executor, graph, ["7"])
    assert not errors
    assert torch.equal(latents(executor, pack.graph(pack.guidance(text))), latents(executor, pack.graph(pack.emag())))


def linked(source: dict[str, Any]) -> dict[str, Any]:
    """A Guidance node whose text comes from another node, which works on a model of EMAG's."""
    graph = pack.graph(pack.guidance(""))
    graph["2"]["inputs"]["rules"] = ["9", 0]
    graph["8"] = {**pack.emag(), "inputs": {**pack.emag()["inputs"], "model": ["1", 0]}}
    return {**graph, "9": source}


def test_text_may_come_from_another_node(executor: Any) -> None:
    """It is not known before the graph runs: validation lets it pass, the node checks it."""
    recipe = linked({"class_type": "EmagRecipe", "inputs": {"model": ["8", 0]}})
    assert torch.equal(latents(executor, recipe), latents(executor, pack.graph(pack.emag())))
    for text, words in (("emga=2", "there is no method"), ("", "name a recipe, or write rules")):
        wrong = linked({"class_type": "Words", "inputs": {"value": text}})
        assert pack.validated(wrong) == (True, [])
        _, errors = pack.run(executor, wrong, ["4"])
        assert words in errors[0]["exception_message"]


@pytest.mark.parametrize("value", [NAN, 99.0])
def test_a_number_from_another_node_has_the_same_limits(executor: Any, value: float) -> None:
    """ComfyUI looks at no number that comes through a link."""
    graph = pack.graph(pack.emag(scale=["9", 0])) | {"9": {"class_type": "Number", "inputs": {"value": value}}}
    assert pack.validated(graph) == (True, [])
    _, errors = pack.run(executor, graph, ["4"])
    assert "scale must lie in [0, 10]" in errors[0]["exception_message"]


def test_every_number_of_our_nodes_has_limits(executor: Any) -> None:
    """Each is refused as NaN before anything runs: no widget of a new node is forgotten."""
    import nodes

    numbers = [(kind, name) for kind in ("EmagEMAG", "EmagGuidance", "EmagReport", "EmagRecipe")
               for part in nodes.NODE_CLASS_MAPPINGS[kind].INPUT_TYPES().values() for name, told in part.items()
               if told[0] in ("FLOAT", "INT")]
    assert numbers == [("EmagEMAG", "scale"), ("EmagEMAG", "beta"), ("EmagEMAG", "every")]
    for _, name in numbers:
        assert not pack.validated(pack.graph(pack.emag(**{name: NAN})))[0]


def test_a_report_is_of_the_latents_it_is_given(executor: Any) -> None:
    """Two samplers on one guided model, and the report of the first one asked for last."""
    graph = pack.graph(pack.emag())
    graph["10"] = {"class_type": "KSampler", "inputs": {**graph["3"]["inputs"], "steps": 9, "latent_image": ["3", 0],
                                                        "denoise": 0.9}}
    for key, sampler in (("20", "10"), ("30", "3")):
        graph[key] = {"class_type": "EmagReport", "inputs": {"model": ["2", 0], "latent": [sampler, 0]}}
        graph[f"{key}1"] = {"class_type": "Keep", "inputs": {"value": [key, 0]}}
    assert pack.validated(graph) == (True, [])
    texts = [pack.run(executor, graph, [key])[0][0] for key in ("201", "301")]
    assert [one.split(" steps")[0].split()[-1] for one in texts] == ["9", "6"]


def test_a_report_without_a_weak_branch_says_so(executor: Any) -> None:
    kept, errors = pack.run(executor, pack.graph(pack.guidance("apg=4"), report=True), ["6"])
    assert not errors
    assert "no weak branch was evaluated" in kept[0]
    assert "apg combines: the sampler's cfg is not read" in kept[0]


def test_a_graph_holds_the_rules() -> None:
    graph = pack.graph(pack.emag())
    graph["9"] = {**pack.guidance("apg=4"), "inputs": {**pack.guidance("apg=4")["inputs"], "model": ["2", 0]}}
    window = emag.Window.progress(0, 0.2, 0.8)
    assert guidances(graph) == [(emag.EMAG(1.5, layers=(1, 2), window=window, beta=0.7), emag.APG(4))]


def test_a_cfg_that_is_not_read_is_told(executor: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As it is of a pipeline; EMAG alone leaves it in its place, and says nothing."""
    for guide, told in ((pack.guidance("apg=4"), ["emag: apg combines; the sampler's cfg=7 is ignored"]), (pack.emag(), [])):
        caplog.clear()
        latents(executor, pack.graph(guide, cfg=7.0))
        assert [one.getMessage() for one in caplog.records if one.name == "emag"] == told


def test_without_emag_the_pack_says_where_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "emag"]:
        monkeypatch.delitem(sys.modules, name)

    class Missing:
        def find_spec(self, name: str, *rest: Any) -> None:
            if name == "emag":
                raise ModuleNotFoundError("No module named 'emag'", name="emag")

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    spec = importlib.util.spec_from_file_location("bare_pack", pack.PACK / "__init__.py",
                                                  submodule_search_locations=[str(pack.PACK)])
    monkeypatch.setitem(sys.modules, "bare_pack", importlib.util.module_from_spec(spec))
    with pytest.raises(ImportError, match=rf"{re.escape(sys.executable)} -m pip install emag"):
        spec.loader.exec_module(sys.modules["bare_pack"])


def test_two_prompts_share_nothing(executor: Any) -> None:
    """A guided prompt between two plain ones leaves no trace."""
    plain = latents(executor, pack.graph(None, steps=5))
    latents(executor, pack.graph(pack.emag(), steps=5))
    assert torch.equal(latents(pack.executor(), pack.graph(None, steps=5)), plain)
