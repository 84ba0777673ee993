"""Sounds whose loop is the model's own: MusicGen Melody, whose conditions stand before the codes, and Dia, whose codes are
delayed by its loop. Held against their own guidance; what is guided by nobody is refused with what stands in the way."""

import pytest
import torch
import transformers

import emag
from small_codecs import HEADS, dia, melody

close = torch.testing.assert_close
TEXT = {"input_ids": torch.tensor([[4, 5, 6, 1], [7, 8, 1, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
TUNE = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(0))
WORDLESS = emag.tokens.zero("attention_mask")
DELAYED = torch.tensor([[[18, 18, 18], [5, 18, 18], [6, 7, 18], [17, 9, 4], [17, 17, 8]]]).expand(2, -1, -1)
"""Two steps of sound to go on from, each codebook one later than the one before; 17 is still to be made."""
GOING_ON = {"decoder_input_ids": DELAYED, "decoder_attention_mask": torch.ones(2, 5).long()}


def silent(call):
    """Neither text nor tune."""
    return {**WORDLESS(call), "input_features": None}


def sound(model, inputs, *rules, null=None, space="logits", given=None, **more):
    more = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_scores": True, **more}
    inputs = {name: value.clone() for name, value in inputs.items()}  # Dia writes into its own
    with emag.tokens.guide(model, *rules, null=null, space=space, **(given or {})) as run:
        return model.generate(**inputs, **more), run


def same(ours, theirs):
    for a, b in zip(ours.scores, theirs.scores, strict=True):
        close(a, b, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.sequences, theirs.sequences) or torch.allclose(ours.sequences, theirs.sequences, atol=1e-5)


@pytest.mark.parametrize("inputs", [TEXT, {**TEXT, "input_features": TUNE}], ids=["text", "text and tune"])
def test_melody_is_guided_as_by_its_own_doubled_batch(inputs):
    theirs, _ = sound(melody(), inputs, guidance_scale=2.0)
    ours, run = sound(melody(), inputs, emag.CFG(2.0), null=silent)
    same(ours, theirs)
    plain, _ = sound(melody(), inputs)
    assert not torch.allclose(ours.scores[0], plain.scores[0], atol=0.1)
    assert run.stats.passes == {"uncond": 6} and run.stats.rows == 2 * HEADS


def test_text_and_tune_have_two_scales():
    """CoVoC's (1.3, 1.5): the text inside, all conditions outside. Their own guidance has one scale for both."""
    inputs, rules = {**TEXT, "input_features": TUNE}, (emag.Negative(1.3, negative="wordless"), emag.CFG(1.5))
    made, run = sound(melody(), inputs, *rules, null=silent, given={"conditions": {"wordless": WORDLESS}})
    zero = emag.CFG(0.0)
    c, t, s = (sound(melody(), inputs, *rule, null=null)[0].scores[0]
               for rule, null in (((), None), ((zero,), WORDLESS), ((zero,), silent)))
    nested = s + 1.5 * (t + 1.3 * (c - t) - s)
    close(made.scores[0], nested, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(nested, s + 1.5 * (c - s) + 1.3 * (c - t), atol=1e-2)
    assert run.stats.passes == {"wordless": 6, "uncond": 6}


@pytest.mark.parametrize("going_on", [{}, GOING_ON], ids=["afresh", "going on"])
def test_dia_is_guided_as_by_its_own_doubled_batch(going_on):
    """Its scale is additive: c + s (c - u) is w = 1 + s. Without top_k, by which it draws from the unguided logits."""
    model, inputs = dia(), {**TEXT, **going_on}
    theirs, _ = sound(model, inputs, guidance_scale=2.0, top_k=None)
    ours, run = sound(model, inputs, emag.CFG(3.0), null=emag.tokens.zero("input_ids"))
    same(ours, theirs)
    states, _ = sound(model, inputs, emag.CFG(3.0), null=emag.tokens.zero("input_ids"), space="hidden")
    assert torch.equal(states.sequences, ours.sequences)
    assert not torch.equal(sound(model, inputs)[0].sequences, ours.sequences)
    assert run.stats.rows == 2 * HEADS and run.stats.passes["uncond"] == len(ours.scores)


def test_dias_own_scale_with_top_k_says_only_which_codes_are_left():
    """As many as there are: guidance is without effect there, at the price of a doubled batch."""
    plain, _ = sound(dia(), TEXT)
    theirs, _ = sound(dia(), TEXT, guidance_scale=2.0, top_k=20)
    assert torch.equal(theirs.sequences, plain.sequences)


def test_a_sound_of_a_batch_is_the_sound_alone():
    """Melody's model itself reads the padding of a shorter prompt, as zeros before the codes."""
    for model, null, rows in ((melody(), silent, {0: 4}), (dia(), emag.tokens.zero("input_ids"), {0: 4, 1: 3})):
        together, _ = sound(model, TEXT, emag.CFG(2.0), null=null)
        for row, length in rows.items():
            inputs = {name: value[row:row + 1, :length] for name, value in TEXT.items()}
            alone, _ = sound(model, inputs, emag.CFG(2.0), null=null)
            for both, one in zip(together.scores, alone.scores):
                close(both[HEADS * row:HEADS * (row + 1)], one, atol=1e-4, rtol=1e-4)


REFUSED = {
    "their scale": (dia, TEXT, {"guidance_scale": 3.0}, "guidance_scale=1"),
    "lengths": (dia, {**TEXT, **GOING_ON, "decoder_attention_mask": torch.tensor([[1] * 5, [0] + [1] * 4])}, {}, "lengths"),
    "no null": (melody, TEXT, {"null": None}, "zero\\('attention_mask'\\)"),
}


@pytest.mark.parametrize(("model", "inputs", "more", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_there_is_refused(model, inputs, more, says):
    with pytest.raises((emag.BadValue, emag.Unsupported), match=says):
        sound(model(), inputs, emag.CFG(2.0), **{"null": emag.tokens.zero("input_ids"), **more})


@pytest.mark.parametrize(("name", "why"), [
    ("BarkModel", "three models"), ("BarkCoarseModel", "three models"), ("CsmForConditionalGeneration", "second model"),
    ("MoshiForConditionalGeneration", "second model"), ("HiggsAudioV2ForConditionalGeneration", "one row"),
    ("VibeVoiceForConditionalGeneration", "diffusion head"), ("PocketTTSForConditionalGeneration", "no sequence"),
    ("SpeechT5ForTextToSpeech", "spectrograms"), ("WhisperForConditionalGeneration", "nobody has")])
def test_models_that_decode_in_a_way_of_their_own_are_refused(name, why):
    """Before anything is generated, each with what stands in the way."""
    kind = getattr(transformers, name, None) or pytest.skip(f"this transformers has no {name}")
    model = kind.__new__(kind)
    torch.nn.Module.__init__(model)
    model.config = kind.config_class()
    with pytest.raises(emag.Unsupported, match=why) as error:
        emag.tokens.guide(model, emag.CFG(2.0), null=torch.ones(1, 2).long())
    assert "\n" not in str(error.value)
