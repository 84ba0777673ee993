"""Prompt files: every prompt with its text, or an error that names the line; the same in `generate` and in `run`."""

import json

import pytest

from damage import answer, harmed
from emag.errors import BadValue
from emag.lab.cli.generate import lines
from emag.lab.evaluate.prompts import Prompt, read_prompts

TEXTS = ["a green cat", '"an old poster that says hello', "two dogs, on a hill", 'a sign with "STOP" on it', '"quoted"',
         "a break\u2028in a line", "a form\x0cfeed and \x85 too", "ein Märchen 🐸", "it's", "'", "#hash", "-dash", "\\n"]


def written(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def texts(path):
    found = [one.text for one in read_prompts(path)]
    assert lines([], path, "prompt") == found  # emag generate reads alike
    return found


def csv_cell(text):
    return '"' + text.replace('"', '""') + '"'


FORMS = {
    "a.txt": lambda all_of: "\n".join(all_of),
    "b.txt": lambda all_of: "\r\n".join(all_of) + "\r\n\r\n",
    "c.txt": lambda all_of: "\r".join(all_of),
    "none": lambda all_of: "\n\n".join(all_of),
    "a.tsv": lambda all_of: "prompt\ttag\n" + "".join(f"{one}\t{at}\n" for at, one in enumerate(all_of)),
    "a.csv": lambda all_of: "tag,Caption\n" + "".join(f"{at},{csv_cell(one)}\n" for at, one in enumerate(all_of)),
    "b.CSV": lambda all_of: "text\r\n" + "".join(f"{csv_cell(one)}\r\n" for one in all_of),
    "a.json": json.dumps,
    "b.json": lambda all_of: json.dumps([{"prompt": one, "tag": {"any": 1}} for one in all_of], ensure_ascii=False),
    "a.jsonl": lambda all_of: "\n".join(json.dumps({"prompt": one}, ensure_ascii=False) for one in all_of),
}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", FORMS)
def test_every_text_comes_back_as_it_is(tmp_path, name, mark):
    assert texts(written(tmp_path, name, mark + FORMS[name](TEXTS).encode())) == TEXTS


def test_categories_stay_with_their_prompts(tmp_path):
    path = written(tmp_path, "a.tsv", FORMS["a.tsv"](TEXTS))
    assert read_prompts(path) == tuple(Prompt(text, str(at)) for at, text in enumerate(TEXTS))


@pytest.mark.parametrize(("name", "text", "says"), [
    ("a.csv", 'prompt,tag\na frog,x\na cat, black,y\n', "line 3 has 3 cell.*in quotes"),
    ("a.csv", 'prompt,tag\na frog,x\na cat\n', "line 3 has 1 cell"),
    ("a.csv", 'prompt\na frog\n"a poster\na cat\n', "line 3: .*quote not closed"),
    ("a.csv", 'prompt\na frog\n"a poster\na sign "STOP" on it\n', "line 3: .*quote not closed"),
    ("a.csv", 'prompt\n"a poster\na sign"\n', "line 2: a quoted cell goes on over lines"),
    ("a.csv", 'prompt\n\n\n"a "red" cat"\n', "line 4: "),
    ("a.csv", "prompt,prompt\na,b\n", "'prompt' twice"),
    ("a.csv", "prompt,tag\n,x\n", "line 2 .*empty"),
    ("a.csv", "prompt\na frog\n  \n", "line 3 .*empty"),
    ("a.csv", "", "holds no prompt"),
    ("a.csv", "a frog\na cat\n", "no column 'prompt'; it has a frog"),
    ("a.tsv", "prompt\ttag\na frog\n", "line 2 has 1 cell"),
    ("a.tsv", "prompt\ttag\n\t\n", "line 2 .*empty"),
    ("a.tsv", "prompt\ta\nfrog\tx\ty\n", "line 2 has 3 cell"),
    ("a.txt", "\n \n", "holds no prompt"),
    ("a.txt", b"a frog\n\na \xff cat\n", "line 3 is not UTF-8 .byte 0xff"),
    ("a.txt", b"\xef\xbb\xbfa frog\r\na \xe9 cat\n", "line 2 is not UTF-8"),
    ("a.txt", "a frog\n".encode("utf-16"), "UTF-16"),
    ("a.txt", b"a frog\na\0cat", "line 2 has a zero byte"),
    ("a.json", '{"prompt": "a frog"}', "must be a list"),
    ("a.json", '["a frog", 3]', "prompt 2 must be a text"),
    ("a.json", '["a frog", ""]', "prompt 2 .*empty"),
    ("a.json", '["a frog"', "line 1"),
    ("a.json", '["a \\ud800 frog"]', "half of a sign"),
    ("a.json", '[{"prompt": "a", "prompt": "b"}]', "twice"),
    ("a.json", "[" * 100_000, "deeper than"),
    ("a.jsonl", '{"prompt": "a frog"}\n\n{"prompt": 3}\n', "line 3 .*no text"),
    ("a.jsonl", '{"prompt": "a frog"}\n{"text": "a cat"}\n', "line 2 .*None"),
    ("a.jsonl", '{"prompt": "a frog"}\n"a cat"\n', "line 2 must be a JSON object"),
    ("a.jsonl", '{"prompt": "a frog"}\n{"prompt": "a\n', "line 2 is no JSON"),
    ("a.jsonl", '{"prompt": "a frog"}\n' + '{"a":' * 5000, "line 2 is no JSON"),
    ("a.parquet", b"PAR1 no", "no parquet file"),
    ("a.xlsx", b"PK", r"ends in \.xlsx; prompts are read from \.txt"),
])
def test_what_would_lose_or_change_a_prompt_is_refused_by_its_line(tmp_path, name, text, says):
    path = written(tmp_path, name, text)
    for read in (read_prompts, lambda name: lines([], name, "prompt")):
        with pytest.raises(BadValue, match=says) as error:
            read(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


def damaged(tmp_path, seeds):
    for name, form in FORMS.items():
        data = form(TEXTS).encode()
        for seed in seeds:
            found = answer(read_prompts, written(tmp_path, name, harmed(data, f"{name} {seed}")))
            assert found == "1 line" or all(one.text.strip() for one in found)


def test_damaged_files_are_read_or_refused(tmp_path):
    damaged(tmp_path, range(25))


@pytest.mark.long
def test_many_damaged_files_are_read_or_refused(tmp_path):
    damaged(tmp_path, range(25, 5000))
