"""How several families' pipelines turn prompts, or class labels, into network arguments."""

from typing import Any

import torch

from ..errors import BadValue
from .records import Tensors


def text_states(pipe: Any, texts: list[str]) -> Tensors:
    """The text tokens alone."""
    return {"encoder_hidden_states": pipe.encode_prompt(texts, do_classifier_free_guidance=False)[0]}


def states_and_mask(pipe: Any, texts: list[str]) -> Tensors:
    """The text tokens, and which of them are no padding."""
    states, mask, _, _ = pipe.encode_prompt(texts, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


def content(tokenizer: Any, texts: list[str], length: int) -> torch.Tensor:
    """True at a text's own tokens, start and end among them, false at padding: [texts, length]."""
    made = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return made.attention_mask.bool()


def label_of(pipe: Any, text: str) -> int:
    """A class label from its number or, where the pipeline knows names, its name."""
    count = pipe.transformer.config.num_embeds_ada_norm
    if text.isdigit():
        if int(text) >= count:
            raise BadValue(f"class label {text} does not exist: this model has 0 to {count - 1}")
        return int(text)
    labels = getattr(pipe, "labels", {}) or {}
    if text not in labels:
        raise BadValue(f"{text!r} is no class label of this model: give its number"
                       + (", or a name such as " + ", ".join(list(labels)[:5]) if labels else ""))
    return labels[text]
