"""Token models with random weights, as small as transformers' own classes allow, and tokens for them."""

import functools

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY, PAD, BOS, EOS = 23, 0, 1, 2
SIZES = dict(vocab_size=VOCABULARY, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
LAYERS = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=64)


def _llama(**more):
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **LAYERS, **more}))


def _qwen(**more):
    return Qwen2ForCausalLM(Qwen2Config(**{**SIZES, **LAYERS, **more}))


def _gpt2():
    """Places are learned vectors here: who counts padding as text is seen."""
    return GPT2LMHeadModel(GPT2Config(**SIZES, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def _bart():
    return BartForConditionalGeneration(BartConfig(
        **SIZES, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, decoder_start_token_id=EOS,
        forced_eos_token_id=None))


def _t5():
    return T5ForConditionalGeneration(T5Config(
        **SIZES, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, decoder_start_token_id=PAD,
        dropout_rate=0.0))


MAKERS = {"llama": _llama, "qwen2": _qwen, "gpt2": _gpt2, "bart": _bart, "t5": _t5}
DECODERS, BOTH_SIDES = ("llama", "qwen2"), ("bart", "t5")
SPREAD = {"llama": 0.7, "gpt2": 0.4, "qwen2": 0.7, "bart": 0.3, "t5": 0.35}


@functools.cache
def model_of(name, seed=0, ends=False):
    """One that spreads its bets over the vocabulary, unlike a freshly initialised one. ends: it may end its texts."""
    torch.manual_seed(seed)
    made = MAKERS[name]().eval()
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=SPREAD[name])
    if not ends:
        made.generation_config.eos_token_id = None
    made.generation_config.forced_eos_token_id = None
    return made


def prompts(name, *lengths, seed=1):
    """Random prompts, input_ids and attention_mask, padded on the left; on the right where an encoder reads them."""
    random, width = torch.Generator().manual_seed(seed), max(lengths)
    ids, mask = torch.full((len(lengths), width), PAD), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        at = slice(0, length) if name in BOTH_SIDES else slice(width - length, width)
        ids[row, at] = torch.randint(3, VOCABULARY, (length,), generator=random)
        mask[row, at] = 1
    return {"input_ids": ids, "attention_mask": mask}


def row_of(inputs, row):
    """One prompt alone, without its padding."""
    ids = inputs["input_ids"][row, inputs["attention_mask"][row].bool()][None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logp(model, context, tokens):
    """Log-probabilities of the next token, [vocabulary], from the whole text at once: no cache, no padding, no batch.

    context: what the branch sees before the generated tokens, or what its encoder reads. tokens: those of the decoder.
    """
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            out = model(input_ids=context[None], decoder_input_ids=tokens[None], use_cache=False)
        else:
            out = model(input_ids=torch.cat([context, tokens])[None], use_cache=False)
    return out.logits[0, -1].log_softmax(-1)


def by_hand(model, prompt, null, tokens, scale):
    """CFG's log-probabilities of the next token from its definition, normalised."""
    c, u = logp(model, prompt, tokens), logp(model, null, tokens)
    return (u + scale * (c - u)).log_softmax(-1)


def generate(model, inputs, count=8, **more):
    """Sequences and scores, on both kinds of model without a way to choose but the one named."""
    return model.generate(**inputs, **{"max_new_tokens": count, "do_sample": False, "return_dict_in_generate": True,
                                       "output_scores": True, **more})


def decoded(model, inputs, made, row, times=1):
    """Prompt and the tokens that the decoder has read or made, of one sequence."""
    at = row // times
    real = inputs["attention_mask"][at].bool()
    start = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    return inputs["input_ids"][at, real], made.sequences[row, start:]
