"""A language whose every text has a rule, its words, its rule as a mask, and what both do to a small language model.

A prompt names a step, "+3", and the text counts by it, modulo 10: "+3 7 0 3 6 9". One digit in three of the training texts
is any digit instead, so that 70 % of them keep the rule, and right and wrong can be counted. One prompt in five is "none",
which names no step: what guidance goes away from. `emag.lab.train.tokens` trains models of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

PAD, NONE, END, STEPS, DIGITS = 0, 1, 2, tuple(range(3, 12)), tuple(range(12, 22))
WORDS = ("<pad>", "none", "</s>", *(f"+{step}" for step in range(1, 10)), *map(str, range(10)))
LENGTH, WRONG, DROPPED = 16, 1 / 3, 0.2
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
"""The strengths of tables."""
SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 2, "pad_token_id": PAD, "bos_token_id": NONE, "eos_token_id": END}
"""Sizes of a small decoder, and its words."""


def texts(count: int, random: torch.Generator, steps: int = 9) -> torch.Tensor:
    """Training texts as tokens, [count, 1 + LENGTH]: a prompt, one of the first `steps`, and digits by it, or any digit."""
    step = torch.randint(1, steps + 1, (count,), generator=random)
    digit = torch.randint(10, (count,), generator=random)
    made = [digit]
    for _ in range(LENGTH - 1):
        any_digit = torch.randint(10, (count,), generator=random)
        digit = torch.where(torch.rand(count, generator=random) < WRONG, any_digit, (digit + step) % 10)
        made.append(digit)
    prompt = torch.where(torch.rand(count, generator=random) < DROPPED, NONE, step + STEPS[0] - 1)
    return torch.stack([prompt, *(one + DIGITS[0] for one in made)], dim=1)


def untrained() -> Any:
    """A small Llama over `WORDS`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=64, **SMALL))


def tokenizer() -> Any:
    """Words of the language, between blanks."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="none"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="none", eos_token="</s>")


class CountingMask:
    """The rule itself as a mask: after a digit the one digit that the prompt's step leads to; at first any digit."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        if input_ids.shape[1] == 1:
            allowed[:, DIGITS[0]:] = True
        else:
            ahead = (input_ids[:, -1] - DIGITS[0] + input_ids[:, 0] - STEPS[0] + 1) % 10 + DIGITS[0]
            allowed.scatter_(1, ahead[:, None], True)
        return scores.masked_fill(~allowed, -torch.inf)


@dataclass(frozen=True)
class Kept:
    """What texts are like, with half the 95 % intervals over texts: the share of digits that keep the rule, and the entropy
    of the first digits in bits, log2(10) = 3.32 where all are as likely."""

    share: float
    half: float
    first: float
    first_half: float

    def __str__(self) -> str:
        return f"{self.share:.1%} ± {self.half:.1%} | {self.first:.2f} ± {self.first_half:.2f}"


def measured(model: Any, scale: float, count: int = 450, mask: bool = False, seed: int = 1) -> Kept:
    """Sample `count` texts of all steps alike under CFG with `scale` away from "none", and count."""
    from ... import tokens
    from ...methods.combining.cfg import CFG

    prompts = torch.tensor(STEPS).repeat(count // len(STEPS))[:, None]
    rules = () if scale == 1 else (CFG(scale),)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with tokens.guide(model, *rules, null=torch.tensor([NONE]) if rules else None):
            made = model.generate(prompts, do_sample=True, max_new_tokens=LENGTH, top_k=0, eos_token_id=None,
                                  logits_processor=[CountingMask()] if mask else [])
    return counted(made)


def counted(made: torch.Tensor) -> Kept:
    """`Kept` of texts as tokens, [texts, 1 + length], each with its prompt."""
    step, digit = made[:, :1] - STEPS[0] + 1, made[:, 1:] - DIGITS[0]
    right = ((digit[:, 1:] - digit[:, :-1]) % 10 == step % 10) & (digit[:, 1:] >= 0) & (digit[:, :-1] >= 0)
    each = right.double().mean(1)
    start = digit[:, 0].clamp(min=0)
    # the entropy is the mean of -log2 p(digit) over texts, and so has the interval of a mean (delta method)
    bits = -(torch.bincount(start, minlength=10).double() / len(made)).log2()[start]
    half = 1.96 / len(made)**0.5
    return Kept(float(each.mean()), float(half * each.std()), float(bits.mean()), float(half * bits.std()))


def table(model: Any, scales: Sequence[float] = SCALES) -> str:
    """Rule-keeping and diversity by strength, without and with the rule as a mask."""
    lines = ["| guidance | digits that keep the rule | first digits, bits | with the rule as a mask | first digits, bits |",
             "|---|---|---|---|---|"]
    for scale in scales:
        free, masked = (measured(model, scale, mask=mask) for mask in (False, True))
        lines.append(f"| {named(scale)} | {free} | {masked} |")
    return "\n".join(lines)


def named(scale: float) -> str:
    """A strength as a row of a table is called."""
    return "none" if scale == 1 else f"cfg={scale:g}"
