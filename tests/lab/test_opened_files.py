"""Commands on a single file: generate, and the image again from its record."""

import json

import emag
from emag.records.png import read_record


def test_generate_from_a_file_and_again(run, tmp_path):
    emag.load("tiny", device="cpu").save_pretrained(tmp_path / "pipe")
    file = tmp_path / "pipe" / "transformer" / "diffusion_pytorch_model.safetensors"
    code, _, said = run("generate", "a frog", "-m", file, "--base", tmp_path / "pipe", "-g", "emag=1.5", "-n", "4", "-o",
                        tmp_path / "a.png")
    assert code == 0, said
    assert read_record(tmp_path / "a.png")["model"]["base"] == str(tmp_path / "pipe")
    code, text, said = run("again", tmp_path / "a.png", "-o", tmp_path / "b.png")
    assert code == 0 and "byte-identical" in text, said
    assert json.loads(run("show", tmp_path / "a.png", "--json")[1])["model"]["model"] == str(file)
    moved = (tmp_path / "pipe").rename(tmp_path / "moved")
    code, text, said = run("again", tmp_path / "a.png", "-o", tmp_path / "d.png", "--base", moved, "-m",
                           moved / file.relative_to(tmp_path / "pipe"))
    assert code == 0 and "every pixel as in" in " ".join(text.split()) and "(model differ)" in text, said
    code, _, said = run("generate", "a frog", "-m", tmp_path / "x.ckpt", "-o", tmp_path / "c")
    assert code == 2 and "can run code" in said and not (tmp_path / "c").exists()
