"""Codes of sound and of images, and captions: MusicGen, whose heads are guided each, Janus, whose loop brings its own null,
Emu3, whose image is a text under a grammar, LLaVA, whose null is an image of zeros."""

import pytest
import torch

import emag
from small_codecs import FIRST_CODE, HEADS, ROW_END, SEEN, emu3, janus, llava, musicgen
from small_words import by_hand

MUTE = emag.tokens.zero("encoder_outputs", "attention_mask")
close = torch.testing.assert_close
TEXT = {"input_ids": torch.tensor([[4, 5, 6, 1], [7, 8, 1, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
IDS = torch.tensor([[1, 5, 7, 9, 3], [1, 8, 8, 4, 3]])
IMAGE = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "generation_mode": "image"}


def sound(inputs=TEXT, *rules, space="logits", null=MUTE, given=None, **more):
    more = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_scores": True, **more}
    model = musicgen()
    torch.manual_seed(3)
    if not rules:
        return model.generate(**inputs, **more), None
    with emag.tokens.guide(model, *rules, null=null, space=space, **(given or {})) as run:
        return model.generate(**inputs, **more), run


@pytest.mark.parametrize("more", [{}, {"do_sample": True}, {"do_sample": True, "top_k": 4}],
                         ids=["greedy", "sampled", "top-k"])
def test_musicgen_is_guided_as_by_its_own_doubled_batch(more):
    theirs, _ = sound(guidance_scale=2.0, **more)
    ours, run = sound(TEXT, emag.CFG(2.0), **more)
    plain, _ = sound(**more)
    close(ours.sequences, theirs.sequences, atol=1e-5, rtol=1e-4)
    for a, b, c in zip(ours.scores, theirs.scores, plain.scores):
        close(a, b, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(a, c, atol=0.1)
    assert run.stats.passes == {"uncond": 8} and run.stats.rows == 2 * HEADS and run.stats.fed == {"uncond": 8}


def test_log_probabilities_make_the_same_sound():
    raw, _ = sound(TEXT, emag.CFG(2.0))
    log, _ = sound(TEXT, emag.CFG(2.0), space="logp")
    assert torch.equal(raw.sequences, log.sequences)


def test_what_its_own_guidance_cannot_do():
    """Below 1 it breaks; over some of the tokens, and by another text than silence, it has no words for."""
    with pytest.raises(TypeError):
        sound(guidance_scale=0.5)
    plain, _ = sound()
    ours, _ = sound(TEXT, emag.CFG(0.5))
    assert not torch.allclose(ours.scores[0], plain.scores[0], atol=0.1)
    _, run = sound(TEXT, emag.CFG(emag.Interval(2.0, 0.0, 0.5, "progress")))
    assert run.stats.passes == {"uncond": 4}
    other, _ = sound(TEXT, emag.CFG(2.0), null=torch.tensor([9, 10, 1]))
    assert not torch.allclose(other.scores[0], ours.scores[0], atol=0.1)


def test_two_conditions_of_a_sound_have_two_scales():
    rules, given = (emag.Negative(1.3, negative="text"), emag.CFG(1.5)), {"conditions": {"text": torch.tensor([9, 10, 1])}}
    made, run = sound(TEXT, *rules, given=given)
    c, s, t = (sound(TEXT)[0], sound(TEXT, emag.CFG(0.0))[0], sound(TEXT, emag.CFG(0.0), null=torch.tensor([9, 10, 1]))[0])
    inner = t.scores[0] + 1.3 * (c.scores[0] - t.scores[0])
    close(made.scores[0], s.scores[0] + 1.5 * (inner - s.scores[0]), atol=1e-4, rtol=1e-4)
    assert run.stats.passes == {"text": 8, "uncond": 8}


def test_a_sound_of_a_batch_is_the_sound_alone():
    together, _ = sound(TEXT, emag.CFG(2.0))
    for row, length in enumerate((4, 3)):
        alone, _ = sound({name: value[row:row + 1, :length] for name, value in TEXT.items()}, emag.CFG(2.0))
        for both, one in zip(together.scores, alone.scores):
            close(both[HEADS * row:HEADS * (row + 1)], one, atol=1e-4, rtol=1e-4)


def test_musicgens_own_scale_and_several_sequences_are_refused():
    with pytest.raises(emag.BadValue, match="guidance_scale=1"):
        sound(TEXT, emag.CFG(2.0), guidance_scale=3.0)
    with pytest.raises(emag.Unsupported, match="codebooks"):
        sound(TEXT, emag.CFG(2.0), num_return_sequences=2, do_sample=True)
    with pytest.raises(emag.BadValue, match="zero"):
        sound(TEXT, emag.CFG(2.0), null=None)


def image(*rules, given=None, **more):
    torch.manual_seed(3)
    with emag.tokens.guide(janus(), *rules, **(given or {})) as run:
        return janus().generate(**IMAGE, guidance_scale=1, **{"do_sample": False, **more}), run


@pytest.mark.parametrize("more", [{"do_sample": False}, {"do_sample": True}], ids=["greedy", "sampled"])
def test_janus_is_guided_as_by_its_own_processor(more):
    torch.manual_seed(3)
    theirs = janus().generate(**IMAGE, guidance_scale=2.0, **more)
    ours, run = image(emag.CFG(2.0), **more)
    assert ours.tolist() == theirs.tolist() and run.stats.tokens == 9 and run.stats.passes == {}
    assert image(emag.CFG(6.0), **more)[0].tolist() != ours.tolist()


def test_a_schedule_runs_over_the_tokens_of_an_image():
    ours, _ = image(emag.CFG(emag.Interval(6.0, 0.5, 1.0, "progress")))
    off, full = image(emag.CFG(1.0))[0], image(emag.CFG(6.0))[0]
    # 4.5 tokens of 9: the first 5 are the prompt's own
    assert ours[:, :5].tolist() == off[:, :5].tolist() and ours.tolist() not in (off.tolist(), full.tolist())


def test_janus_takes_no_other_null():
    for rules, given in (((emag.CFG(2.0),), {"null": IDS}), ((emag.tokens.SoftCFG(2.0),), {})):
        with pytest.raises(emag.Unsupported, match="a null branch of its own"):
            image(*rules, given=given)


PADDED = {"input_ids": torch.tensor([[1, 7, 8, 9], [0, 1, 6, 10]]),
          "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])}
BLURRED = torch.tensor([1, 11, 12])


def rows_of_three(sample, ids):
    """What an image of 3 x 3 codes allows next: three codes and the end of a row."""
    return [ROW_END] if (len(ids) - 4) % 4 == 3 else list(range(FIRST_CODE, FIRST_CODE + 13))


@pytest.mark.parametrize("more", [{}, {"do_sample": True, "top_k": 5}], ids=["greedy", "sampled"])
def test_emu3_is_guided_as_by_transformers_and_its_image_keeps_its_form(more):
    more = {"max_new_tokens": 12, "do_sample": False, "prefix_allowed_tokens_fn": rows_of_three,
            "return_dict_in_generate": True, "output_scores": True, **more}
    torch.manual_seed(3)
    negative = {"negative_prompt_ids": BLURRED.expand(2, -1), "negative_prompt_attention_mask": torch.ones(2, 3).long()}
    theirs = emu3().generate(**PADDED, guidance_scale=3.0, **negative, **more)
    torch.manual_seed(3)
    with emag.tokens.guide(emu3(), emag.CFG(3.0), null=BLURRED) as run:
        ours = emu3().generate(**PADDED, **more)
    assert torch.equal(ours.sequences, theirs.sequences) and run.stats.passes == {"uncond": 12}
    assert (ours.sequences[:, 7::4] == ROW_END).all() and ours.sequences[0].tolist() != ours.sequences[1].tolist()
    for row in range(2):
        prompt = PADDED["input_ids"][row][PADDED["attention_mask"][row].bool()]
        for i, scores in enumerate(ours.scores if not more.get("top_k") else ()):
            right, allowed = by_hand(emu3(), prompt, BLURRED, ours.sequences[row, 4:4 + i], 3.0), scores[row].isfinite()
            close(scores[row][allowed].log_softmax(-1), right[allowed].log_softmax(-1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_caption_goes_away_from_that_of_an_image_of_zeros(beams):
    ids, pixels = torch.tensor([[1, *[SEEN] * 4, 5, 6], [1, *[SEEN] * 4, 9, 8]]), torch.randn(2, 3, 8, 8)
    model, inputs = llava(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    with emag.tokens.guide(model, emag.CFG(2.0), null=emag.tokens.zero("pixel_values")) as run:
        made = model.generate(**inputs, max_new_tokens=5, do_sample=False, num_beams=beams, return_dict_in_generate=True,
                              output_scores=True)
    for row in range(2):
        total = 0.0
        for i in range(5):
            whole, image = made.sequences[row:row + 1, :7 + i], pixels[row:row + 1]
            with torch.no_grad():
                c, u = (model(input_ids=whole, pixel_values=one, use_cache=False).logits[0, -1].log_softmax(-1)
                        for one in (image, 0 * image))
            guided = (u + 2 * (c - u)).log_softmax(-1)
            if beams == 1:
                close(made.scores[i][row], guided, atol=1e-4, rtol=1e-4)
            total += float(guided[made.sequences[row, 7 + i]])
        assert beams == 1 or float(made.sequences_scores[row]) == pytest.approx(total / 5, abs=1e-4)
    assert run.stats.passes == {"uncond": 5} and run.stats.fed == {"uncond": 7 + 4}
