"""Ways to call `generate` that people have: each makes the text of a plain guided call, or is refused in one line."""

import copy

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

import emag
from small_words import BOTH_SIDES, PAD, generate, model_of, prompts

NULL = torch.tensor([4, 9, 2])


def guided(model, inputs, **more):
    null = more.pop("null", NULL)
    torch.manual_seed(3)
    with emag.tokens.guide(model, emag.CFG(1.7), null=null):
        return model.generate(**inputs, **{"max_new_tokens": 6, "do_sample": False, **more}).tolist()


class Heard:
    """A streamer: what it was given, and that it was told of the end."""

    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, tokens):
        self.tokens += tokens.flatten().tolist()

    def end(self):
        self.ended = True


WAYS = {
    "a config": lambda inputs: {"generation_config": GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=PAD)},
    "chunks": lambda inputs: {"prefill_chunk_size": 2}, "static": lambda inputs: {"cache_implementation": "static"},
    "sliding": lambda inputs: {"cache_implementation": "sliding_window"}, "eager exit": lambda inputs: {"use_cache": False},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_text_is_the_same_by_every_way(way):
    model, inputs = model_of("llama"), prompts("llama", 6, 3)
    assert guided(model, inputs, **way(inputs)) == guided(model, inputs) != generate(model, inputs, 6).sequences.tolist()


def test_tokens_are_streamed_as_they_are_guided():
    model, inputs, heard = model_of("llama"), prompts("llama", 6), Heard()
    assert guided(model, inputs, streamer=heard)[0] == heard.tokens and heard.ended


def test_a_draft_by_the_models_own_first_layers():
    model, inputs = model_of("llama"), prompts("llama", 6)
    assert guided(model, inputs, assistant_early_exit=1) == guided(model, inputs)


def test_a_prompt_that_a_cache_has_read_already():
    model, kept = model_of("llama"), DynamicCache(config=model_of("llama").config)
    whole = model.generate(**prompts("llama", 6), max_new_tokens=3, do_sample=False, past_key_values=kept)
    inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    assert guided(model, inputs, past_key_values=kept) == guided(model, inputs)


@pytest.mark.parametrize("compiled", [pytest.param("the module", marks=pytest.mark.long), "a shell"])
def test_a_compiled_model(compiled):
    plain, inputs = model_of("llama"), prompts("llama", 6, 3)
    model = copy.deepcopy(plain)
    if compiled == "a shell":
        model = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    assert guided(model, inputs) == guided(plain, inputs)
    assert "generate" not in getattr(model, "_orig_mod", model).__dict__


@pytest.mark.parametrize("name", BOTH_SIDES)
@pytest.mark.parametrize("more", [{}, {"num_return_sequences": 2, "do_sample": True}, {"num_beams": 2},
                                  {"cache_implementation": "static"}], ids=lambda more: "+".join(more) or "greedy")
def test_what_an_encoder_has_said_already(name, more):
    """As a model's output, and as the tuple that older code hands on; the null may be a text or silence."""
    model, inputs = model_of(name), prompts(name, 6, 3)
    with torch.no_grad():
        said = model.get_encoder()(**inputs)
    for null in (NULL, emag.tokens.zero("encoder_outputs")):
        right = guided(model, inputs, null=null, **more)
        given = {"encoder_outputs": copy.deepcopy(said), "attention_mask": inputs["attention_mask"]}
        assert guided(model, given, null=null, **more) == right
    if not more:
        assert guided(model, {**given, "encoder_outputs": (said[0],)}, null=null) == right


@pytest.mark.parametrize("name", BOTH_SIDES)
def test_a_decoder_that_goes_on_from_tokens_of_its_own(name):
    model, inputs = model_of(name), prompts(name, 6, 3)
    start = torch.tensor([[model.config.decoder_start_token_id, 5, 6]] * 2)
    begun = guided(model, inputs, decoder_input_ids=start)
    alone = guided(model, {key: value[:1] for key, value in inputs.items()}, decoder_input_ids=start[:1])
    assert begun[0] == alone[0] and begun[0][:3] == start[0].tolist()
    ragged = {"decoder_input_ids": start, "decoder_attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]])}
    with pytest.raises(emag.Unsupported, match="one length"):
        guided(model, inputs, **ragged)


def test_padding_behind_a_prompt_is_refused():
    inputs = {name: value.flip(1) for name, value in prompts("llama", 6, 3).items()}
    with pytest.raises(emag.BadValue, match="left"):
        guided(model_of("llama"), inputs)


def test_ways_past_generate_are_refused_inside_the_block():
    """They would write unguided texts without a word."""
    model = model_of("llama")
    with emag.tokens.guide(model, emag.CFG(1.7), null=NULL):
        for way in emag.tokens.host.OTHER_WAYS:
            with pytest.raises(emag.Unsupported, match="unguided"):
                getattr(model, way)([[4, 5, 6]])
    assert "generate_batch" not in model.__dict__
