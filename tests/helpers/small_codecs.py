"""The smallest MusicGen, Dia, Janus, Emu3 and LLaVA: codes of sound by several heads, tokens of images, words about one."""

import functools

import torch
from transformers import (
    CLIPVisionConfig,
    DiaConfig,
    DiaForConditionalGeneration,
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3TextConfig,
    Emu3VQVAEConfig,
    EncodecConfig,
    JanusConfig,
    JanusForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    MusicgenMelodyConfig,
    MusicgenMelodyDecoderConfig,
    MusicgenMelodyForConditionalGeneration,
    T5Config,
)
from transformers.models.dia.configuration_dia import DiaDecoderConfig, DiaEncoderConfig
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

CODES, HEADS, START = 16, 3, 16


def _spread(model, std):
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=std)
    return model.eval()


def _sound_parts(decoder_config):
    """A text encoder, a codec and a decoder of MusicGen's kind."""
    text = T5Config(vocab_size=23, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0)
    sound = EncodecConfig(audio_channels=1, num_filters=4, hidden_size=8, codebook_size=CODES, codebook_dim=8,
                          sampling_rate=8000, upsampling_ratios=[2, 2], num_residual_layers=1, num_lstm_layers=1,
                          target_bandwidths=[60.0])
    decoder = decoder_config(vocab_size=CODES, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
                             num_codebooks=HEADS, pad_token_id=START, bos_token_id=START, audio_channels=1)
    return {"text_encoder": text.to_dict(), "audio_encoder": sound.to_dict(), "decoder": decoder.to_dict()}


def _starting(model):
    for name in ("decoder_start_token_id", "pad_token_id", "bos_token_id"):
        setattr(model.generation_config, name, START)
    model.generation_config.guidance_scale = 1
    return model


@functools.cache
def musicgen():
    torch.manual_seed(0)
    config = MusicgenConfig(**_sound_parts(MusicgenDecoderConfig))
    return _starting(_spread(MusicgenForConditionalGeneration(config), 0.4))


@functools.cache
def melody():
    """MusicGen whose text and melody stand before the codes."""
    torch.manual_seed(0)
    config = MusicgenMelodyConfig(**_sound_parts(MusicgenMelodyDecoderConfig), num_chroma=4, chroma_length=3)
    return _starting(_spread(MusicgenMelodyForConditionalGeneration(config), 0.4))


@functools.cache
def dia():
    torch.manual_seed(0)
    reads = DiaEncoderConfig(max_position_embeddings=32, num_hidden_layers=1, hidden_size=16, num_attention_heads=2,
                             num_key_value_heads=2, head_dim=8, intermediate_size=32, vocab_size=30)
    speaks = DiaDecoderConfig(max_position_embeddings=64, num_hidden_layers=2, hidden_size=16, intermediate_size=32,
                              num_attention_heads=2, num_key_value_heads=1, head_dim=8, cross_num_attention_heads=2,
                              cross_head_dim=8, cross_num_key_value_heads=2, cross_hidden_size=16, vocab_size=20,
                              num_channels=HEADS, pad_token_id=17, eos_token_id=16, bos_token_id=18)
    made = _spread(DiaForConditionalGeneration(DiaConfig(encoder_config=reads, decoder_config=speaks,
                                                         delay_pattern=[0, 1, 2])), 0.4)
    config = made.generation_config
    config.decoder_start_token_id = config.bos_token_id = 18
    config.pad_token_id, config.eos_token_id, config.guidance_scale = 17, 16, 1
    return made


@functools.cache
def janus():
    torch.manual_seed(0)
    text = LlamaConfig(vocab_size=23, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                       num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    sight = JanusVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8,
                              projection_dim=16, mlp_ratio=2.0, num_image_tokens=9, depth=1)
    codes = JanusVQVAEConfig(embed_dim=4, num_embeddings=13, double_latent=False, latent_channels=8, num_patches=3,
                             base_channels=32, channel_multiplier=[1, 1], num_res_blocks=1, projection_dim=16,
                             image_token_embed_dim=16, hidden_size=16)
    made = _spread(JanusForConditionalGeneration(JanusConfig(text_config=text, vision_config=sight, vq_config=codes,
                                                             image_token_id=22)), 0.5)
    config = made.generation_config
    config.bos_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    config.generation_kwargs = {"boi_token_id": 3}
    return made


ROW_END, FIRST_CODE = 4, 20
"""Emu3's token at the end of a row of an image, and its first code; 13 of them."""


@functools.cache
def emu3():
    torch.manual_seed(0)
    text = Emu3TextConfig(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                          num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    codes = Emu3VQVAEConfig(codebook_size=13, embed_dim=4, latent_channels=4, base_channels=32, channel_multiplier=[1, 1],
                            num_res_blocks=1, hidden_size=16, attn_resolutions=[], temporal_downsample_factor=1)
    words = {"<|extra_200|>": ROW_END, "<image>": 5, **{f"<|visual token {i:06d}|>": FIRST_CODE + i for i in range(13)}}
    made = _spread(Emu3ForConditionalGeneration(Emu3Config(text_config=text, vq_config=codes, vocabulary_map=words)), 0.5)
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = None, 0
    return made


SEEN = 23
"""The token that stands for a part of an image."""


@functools.cache
def llava():
    torch.manual_seed(0)
    text = LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                       num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    sight = CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8,
                             patch_size=4, projection_dim=16)
    made = _spread(LlavaForConditionalGeneration(LlavaConfig(
        text_config=text, vision_config=sight, image_token_index=SEEN, image_seq_length=4, vision_feature_layer=-1)), 0.5)
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = None, 0
    return made
