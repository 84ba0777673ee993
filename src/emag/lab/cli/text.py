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

TextSettings = Annotated[list[str], typer.Option("--set", help="Further setting of generate, key=value, such as top_k=5; "
                                                 "the value is read as JSON.")]


TextSuffix = Annotated[str | None, typer.Option("--suffix", help="Go away from what the model says after the text so far "
                                                "and this, as published for mti: \"OUTPUT ERROR\".")]


@command('emag text "+3" -m digits -g cfg=1.5 --negative none --tokens 16',
         'emag text "Once upon a time" -m ./model -g cfg=1.5 --negative "A dull story."',
         'emag text "Dear" "Hello" -m ./model -g mti=2,threshold=1.5 --tokens 40 --json',
         kept="nothing is kept: the same command makes the text again")
def text(
    prompts: Annotated[list[str], typer.Argument(help="Prompts.")],
    model: TextModel,
    guidance: TextRules = [],  # noqa: B006
    negative: shared.Negative = None, suffix: TextSuffix = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens to make at most; default: 64, or as many as the model "
                                               "has places for.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of sampling; 0 takes the likeliest token.")] = 0.0,
    beams: Annotated[int, typer.Option(min=1, help="Beams to search with; 1 is none.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sampling.")] = 8,
    chat: Annotated[bool, typer.Option("--chat", help="Prompts, and negative ones, are what a user says: by the model's own "
                                       "chat template.")] = False,
    out_path: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for texts, record and run.")] = None,
    device: shared.Device = None, dtype: shared.Dtype = None,
    more: TextSettings = [], as_json: shared.Json = False,  # noqa: B006
) -> None:
    """Write texts with a language model under guidance.

    Without --negative and --suffix, guidance goes away from what the model says after the last token of the prompt alone.
    The record
    holds the model, a hash of its weights, the rules, the settings and the versions; `emag again` makes the texts of --out
    again from it.
    """
    from ...methods.tokens import TOKEN_METHODS
    from ...records.recipe import parse
    from ..texts import OWN, TextJob, make_texts

    settings = shared.settings_of(more)
    twice = next((name for name in settings if name in OWN), None)
    if twice:
        raise BadValue(f"--set {twice} is {OWN[twice]} here")
    call: dict[str, Any] = {"num_beams": beams, "do_sample": temperature > 0,
                            **({"temperature": temperature} if temperature else {}), **settings}
    rules = tuple(parse(one, TOKEN_METHODS) for one in guidance)
    job = TextJob(model, tuple(prompts), rules, _null(negative or [], len(prompts)), call, tokens, seed, chat, suffix)
    if out_path is not None:
        check_file(out_path)
    job.check()
    made = make_texts(job, device, dtype)
    if out_path is not None:
        write_texts(out_path, made)
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


def write_texts(path: Path, made: dict[str, Any]) -> None:
    """`made` as a JSON file, whole or not at all."""
    with whole(path) as draft:
        draft.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
