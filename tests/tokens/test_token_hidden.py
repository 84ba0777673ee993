"""Guidance of the state before the head: of the logits, where all behind it is affine, and else by the definition."""

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

import emag
from small_codecs import musicgen
from small_words import LAYERS, SIZES, generate, model_of, prompts

NULL = torch.tensor([4, 9, 2])
close = torch.testing.assert_close
RULES = {"cfg": (emag.CFG(1.7),), "nested": (emag.Negative(1.3, negative="text"), emag.CFG(1.5))}


def guided(model, inputs, rules, space, **more):
    given = {"conditions": {"text": torch.tensor([7, 8])}} if len(rules) > 1 else {}
    with emag.tokens.guide(model, *rules, null=NULL, space=space, **given) as run:
        return generate(model, inputs, 5, **more), run


@pytest.mark.parametrize("name", ["llama", "gpt2", "bart", "t5"])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("beams", [1, 2])
def test_before_an_affine_head_it_is_guidance_of_the_logits(name, rules, beams):
    """The weights of the branches sum to 1: a bias behind the head (BART's) comes through once."""
    model, inputs = model_of(name), prompts(name, 5, 3)
    if name == "bart":
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    before = {key: dict(module.__dict__) for key, module in model.named_modules()}
    states, run = guided(model, inputs, rules, "hidden", num_beams=beams)
    logits, plain = guided(model, inputs, rules, "logp", num_beams=beams)
    assert states.sequences.tolist() == logits.sequences.tolist() and run.stats.passes == plain.stats.passes
    for a, b in zip(states.scores, logits.scores):
        close(a, b, atol=1e-4, rtol=1e-4)
    # hooks and the decoder's forward are as they were
    assert all(dict(module.__dict__) == before[key] for key, module in model.named_modules())


def gemma(cap):
    torch.manual_seed(0)
    made = Gemma2ForCausalLM(Gemma2Config(**SIZES, **LAYERS, head_dim=4, final_logit_softcapping=cap)).eval()
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.7)
    made.generation_config.eos_token_id = None
    return made


def test_what_bends_behind_the_head_comes_after_guidance():
    model, inputs = gemma(2.0), prompts("llama", 5)
    states, _ = guided(model, inputs, RULES["cfg"], "hidden")
    logits, _ = guided(model, inputs, RULES["cfg"], "logp")
    ids, tokens = inputs["input_ids"][0], states.sequences[0, 5:]
    for i, scores in enumerate(states.scores):
        with torch.no_grad():
            c, u = (model.model(torch.cat([start, tokens[:i]])[None]).last_hidden_state[0, -1] for start in (ids, NULL))
            right = 2.0 * torch.tanh(model.lm_head(u + 1.7 * (c - u)) / 2.0)
        close(scores[0], right.log_softmax(-1), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(states.scores[0], logits.scores[0], atol=1e-2)
    off, _ = guided(model, inputs, (emag.CFG(emag.Interval(1.7, 0.5, 1.0, "progress")),), "hidden")
    close(off.scores[0], generate(model, inputs, 1).scores[0].log_softmax(-1))


def test_one_guided_state_before_all_heads_of_a_sound():
    """As in Eruku, whose two heads read one guided state."""
    text = {"input_ids": torch.tensor([[4, 5, 6, 1]]), "attention_mask": torch.ones(1, 4).long()}
    made = []
    for space in ("hidden", "logp"):
        null = emag.tokens.zero("encoder_outputs", "attention_mask")
        with emag.tokens.guide(musicgen(), emag.CFG(2.0), null=null, space=space):
            made.append(musicgen().generate(**text, max_new_tokens=5, do_sample=False, return_dict_in_generate=True,
                                            output_scores=True))
    for a, b in zip(made[0].scores, made[1].scores):
        close(a, b, atol=1e-4, rtol=1e-4)


def test_a_null_that_is_the_prompt_has_no_effect_there_either():
    model, inputs = model_of("llama"), prompts("llama", 5)
    with pytest.raises(emag.NoEffect), emag.tokens.guide(model, emag.CFG(1.7), null=inputs, space="hidden"):
        generate(model, inputs)


def test_what_has_no_state_to_guide_is_refused():
    model, inputs = model_of("llama"), prompts("llama", 5)
    with pytest.raises(emag.BadValue, match="log-probabilities"):
        emag.tokens.guide(model, emag.tokens.MTI(1.5, threshold=1.0), null=NULL, space="hidden")
    with pytest.raises(emag.Unsupported, match="predictions"):
        emag.tokens.processor(model, emag.CFG(1.5), null=NULL, space="hidden")
    with pytest.raises(emag.Unsupported, match="drafts"):
        guided(model, inputs, RULES["cfg"], "hidden", prompt_lookup_num_tokens=2)
