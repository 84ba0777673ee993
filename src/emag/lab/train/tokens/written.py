"""Texts that transformers generates, by a decoder alone (Llama; Emu3's, of images) or beside an encoder (T5)."""

from collections.abc import Sequence
from typing import Any

import torch

from .... import tokens
from ....core import Rule
from ..digits import DIGITS, NONE, STEPS, WORDS
from ..digits import untrained as llama
from .host import Kind, Sampled
from .languages import COLOURS, COUNTING, NAMELESS, SIDE, STRIPES, WAYS

SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def words(prompts: torch.Tensor) -> torch.Tensor:
    """Numbers of prompts as words of counting texts, [count, 1]."""
    return torch.where(prompts == NAMELESS, NONE, prompts + STEPS[0])[:, None]


def next_loss(model: Any, prompts: torch.Tensor, digits: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Of the next token, as transformers has it."""
    whole = torch.cat([words(prompts), digits + DIGITS[0]], dim=1)
    return model(input_ids=whole, labels=whole).loss


def write(model: Any, rules: Sequence[Rule], prompts: torch.Tensor, seed: int) -> Sampled:
    """Counting texts of 16 digits, away from the prompt "none"."""
    made = generated(model, rules, words(prompts), torch.tensor([NONE]), 16, seed)
    return Sampled(made.tokens - DIGITS[0], made.passes, made.planned)


def generated(model: Any, rules: Sequence[Rule], ids: torch.Tensor, null: torch.Tensor, count: int, seed: int) -> Sampled:
    """`count` tokens each, by `generate`, that end at none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with tokens.guide(model, *rules, null=null if rules else None) as run:
            made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=count, top_k=0,
                                  eos_token_id=None)
    return Sampled(made[:, -count:], run.stats.passes.get("uncond", 0) if rules else 0, run.plan(count).get("uncond", 0))


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(
        vocab_size=len(WORDS), d_model=48, d_kv=24, d_ff=96, num_layers=2, num_heads=2,
        dropout_rate=0.0, pad_token_id=0, decoder_start_token_id=0, eos_token_id=2))


def read_loss(model: Any, prompts: torch.Tensor, digits: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Of the next digit, where the prompt is the encoder's."""
    return model(input_ids=words(prompts), labels=digits + DIGITS[0]).loss


FIRST_COLOUR, FIRST_WAY = 3, 3 + COLOURS
"""Words of Emu3: padding, "none", an end, the colours, the ways of stripes."""


def emu3() -> Any:
    from transformers import Emu3ForCausalLM, Emu3TextConfig

    return Emu3ForCausalLM(Emu3TextConfig(
        vocab_size=FIRST_WAY + len(WAYS), max_position_embeddings=96, attention_dropout=0.0, **SMALL))


def ways(prompts: torch.Tensor) -> torch.Tensor:
    """Numbers of prompts as words of Emu3, [count, 1]."""
    return torch.where(prompts == len(WAYS), NONE, prompts + FIRST_WAY)[:, None]


def image_loss(model: Any, prompts: torch.Tensor, image: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Of the next token of an image, row by row."""
    whole = torch.cat([ways(prompts), image + FIRST_COLOUR], dim=1)
    return model(input_ids=whole, labels=whole).loss


def draw(model: Any, rules: Sequence[Rule], prompts: torch.Tensor, seed: int) -> Sampled:
    """Images of 8 x 8 tokens."""
    made = generated(model, rules, ways(prompts), torch.tensor([NONE]), SIDE * SIDE, seed)
    return Sampled(made.tokens - FIRST_COLOUR, made.passes, made.planned)


def opened(name: str) -> Any:
    """What loads a class of transformers from a folder."""
    def load(folder: Any) -> Any:
        import transformers
        return getattr(transformers, name).from_pretrained(folder, use_safetensors=True).eval()

    return load


KINDS = (
    Kind("causal", "Llama: counting texts", COUNTING, llama, next_loss, write, opened("LlamaForCausalLM")),
    Kind("encoder-decoder", "T5: counting texts", COUNTING, t5, read_loss, write, opened("T5ForConditionalGeneration"),
         600),
    Kind("image", "Emu3's language model: striped images", STRIPES, emu3, image_loss, draw, opened("Emu3ForCausalLM"), 1000),
)
