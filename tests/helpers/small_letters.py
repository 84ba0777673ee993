"""A tokenizer of single bytes and a small model of them: libraries of grammars read texts, not tables of tokens."""

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = {"<pad>": 0, "<s>": 1, "</s>": 2,
           **{letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), start=3)}}


@functools.cache
def tokenizer():
    made = Tokenizer(models.BPE(vocab=LETTERS, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@functools.cache
def model():
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(LETTERS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.7)
    return made


def prompts(*texts):
    found = tokenizer()(list(texts), return_tensors="pt", padding=True, padding_side="left")
    return {name: found[name] for name in ("input_ids", "attention_mask")}
