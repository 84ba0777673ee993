"""`emag text`: texts of a language model under a guidance."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import BadValue
from ...files import check_file, whole
from . import common as shared
from .common import command, err, out

TextModel = Annotated[str, typer.Option("--model", "-m", help="digits, a local folder or a hub id of a language model.")]
TextRules = Annotated[list[str], typer.Option("--guidance", "-g", autocompletion=shared.token_method_names,
                                              help="A rule, in order: cfg=1.5, mti=1.5,threshold=1 or "
                                              "negative=1.3,negative=\"prompt:a text\". Repeat for more.")]


@command('emag text "+3" -m digits -g cfg=1.5 --negative none --tokens 16',
         'emag text "Once upon a time" -m ./model -g cfg=1.5 --negative "A dull story."',
         'emag text "Dear" "Hello" -m ./model -g mti=2,threshold=1.5 --tokens 40 --json',
         kept="nothing is kept: the same command makes the text again")
def text(
    prompts: Annotated[list[str], typer.Argument(help="Prompts.")],
    model: TextModel,
    guidance: TextRules = [],  # noqa: B006
    negative: shared.Negative = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to make at most.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of sampling; 0 takes the likeliest token.")] = 0.0,
    beams: Annotated[int, typer.Option(min=1, help="Beams to search with; 1 is none.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling.")] = 8,
    out_path: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for texts, record and run.")] = None,
    device: shared.Device = None, dtype: shared.Dtype = None,
    more: shared.Set = [], as_json: shared.Json = False,  # noqa: B006
) -> None:
    """Write texts with a language model under guidance.

    Without --negative, guidance goes away from what the model says after the last token of the prompt alone. The record
    holds the model, a hash of its weights, the rules, the settings and the versions.
    """
    from ...methods.tokens import TOKEN_METHODS
    from ...records.recipe import parse
    from ...tokens.checks import check_token_rules
    from ...tokens.host import asked

    rules = [parse(one, TOKEN_METHODS) for one in guidance]
    null = _null(negative or [], len(prompts))
    call: dict[str, Any] = {"max_new_tokens": tokens, "num_beams": beams, "do_sample": temperature > 0,
                            **({"temperature": temperature} if temperature else {}), **shared.settings_of(more)}
    if out_path is not None:
        check_file(out_path)
    check_token_rules(asked(rules, null), timed=True)  # before a model is loaded
    made = _made(prompts, model, rules, null, call, seed, device, dtype)
    if out_path is not None:
        _write(out_path, made)
    if as_json:
        shared.show_json(made)
        return
    for one in made["texts"]:
        out.print(one)
    if made["run"]:
        err.print(made["told"])


def _null(negative: list[str], count: int) -> Any:
    if len(negative) not in (0, 1, count):
        raise BadValue(f"{len(negative)} negative prompts for {count} prompts: give one, or one each")
    return None if not negative else negative[0] if len(negative) == 1 else negative


def _made(prompts: list[str], name: str, rules: list[Any], null: Any, call: dict[str, Any], seed: int, device: str | None,
          dtype: Any) -> dict[str, Any]:
    import torch

    from ... import tokens
    from ...tokens.record import text_record

    model, tokenizer = _open(name, device, dtype)
    side = "right" if model.config.is_encoder_decoder else "left"
    inputs = tokenizer(prompts, return_tensors="pt", padding=len(prompts) > 1, padding_side=side).to(model.device)
    empty = next((at for at, kept in enumerate(inputs["attention_mask"].sum(1).tolist()) if not kept), None)
    if empty is not None:  # a tokenizer that begins a text with a token of its own makes one of nothing, too
        raise BadValue(f"prompt {prompts[empty]!r} has no tokens in this model's words: give some text to go on from")
    torch.manual_seed(seed)
    with tokens.guide(model, *rules, null=null, tokenizer=tokenizer) as run:
        ids = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                             pad_token_id=tokenizer.pad_token_id, **call)
    start = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    texts = tokenizer.batch_decode(ids[:, start:], skip_special_tokens=True)
    return {"texts": texts, "record": {**text_record(run, model, prompts, call), "seed": seed},
            "run": run.latest.as_dict() if run.latest else None, "told": str(run)}


def _open(name: str, device: str | None, dtype: Any) -> tuple[Any, Any]:
    from ...hosts.hub import cached_only
    from ...hosts.load import pick_device, pick_dtype
    from ...tokens.load import EMBEDDED, load_text_model

    cached = name not in EMBEDDED and not Path(name).is_dir() and cached_only(name, "config.json")
    return load_text_model(name, pick_device(device), pick_dtype(dtype), cached=cached)


def _write(path: Path, made: dict[str, Any]) -> None:
    with whole(path) as draft:
        draft.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
