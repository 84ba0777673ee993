"""Models that transformers decodes in a loop of their own: which are guided, why others are not, and how codes are fed."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

TokenShape = Callable[[torch.Tensor], torch.Tensor]
"""Tokens so far, [rows, length] -> what a decoder is fed for them, whose second dimension is the same length."""

PROVEN = ("MusicgenForConditionalGeneration", "MusicgenMelodyForConditionalGeneration", "DiaForConditionalGeneration",
          "JanusForConditionalGeneration")
"""Those that guidance has been held against."""

WHY = {
    "Bark": "it calls three models one after the other, on embedded prompts that no null could stand for",
    "Csm": "it calls a second model inside of each token, which would need a null of its own",
    "Moshi": "it calls a second model inside of each token, which would need a null of its own",
    "HiggsAudioV2": "its codes are in one row of logits until its own processor parts them, beside tokens of text",
    "VibeVoice": "its sound comes from a diffusion head, which has a guidance of its own",
    "PocketTTS": "its sound is no sequence of tokens",
    "SpeechT5": "it makes spectrograms, and no tokens",
}
"""By the beginning of a class's name, what stands in the way. Of others nothing is known."""


def codebooks(model: Any) -> int:
    """How many rows of tokens a model predicts for one sample, side by side."""
    if type(model).__name__ == "DiaForConditionalGeneration":
        return int(model.num_channels)
    return int(getattr(getattr(model, "decoder", None), "num_codebooks", 1))


def prefixed(model: Any) -> bool:
    """Whether what a model's encoder says stands before the tokens, as in MusicGen Melody; else they look at it apart."""
    return bool(model.config.is_encoder_decoder) and "encoder_outputs" not in inspect.signature(model.forward).parameters


def fed(model: Any, config: Any) -> TokenShape | None:
    """What a decoder of several codebooks is fed for the tokens so far; None: those as they are. config: of the call."""
    if type(model).__name__ == "DiaForConditionalGeneration":
        # its own loop has put the delayed tokens into the rows
        return lambda ids: ids.view(-1, codebooks(model), ids.shape[1]).transpose(1, 2)
    decoder: Any = getattr(model, "decoder", None)
    return _delayed(decoder, config) if hasattr(decoder, "build_delay_pattern_mask") else None


def _delayed(decoder: Any, config: Any) -> TokenShape:
    """Tokens of later codebooks are late, and padding until then."""
    pattern: list[torch.Tensor] = []

    def delayed(ids: torch.Tensor) -> torch.Tensor:
        if not pattern:
            start = config._decoder_start_token_tensor
            pattern.append(decoder.build_delay_pattern_mask(ids, pad_token_id=start, max_length=config.max_length)[1])
        late: torch.Tensor = decoder.apply_delay_pattern_mask(ids, pattern[0])
        return late

    return delayed
