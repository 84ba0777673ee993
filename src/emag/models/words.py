"""Prompts of the small models: one class per prompt, encoded as the training captions were."""

import re
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from ..errors import BadValue

PAD = "<pad>"
TEMPLATE = ("a", "photo", "of", "a")
SYNONYMS = {"airplane": ("plane", "aeroplane"), "automobile": ("car", "auto")}


def vocabulary(classes: Sequence[str]) -> list[str]:
    """Words of a model: padding, the words of the caption, then one word per class."""
    return [PAD, *dict.fromkeys(TEMPLATE), *classes]


def class_of(prompt: str, classes: Sequence[str]) -> str | None:
    """The class that `prompt` names, or None for the empty prompt.

    Case, punctuation, plurals and words that name no class do not matter. Raises `BadValue` where a prompt that is
    not empty names no class, or several.
    """
    if not prompt.strip():
        return None
    text = _plain(prompt)
    found = _drop_contained({name: _name_in(text, name, classes) for name in classes})
    if len(found) == 1:
        return found[0]
    known = ", ".join(classes)
    if not found:
        raise BadValue(f"prompt {prompt!r} names none of this model's classes: {known}")
    raise BadValue(f"prompt {prompt!r} names {' and '.join(found)}; this model draws one class at a time: {known}")


def _plain(text: str) -> str:
    return " " + " ".join(re.findall(r"[^\W_]+", text.lower())) + " "


def _name_in(text: str, name: str, classes: Sequence[str]) -> str:
    """The words of `text` that stand for class `name`: its own name first, then synonyms; "" where there are none."""
    own = [_plain(name)] + [_plain(word) for word in SYNONYMS.get(name, ()) if word not in classes]
    forms = [form for word in own for form in (word, word[:-1] + "s ", word[:-1] + "es ")]
    return next((form for form in forms if form in text), "")


def _drop_contained(found: dict[str, str]) -> list[str]:
    """Class names found, without those that are only part of a longer one ("truck" in "fire truck")."""
    hits = {name: form for name, form in found.items() if form}
    return [name for name, form in hits.items()
            if not any(form != other and form in other for other in hits.values())]


class WordEncoder(ModelMixin, ConfigMixin):
    """Learned word embeddings. vocab: all words, padding first; classes: the words that name a class; dim: of a row."""

    @register_to_config
    def __init__(self, vocab: Sequence[str], classes: Sequence[str], max_length: int = 8, dim: int = 64):
        super().__init__()
        self.embedding = torch.nn.Embedding(len(vocab), dim)

    @property
    def facts(self) -> tuple[list[str], list[str], int, int]:
        """Vocabulary, classes, words of a caption and channels: what two encoders must share to be exchanged."""
        config = self.config
        return list(config.vocab), list(config.classes), config.max_length, config.dim

    def ids(self, labels: Sequence[str | None]) -> torch.Tensor:
        """Word ids [batch, max_length] of "a photo of a <class>" for class names; None is all padding."""
        vocab, length = list(self.config.vocab), self.config.max_length
        rows = [[] if label is None else [vocab.index(word) for word in (*TEMPLATE, label)] for label in labels]
        return torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.long)

    def check(self, prompt: str) -> None:
        """Raise `BadValue` for a prompt that is not empty and names no class, or several."""
        class_of(prompt, self.config.classes)

    def prompt_ids(self, prompts: Sequence[str]) -> torch.Tensor:
        """Word ids [batch, max_length] of prompts, each of one class or empty."""
        return self.ids([class_of(prompt, self.config.classes) for prompt in prompts])

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder states [batch, max_length, dim] and the pooled vector [batch, dim], the row of the class word."""
        states = self.embedding(ids)
        return states, states[:, len(TEMPLATE)]
