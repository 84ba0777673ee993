"""Words with their place and their phrase: what a prompt of several objects is encoded with."""

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config


class PhraseEncoder(ModelMixin, ConfigMixin):
    """Learned states of words. Each is the sum of its word, its place, the words of its own noun phrase and the words
    outside all phrases ("left of", "on black").

    vocab: all words, padding first. members: those that make up noun phrases; nouns: those that end one. The pooled
    vector is the sum over the words of a further table.
    """

    @register_to_config
    def __init__(self, vocab: Sequence[str], members: Sequence[str], nouns: Sequence[str], max_length: int = 12,
                 dim: int = 64):
        super().__init__()
        self.tables = torch.nn.ModuleDict({name: torch.nn.Embedding(len(vocab), dim) for name in
                                           ("word", "phrase", "first", "second", "pooled")})
        self.place = torch.nn.Embedding(max_length, dim)
        for table in (*self.tables.values(), self.place):
            torch.nn.init.normal_(table.weight, std=0.7)
        for name, some in (("is_member", [*members, *nouns]), ("is_noun", nouns)):
            self.register_buffer(name, torch.tensor([word in some for word in vocab]), persistent=False)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states [batch, max_length, dim] and the pooled vector [batch, dim] of word ids [batch, max_length]."""
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
