"""What cannot work is refused before anything is generated; and after the block the model is as it was."""

import pytest
import torch

import emag
from small_words import DECODERS, EOS, VOCABULARY, generate, model_of, prompts

NULL = torch.tensor([4, 9, 2])


def state_of(model):
    return {name: dict(module.__dict__) for name, module in model.named_modules()}


def same(before, after):
    return all(before[name].keys() == after[name].keys() and
               all(before[name][key] is after[name][key] for key in before[name]) for name in before)


@pytest.mark.parametrize("name", DECODERS)
def test_after_the_block_the_model_is_as_it_was(name):
    model, inputs = model_of(name), prompts(name, 5)
    plain, before = generate(model, inputs), state_of(model)
    with emag.tokens.guide(model, emag.CFG(1.7), null=NULL) as run:
        generate(model, inputs)
        assert "generate" in model.__dict__ and "_get_logits_processor" not in model.__dict__
    assert same(before, state_of(model)) and run.stats.tokens == 8
    again = generate(model, inputs)
    assert all(torch.equal(a, b) for a, b in zip(plain.scores, again.scores))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_inside_is_handed_on_and_undone(error):
    model, inputs = model_of("llama"), prompts("llama", 5)
    before, calls = state_of(model), []

    def stops(input_ids, scores):
        calls.append(1)
        if len(calls) == 3:
            raise error("stop")
        return scores

    with pytest.raises(error), emag.tokens.guide(model, emag.CFG(1.7), null=NULL) as run:
        generate(model, inputs, logits_processor=[stops])
    assert same(before, state_of(model)) and run.latest is None
    with emag.tokens.guide(model, emag.CFG(1.7), null=NULL):
        generate(model, inputs)


def test_rules_that_are_off_leave_the_model_alone():
    model, inputs = model_of("llama"), prompts("llama", 5)
    plain = generate(model, inputs)
    with emag.tokens.guide(model, emag.Negative(1.0, negative="prompt:x"), emag.AG(1.5, on="logp")) as run:
        made = generate(model, inputs)
        assert "generate" not in model.__dict__
    assert all(torch.equal(a, b) for a, b in zip(plain.scores, made.scores))
    with pytest.raises(emag.BadValue, match="no rule is active"):
        _ = run.stats


def test_a_null_that_is_the_prompt_had_no_effect():
    model, inputs = model_of("llama"), prompts("llama", 5)
    for null in (inputs, inputs["input_ids"], lambda call: call):
        with pytest.raises(emag.NoEffect, match="uncond"), emag.tokens.guide(model, emag.CFG(1.7), null=null):
            generate(model, inputs)
    with pytest.raises(emag.NoEffect, match="longer prompt"), emag.tokens.guide(model, emag.CFG(1.7)):
        generate(model, prompts("llama", 1))


def test_one_guidance_at_a_time():
    model = model_of("llama")
    with emag.tokens.guide(model, emag.CFG(1.7), null=NULL):
        with pytest.raises(emag.Busy), emag.tokens.guide(model, emag.CFG(1.2), null=NULL):
            pass
    with emag.tokens.guide(model, emag.CFG(1.2), null=NULL):
        pass


RULES = {
    "no scale": (emag.CFG(),), "two combine": (emag.CFG(1.5), emag.Compose("uncond", (emag.Term(2.0, "cond"),))),
    "apg": (emag.APG(2.0),), "momentum": (emag.CFG(1.5), emag.Momentum(0.5)), "rescale": (emag.CFG(1.5), emag.Rescale(0.7)),
    "emag": (emag.EMAG(1.5),), "pag": (emag.PAG(1.5),), "cads": (emag.CADS(), emag.CFG(1.5)), "not a rule": ("cfg",),
    "noise schedule": (emag.CFG(emag.Interval(1.5)),), "measuring": (emag.CFG(emag.MAMBOG(1.5)),),
    "channels": (emag.CFG(1.5, 3),),
    "ag in x0": (emag.AG(0.9), emag.CFG(1.5)), "ag alone": (emag.AG(0.9, on="logp"),),
    "carried": (emag.Negative(1.5, negative="n", every=2), emag.CFG(1.5)), "mti without threshold": (emag.tokens.MTI(1.5),),
    "unknown condition": (emag.Negative(1.5, negative="n"),), "unknown scorer": (emag.tokens.CAIF(),),
    "late": (emag.tokens.CAIF(), emag.CFG(1.5)),
    "region": (emag.Compose("uncond", (emag.Term(2.0, "cond", mask="left"),)),),
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_rules_that_mean_nothing_for_tokens_are_refused_by_name(rules):
    for way in (emag.tokens.guide, emag.tokens.processor):
        with pytest.raises((emag.BadValue, emag.Unsupported)) as error:
            way(model_of("llama"), *rules, null=NULL)
        assert len(str(error.value)) < 400 and "\n" not in str(error.value)


@pytest.mark.parametrize("rules", [(emag.AG(0.9, on="logp"), emag.CFG(1.5)), (emag.tokens.MTI(1.5, threshold=1.0),)])
def test_rules_on_log_probabilities_are_refused_on_logits(rules):
    with pytest.raises(emag.BadValue, match="works on log-probabilities"):
        emag.tokens.guide(model_of("llama"), *rules, null=NULL, space="logits")


@pytest.mark.parametrize("rule", [emag.tokens.MTI(1.5, threshold=1.0), emag.tokens.SoftCFG(2.0), emag.tokens.GeDi(),
                                  emag.tokens.CAIF()], ids=lambda rule: rule.name)
def test_rules_for_tokens_are_refused_where_images_are_made(rule):
    pipe = emag.load("tiny")
    with pytest.raises(emag.Unsupported, match=r"emag\.tokens"):
        emag.guide(pipe, rule)
    given = {"cond": None, "uncond": None, "scorer": None}
    with pytest.raises((emag.Unsupported, emag.BadValue)):
        emag.guided(lambda x, t, c: x, rule, path=[1.0, 0.5, 0.0], conditions=given)(torch.randn(1, 4), 0)


def test_agreement_of_tokens_is_refused_where_images_are_made():
    with pytest.raises(emag.BadValue, match="tokens"):
        emag.guide(emag.load("tiny"), emag.AG(0.9, on="logp"), emag.CFG(4.0))


CALLS = {
    "their scale": ({"guidance_scale": 2.0}, "second time"),
    "their negative": ({"negative_prompt_ids": NULL[None]}, "null="),
    "a loop of its own": ({"custom_generate": print}, "processor"),
}


@pytest.mark.parametrize(("more", "says"), CALLS.values(), ids=CALLS)
def test_calls_that_guidance_does_not_go_with(more, says):
    model, inputs = model_of("llama"), prompts("llama", 5)
    with pytest.raises((emag.BadValue, emag.Unsupported), match=says), emag.tokens.guide(model, emag.CFG(1.5), null=NULL):
        generate(model, inputs, **more)


@pytest.mark.parametrize("rules", [(emag.AG(0.9, on="logp"), emag.CFG(1.5)), (emag.tokens.SoftCFG(1.5),)],
                         ids=["ag", "soft-cfg"])
@pytest.mark.parametrize("more", [{"num_beams": 2}, {"prompt_lookup_num_tokens": 2}], ids=["beams", "drafts"])
def test_rules_that_remember_are_refused_where_rows_change_places(rules, more):
    model, inputs = model_of("llama"), prompts("llama", 5)
    with pytest.raises(emag.Unsupported, match="remembers"), emag.tokens.guide(model, *rules, null=NULL):
        generate(model, inputs, **more)


NULLS = {
    "text without tokenizer": ("a text", "tokenizer"), "number": (3, "is a text"),
    "two rows of three": (torch.ones(2, 4).long(), "rows"),
    "nothing": (torch.ones(1, 0).long(), "at least one"), "not there": (emag.tokens.zero("pixel_values"), "pixel_values"),
    "padded behind": ({"input_ids": torch.tensor([[4, 0]]), "attention_mask": torch.tensor([[1, 0]])}, "left"),
}


@pytest.mark.parametrize(("null", "says"), NULLS.values(), ids=NULLS)
def test_nulls_that_cannot_be_read(null, says):
    model, inputs = model_of("llama"), prompts("llama", 5, 4, 3)
    with pytest.raises(emag.BadValue, match=says), emag.tokens.guide(model, emag.CFG(1.5), null=null):
        generate(model, inputs)


def test_all_tensors_that_a_model_reads_of_its_prompt_are_its_nulls_too():
    """Without the sizes or masks of its images, a null that changes the text alone would read others than the prompt."""
    from emag.tokens.host import prompt_of

    class Seeing:
        def forward(self, input_ids, attention_mask, pixel_values, pixel_attention_mask, position_ids, use_cache): ...

    one = torch.ones(1, 2)
    call = dict.fromkeys(("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask"), one)
    apart = {"position_ids": one, "use_cache": True, "max_new_tokens": 3, "assistant": one, "encoder_outputs": None}
    assert prompt_of(Seeing(), {**call, **apart}) == call


def test_an_encoder_has_no_last_token_to_go_by():
    with pytest.raises(emag.BadValue, match="zero"), emag.tokens.guide(model_of("t5"), emag.CFG(1.5)):
        generate(model_of("t5"), prompts("t5", 5))


class Letters:
    """A tokenizer of letters, as far as it is asked."""

    def __call__(self, texts, return_tensors=None, padding=False, padding_side="right"):
        rows = [[3 + ord(letter) % (VOCABULARY - 3) for letter in text] for text in texts]
        width, mask = max(map(len, rows)), []
        for i, row in enumerate(rows):
            pad = [0] * (width - len(row))
            rows[i], ones = (pad + row, [1] * len(row)) if padding_side == "left" else (row + pad, [1] * len(row))
            mask.append([0] * len(pad) + ones if padding_side == "left" else ones + [0] * len(pad))
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_texts_ids_arguments_and_functions_say_the_same(name):
    model, inputs, letters = model_of(name), prompts(name, 5, 3), Letters()
    texts = ["ab", "cdef"]
    ids = letters(texts, padding_side="right" if name == "t5" else "left")
    made = []
    for null in (texts, ids, lambda call: texts, lambda call: {**call, **ids}):
        with emag.tokens.guide(model, emag.CFG(1.7), null=null, tokenizer=letters):
            made.append(generate(model, inputs))
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0].scores, other.scores))
    rules = emag.Compose("prompt:ab", (emag.Term(1.7, "cond", "prompt:ab"),))
    with emag.tokens.guide(model, rules, tokenizer=letters) as run:
        generate(model, inputs)
    assert run.stats.passes == {"prompt:ab": 8}


def test_a_processor_serves_one_text_until_it_is_reset():
    model, ids = model_of("llama"), prompts("llama", 5)["input_ids"]
    scores = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(0))
    guide = emag.tokens.processor(model, emag.CFG(1.5), null=NULL)
    first = guide(ids, scores)
    assert torch.equal(guide(ids, scores), first) and guide.stats.passes == {"uncond": 1}
    with pytest.raises(emag.BadValue, match="reset"):
        guide(ids.flip(1), scores)
    guide.reset()
    guide(ids.flip(1), scores)
    with pytest.raises(emag.BadValue, match="tokens=N"):
        emag.tokens.processor(model, emag.CFG(emag.Interval(1.5, 0.0, 0.5, "progress")), null=NULL)


@pytest.mark.parametrize("name", DECODERS)
def test_a_loop_of_ones_own_makes_the_same_text(name):
    model, inputs = model_of(name), prompts(name, 5)
    rule = emag.CFG(emag.Interval(1.7, 0.0, 0.6, "progress"))
    with emag.tokens.guide(model, rule, null=NULL):
        made = generate(model, inputs)
    guide, ids = emag.tokens.processor(model, rule, null=NULL, tokens=8), inputs["input_ids"]
    for _ in range(8):
        with torch.no_grad():
            ids = torch.cat([ids, guide(ids, model(ids).logits[:, -1]).argmax(-1, keepdim=True)], dim=1)
    assert ids.tolist() == made.sequences.tolist()
    ours = emag.tokens.processor(model, rule, null=NULL, tokens=8)
    listed = generate(model, inputs, logits_processor=[ours])
    assert listed.sequences.tolist() == made.sequences.tolist() and EOS not in listed.sequences
