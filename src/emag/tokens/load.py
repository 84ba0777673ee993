"""A language model and its tokenizer from a folder or the hub, without running code from there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import BadValue
from ..models import WEIGHTS

EMBEDDED = {"digits": "Llama, 49 000 parameters: counts by the step that a prompt names, \"+3\"; embedded",
            "digits-t5": "T5, 94 000 parameters: the same beside an encoder, which reads the prompt; embedded"}
"""Embedded language models and what they are."""


def load_text_model(name: str, device: torch.device, dtype: torch.dtype | None = None, revision: str | None = None,
         cached: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) of a decoder-only or encoder-decoder model. cached: what was fetched before alone.

    name: "digits" (embedded), a folder or a hub id.

    Raises `BadValue` with the reason where there is none, or where it brings code of its own or weights in a pickle.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    place = str(WEIGHTS / name) if name in EMBEDDED else name
    given = {"revision": revision, "local_files_only": cached, "trust_remote_code": False}
    with _loading(name):
        config = AutoConfig.from_pretrained(place, **given)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(place, **given)
        model = kind.from_pretrained(place, dtype=dtype or "auto", use_safetensors=True, **given)
    model.name_or_path = name
    if tokenizer.pad_token_id is None:  # what it fills up with is masked, so that any token will do
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Without the library's bars; every error as one line: a file may be damaged in any way."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # each library below has its own
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise BadValue(f"{name} cannot be loaded as a language model: {first}") from error
    finally:
        if shown:
            logging.enable_progress_bar()
