"""Words with their place and their phrase: what a prompt of several objects is encoded with."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from ..worlds.shapes import prompts as grammar


class PhraseEncoder(ModelMixin, ConfigMixin):
    """Learned states of words. Each is the sum of its word and its place; within a noun phrase also of the phrase's words
    and of the words outside all phrases ("left of", "on black"), by tables of their own. dim: of a state.

    The pooled vector is the sum over the words of a further table.
    """

    @register_to_config
    def __init__(self, dim: int = 64):
        super().__init__()
        self.tables = torch.nn.ModuleDict({name: torch.nn.Embedding(len(grammar.VOCABULARY), dim) for name in
                                           ("word", "phrase", "first", "second", "pooled")})
        self.place = torch.nn.Embedding(grammar.LENGTH, dim)
        for table in (*self.tables.values(), self.place):
            torch.nn.init.normal_(table.weight, std=0.7)
        for name, some in (("is_member", grammar.MEMBERS), ("is_noun", grammar.SHAPES)):
            self.register_buffer(name, torch.tensor([word in some for word in grammar.VOCABULARY]), persistent=False)

    @property
    def facts(self) -> tuple[Any, ...]:
        """Vocabulary and channels: what two encoders must share to be exchanged."""
        return grammar.VOCABULARY, self.config.dim

    def check(self, prompt: str) -> None:
        """Raise `BadValue` for a prompt that is neither empty nor of the world."""
        if prompt.strip():
            grammar.read(prompt)

    def prompt_ids(self, prompts: Sequence[str]) -> torch.Tensor:
        """Word ids [batch, words] of prompts, each as the world says it; the empty prompt is all padding."""
        said = [grammar.say(grammar.read(prompt)) if prompt.strip() else "" for prompt in prompts]
        return torch.tensor([grammar.ids(prompt) for prompt in said], dtype=torch.long)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states [batch, words, dim] and the pooled vector [batch, dim] of word ids [batch, words]."""
        noun, member, said = self.is_noun[ids], self.is_member[ids], ids > 0
        number = noun.cumsum(1) - noun.long()  # of the phrase that a word is in, or that begins after it
        inside = [(member & (number == k)).unsqueeze(-1) for k in (0, 1)]
        others = (said & ~member).unsqueeze(-1)
        states = self.tables["word"](ids) + self.place.weight[: ids.shape[1]]
        for k, name in enumerate(("first", "second")):
            own = (self.tables["phrase"](ids) * inside[k]).sum(1, keepdim=True)
            around = (self.tables[name](ids) * others).sum(1, keepdim=True)
            states = states + inside[k] * (own + around)
        return states, (self.tables["pooled"](ids) * said.unsqueeze(-1)).sum(1)
