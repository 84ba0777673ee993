"""Texts that transformers generates, by a decoder alone (Llama; Emu3's, of images) or beside an encoder (T5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .... import tokens
from ....core import Rule
from ..digits import DIGITS, LENGTH, NONE, SMALL, STEPS, WORDS
from ..digits import untrained as llama
from .host import Kind, Sampled
from .languages import COLOURS, COUNTING, NAMELESS, SIDE, STRIPES, WAYS


@dataclass(frozen=True)
class Wording:
    """How the numbers of a language are words of a model: those of prompts from `prompt` on, of tokens from `token` on.

    prompts: how many there are; the one of that number is the word NONE, away from which guidance goes. length: of a text.
    """

    prompts: int
    prompt: int
    token: int
    length: int

    def ids(self, prompts: torch.Tensor) -> torch.Tensor:
        """Prompts as words, [count, 1]."""
        return torch.where(prompts == self.prompts, NONE, prompts + self.prompt)[:, None]

    def loss(self, model: Any, prompts: torch.Tensor, made: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Of the next token, as transformers has it."""
        whole = torch.cat([self.ids(prompts), made + self.token], dim=1)
        return model(input_ids=whole, labels=whole).loss

    def loss_beside(self, model: Any, prompts: torch.Tensor, made: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """The same where the prompt is the encoder's."""
        return model(input_ids=self.ids(prompts), labels=made + self.token).loss

    def write(self, model: Any, rules: Sequence[Rule], prompts: torch.Tensor, seed: int) -> Sampled:
        """Texts by `generate`, that end at none."""
        ids = self.ids(prompts)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with tokens.guide(model, *rules, null=torch.tensor([NONE]) if rules else None) as run:
                made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=self.length,
                                      top_k=0, eos_token_id=None)
        return Sampled.of(made[:, -self.length:] - self.token, run, rules, self.length)


TEXTS = Wording(NAMELESS, STEPS[0], DIGITS[0], LENGTH)
"""Counting texts of 16 digits."""


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(T5Config(
        vocab_size=len(WORDS), d_model=48, d_kv=24, d_ff=96, num_layers=2, num_heads=2,
        dropout_rate=0.0, pad_token_id=0, decoder_start_token_id=0, eos_token_id=2))


FIRST_COLOUR, FIRST_WAY = 3, 3 + COLOURS
"""Words of Emu3: padding, "none", an end, the colours, the ways of stripes."""
IMAGES = Wording(len(WAYS), FIRST_WAY, FIRST_COLOUR, SIDE * SIDE)
"""Images of 8 x 8 tokens, row by row."""


def emu3() -> Any:
    from transformers import Emu3ForCausalLM, Emu3TextConfig

    return Emu3ForCausalLM(Emu3TextConfig(
        vocab_size=FIRST_WAY + len(WAYS), max_position_embeddings=96, attention_dropout=0.0, **SMALL))


def opened(name: str) -> Any:
    """What loads a class of transformers from a folder."""
    def load(folder: Any) -> Any:
        import transformers
        return getattr(transformers, name).from_pretrained(folder, use_safetensors=True).eval()

    return load


KINDS = (
    Kind("causal", "Llama: counting texts", COUNTING, llama, TEXTS.loss, TEXTS.write, opened("LlamaForCausalLM")),
    Kind("encoder-decoder", "T5: counting texts", COUNTING, t5, TEXTS.loss_beside, TEXTS.write,
         opened("T5ForConditionalGeneration"), 600),
    Kind("image", "Emu3's language model: striped images", STRIPES, emu3, IMAGES.loss, IMAGES.write,
         opened("Emu3ForCausalLM"), 1000),
)
