"""MusicGen: codes of two codebooks, the second one step late, that count."""

from collections.abc import Sequence
from typing import Any

import torch

from .... import tokens
from ....core import Rule
from ....engine.undo import patch, undone
from ..digits import WORDS
from .host import Kind, Sampled
from .languages import BOOKS, NAMELESS
from .written import TEXTS, opened

CODES, START, LENGTH = 16, 16, 8
"""Codes (a power of two, as its codec wants; ten of them are used), the code that stands where a later codebook has not
begun, and codes of each codebook."""


def musicgen() -> Any:
    """A text encoder, a decoder of two codebooks, and a codec of random weights, which nothing is heard by."""
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    text = T5Config(vocab_size=len(WORDS), d_model=48, d_kv=24, d_ff=96, num_layers=1, num_heads=2, dropout_rate=0.0)
    codec = EncodecConfig(
        audio_channels=1, num_filters=2, hidden_size=4, codebook_size=CODES, codebook_dim=4, sampling_rate=8000,
        upsampling_ratios=[2, 2], num_residual_layers=1, num_lstm_layers=1, target_bandwidths=[60.0])
    decoder = MusicgenDecoderConfig(
        vocab_size=CODES, hidden_size=48, ffn_dim=96, num_hidden_layers=2, num_attention_heads=2, num_codebooks=2,
        dropout=0.0, pad_token_id=START, bos_token_id=START, audio_channels=1, max_position_embeddings=64)
    made = MusicgenForConditionalGeneration(MusicgenConfig(
        text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict()))
    made.audio_encoder.requires_grad_(False)
    made.config.decoder_start_token_id = made.config.pad_token_id = START
    for name in ("decoder_start_token_id", "pad_token_id", "bos_token_id"):
        setattr(made.generation_config, name, START)
    made.generation_config.guidance_scale = 1
    return made


def loss(model: Any, prompts: torch.Tensor, codes: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Of the next codes of both codebooks. A prompt is silenced as the authors' code does it: nothing of it is read."""
    first, second = codes.view(-1, 2, LENGTH).unbind(1)
    late = torch.full((len(codes), 1), START)
    delayed = torch.stack([torch.cat([first, late], 1), torch.cat([late, second], 1)], dim=1)
    before = torch.cat([late[:, None].expand(-1, 2, -1), delayed[..., :-1]], dim=-1)
    said = (prompts != NAMELESS).long()[:, None]
    out = model(input_ids=TEXTS.ids(prompts), attention_mask=said, decoder_input_ids=before.flatten(0, 1), labels=delayed.mT)
    return out.loss


def sing(model: Any, rules: Sequence[Rule], prompts: torch.Tensor, seed: int) -> Sampled:
    """Codes [count, 2 * 8], as they are handed to the codec; away from silence."""
    heard: list[torch.Tensor] = []
    null = tokens.zero("encoder_outputs", "attention_mask") if rules else None
    count = LENGTH + 1
    ids = TEXTS.ids(prompts)

    def sung(undo: Any) -> Any:
        decode = model.audio_encoder.decode

        def decoded(codes: torch.Tensor, *args: Any, **more: Any) -> Any:
            heard.append(codes)
            return decode(codes, *args, **more)

        patch(undo, model.audio_encoder, "decode", decoded)
        with tokens.guide(model, *rules, null=null) as run:
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=count, top_k=0)
        return run

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        run = undone(sung)
    codes = torch.cat([one.reshape(-1, 2, one.shape[-1]) for one in heard])
    return Sampled.of(codes.flatten(1), run, rules, count)


KINDS = (Kind("codec", "MusicGen: two codebooks that count", BOOKS, musicgen, loss, sing,
              opened("MusicgenForConditionalGeneration"), 1200),)
