"""`emag text` on a small model in a folder: what it writes, what it records, what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import emag
from shell import emag as shell
from small_words import BOS, EOS, PAD, VOCABULARY, model_of

WORDS = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, **{f"w{i}": i for i in range(3, VOCABULARY)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "model"
    made = Tokenizer(models.WordLevel(WORDS, unk_token="w3"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **ends).save_pretrained(path)
    model_of("llama").save_pretrained(path)
    return path


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return lambda *arguments: shell(monkeypatch, capsys, *map(str, arguments))


def test_a_text_is_that_of_the_library_and_is_recorded(run, folder):
    code, text, error = run("text", "w5 w6 w7", "w9", "-m", folder, "-g", "cfg=1.7", "--negative", "w4 w9", "--tokens", 6,
                            "--out", "made.json", "--json")
    assert code == 0, error
    made = json.loads(text)
    assert json.loads(Path("made.json").read_text()) == made
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["w5 w6 w7", "w9"], return_tensors="pt", padding=True, padding_side="left")
    with emag.tokens.guide(model, emag.CFG(1.7), null="w4 w9", tokenizer=tokenizer):
        ids = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=6)
    assert made["texts"] == tokenizer.batch_decode(ids[:, 3:], skip_special_tokens=True)
    record = made["record"]
    assert record["rules"] == [{"cfg": {"scale": 1.7}}] and record["null"] == "w4 w9" and record["unrecorded"] == []
    assert record["network"] and record["prompts"] == ["w5 w6 w7", "w9"] and record["versions"]["transformers"]
    assert made["run"]["passes"] == {"uncond": 6}


def test_a_suffix_is_read_recorded_and_read_again(run, folder):
    code, text, error = run("text", "w5 w6 w7", "-m", folder, "-g", "mti=1.7,threshold=-1", "--suffix", "w4 w9", "--tokens",
                            6, "--out", "made.json", "--json")
    assert code == 0, error
    made, model = json.loads(text), AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[5, 6, 7]])
    with emag.tokens.guide(model, emag.CFG(1.7), null=emag.tokens.suffix(torch.tensor([4, 9]))):
        ours = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6)
    assert made["texts"] == [" ".join(f"w{token}" for token in ours[0, 3:].tolist())]
    assert made["record"]["suffix"] == "w4 w9" and made["run"]["fed"] == {"uncond": 12}
    assert made["record"]["unrecorded"] == [] and run("again", "made.json")[0] == 0
    code, _, error = run("text", "w5", "-m", folder, "-g", "cfg=2", "--suffix", "w4", "--negative", "w9")
    assert code == 2 and "give one" in error


def test_plain_and_guided_texts_differ_and_sampling_has_a_seed(run, folder):
    plain = run("text", "w5 w6 w7", "-m", folder, "--tokens", 12)
    guided = run("text", "w5 w6 w7", "-m", folder, "--tokens", 12, "-g", "cfg=3")
    assert plain[0] == guided[0] == 0 and plain[1] != guided[1] and not plain[2] and "12 under 'uncond'" in guided[2]
    sampled = [run("text", "w5 w6", "-m", folder, "--temperature", 1, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


@pytest.mark.parametrize(("more", "says"), [
    (["-g", "cfg"], "default scale"), (["-g", "apg=4"], "no method"), (["--negative", "w4"], "combining"),
    (["-g", "cfg=2", "--negative", "a", "--negative", "b", "--negative", "c"], "negative prompts"),
    (["-g", "cfg=2", "--set", "guidance_scale=3"], "second time"), (["--out", "."], "folder")])
def test_refusals_are_one_line(run, folder, more, says):
    code, text, error = run("text", "w5 w6", "-m", folder, *more)
    assert code == 2 and not text and says in error and len(error.splitlines()) == 1


def test_weights_in_a_pickle_and_folders_without_a_model_are_refused(run, folder, tmp_path):
    code, _, error = run("text", "w5", "-m", tmp_path)
    assert code == 2 and len(error.splitlines()) == 1
    model = model_of("llama")
    (tmp_path / "pickled").mkdir()
    for file in folder.iterdir():
        if file.suffix == ".json":
            (tmp_path / "pickled" / file.name).write_bytes(file.read_bytes())
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    code, _, error = run("text", "w5", "-m", tmp_path / "pickled")
    assert code == 2 and len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["./nomodel", "no model", "a/b/c", "../up", "gpt2"])
def test_a_model_that_is_nowhere_is_one_line(run, name):
    code, text, error = run("text", "w5", "-m", name, "-g", "cfg=1.5")
    assert code == 2 and not text and f"there is no folder {name} here" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("prompts", [("",), ("", "+3")])
def test_a_prompt_without_tokens_is_one_line(run, prompts):
    """Of a tokenizer that begins no text with a token of its own."""
    code, text, error = run("text", *prompts, "-m", "digits", "-g", "cfg=1.5")
    assert code == 2 and "prompt '' has no tokens" in error and len(error.splitlines()) == 1 and not text


def test_texts_are_made_again_from_their_record(run, folder):
    code, *_ = run("text", "w5 w6 w7", "w9", "-m", folder, "-g", "mti=1.7,threshold=1", "--negative", "w4 w9", "--tokens", 6,
                   "--temperature", 1, "--set", "top_k=7", "--out", "made.json")
    assert code == 0
    code, text, error = run("again", "made.json", "--json")
    assert code == 0 and json.loads(text) == {"texts": "out/again/made.json", "identical": True, "differing": []}
    assert "names the model" in error and json.loads(Path("out/again/made.json").read_text())["record"]["seed"] == 8
    code, text, _ = run("show", "made.json")
    assert code == 0 and "w5 w6 w7" in text and "mti" in text
    made = json.loads(Path("made.json").read_text())
    made["record"]["seed"] = 9
    Path("other.json").write_text(json.dumps(made))
    code, text, _ = run("again", "other.json")
    assert code == 1 and "NOT the texts" in text
    made["record"]["network"] = "0" * 16
    Path("other.json").write_text(json.dumps(made))
    code, _, error = run("again", "other.json")
    assert code == 2 and "weights or settings have changed" in error and len(error.splitlines()) == 2


GOOD = {"texts": ["a"], "record": {"model": {"model": "digits"}, "prompts": ["+3"], "rules": [], "seed": 1,
                                   "call": {"max_new_tokens": 5}}}
STRANGE = {"code": ({"call": {"max_new_tokens": 5, "custom_generate": "a/b"}}, "no setting"),
           "size": ({"call": {"max_new_tokens": 10**9}}, "at most"), "prompts": ({"prompts": [3]}, "another form"),
           "lost": ({"unrecorded": ["scorer"]}, "scorer could not"), "rules": ({"rules": [{"apg": {}}]}, "no method"),
           "model": ({"model": None}, "no record"), "seed": ({"seed": "x"}, "another form")}


@pytest.mark.parametrize(("changed", "says"), STRANGE.values(), ids=STRANGE)
def test_records_of_strangers_are_refused_before_anything_is_loaded(run, changed, says, monkeypatch):
    monkeypatch.setattr("emag.tokens.load.load_text_model", lambda *_, **__: pytest.fail("loaded"))
    Path("evil.json").write_text(json.dumps({**GOOD, "record": {**GOOD["record"], **changed}}))
    code, text, error = run("again", "evil.json")
    assert code == 2 and says in error and not text and len(error.splitlines()) == 1


CARELESS = {
    "unknown setting": (["--set", "foo=1"], "no setting"), "their loop": (["--set", "custom_generate=a/b"], "no setting"),
    "twice": (["--set", "max_new_tokens=3"], "--tokens"), "bad value": (["--set", "top_k=-1", "--temperature", 1], "top_k"),
    "no template": (["--chat"], "no chat template"), "too many": (["--tokens", 62], "--tokens 61"),
    "long null": (["-g", "cfg=2", "--negative", "w4 " * 70], "places for 64"),
}


@pytest.mark.parametrize(("more", "says"), CARELESS.values(), ids=CARELESS)
def test_careless_calls_are_one_line(run, folder, more, says):
    code, text, error = run("text", "w5 w6 w7", "-m", folder, *more)
    assert code == 2 and not text and says in error and len(error.splitlines()) == 1


def test_a_prompt_of_one_token_is_its_own_null(run, folder):
    code, _, error = run("text", "w5", "-m", folder, "-g", "cfg=2")
    assert code == 2 and "--negative" in error and len(error.splitlines()) == 1


def test_a_text_is_as_long_as_there_are_places(run, folder):
    code, text, _ = run("text", "w5 w6 " * 30, "-m", folder, "--json")
    assert code == 0 and json.loads(text)["record"]["call"]["max_new_tokens"] == 4


@pytest.fixture(scope="module")
def talking(folder, tmp_path_factory):
    """The same model, whose tokenizer has a chat template and no token to pad with."""
    path = tmp_path_factory.mktemp("talking") / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ bos_token }} w8 {{ messages[0]['content'] }} w10"
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(path)
    model_of("llama").save_pretrained(path)
    return path


def test_prompts_and_negatives_are_what_a_user_says(run, talking):
    code, text, error = run("text", "w5", "-m", talking, "-g", "cfg=2", "--negative", "w4", "--chat", "--tokens", 5,
                            "--out", "said.json", "--json")
    assert code == 0, error
    made, model = json.loads(text), AutoModelForCausalLM.from_pretrained(talking)
    with emag.tokens.guide(model, emag.CFG(2.0), null=torch.tensor([BOS, 8, 4, 10])):
        ids = model.generate(torch.tensor([[BOS, 8, 5, 10]]), max_new_tokens=5, do_sample=False)
    words = AutoTokenizer.from_pretrained(talking)
    assert made["texts"] == words.batch_decode(ids[:, 4:], skip_special_tokens=True)
    assert made["record"]["chat"] and made["record"]["null"] == "w4" and made["record"]["unrecorded"] == []
    assert run("again", "said.json")[0] == 0
    code, _, error = run("text", "w5", "w6 w7", "-m", talking)
    assert code == 2 and "neither a token to pad" in error and len(error.splitlines()) == 1
