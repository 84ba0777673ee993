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
