"""Grammars of outlines, llguidance, xgrammar and SynCode behind guidance: all texts are valid, allowed tokens as guided.

SynCode pins an old transformers, beside which nothing of this is installed: its tests run where it was put in without its
requirements (docs/tokens.md)."""

import os
import re
import tempfile

import pytest
import torch

import emag
from small_letters import LETTERS, model, prompts, tokenizer
from small_words import by_hand, decoded

PATTERN = "[ab]{2,3}(c|[0-9]{2})x"
NULL = torch.tensor([5, 6])
GRAMMAR = """start: letters tail X
letters: L L | L L L
tail: C | D D
L: "a" | "b"
C: "c"
D: /[0-9]/
X: "x"
"""  # PATTERN for SynCode, which cannot begin with a lone terminal
LIBRARIES = ("outlines_core", "llguidance", "outlines' xgrammar", "xgrammar", "syncode")
close = torch.testing.assert_close
libraries = pytest.mark.parametrize("library", LIBRARIES)


@pytest.fixture(autouse=True)
def eager():
    """They put masks on by compiled code, which takes a compiler half a minute."""
    before = torch._dynamo.config.suppress_errors  # outlines sets it
    with torch.compiler.set_stance("force_eager"):
        yield
    torch._dynamo.config.suppress_errors = before


def mask_of(library, pattern=PATTERN):
    if library == "syncode":
        os.environ.setdefault("SYNCODE_CACHE", tempfile.gettempdir() + "/syncode/")  # it would write into the working folder
        syncode = pytest.importorskip("syncode")
        return syncode.SyncodeLogitsProcessor(syncode.Grammar(GRAMMAR), tokenizer(), use_cache=False, num_samples=2)
    if library == "xgrammar":
        xgrammar = pytest.importorskip("xgrammar")
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer(), vocab_size=len(LETTERS))
        return xgrammar.contrib.hf.LogitsProcessor(xgrammar.GrammarCompiler(info).compile_regex(pattern))
    outlines, backends = pytest.importorskip("outlines"), pytest.importorskip("outlines.backends")
    backend = pytest.importorskip(library.split()[-1])
    return backends.get_regex_logits_processor(backend.__name__, outlines.from_transformers(model(), tokenizer()), pattern)


def made_with(mask, *rules, count=12, given=None, **more):
    torch.manual_seed(3)
    with emag.tokens.guide(model(), *rules, null=NULL if rules else None, **(given or {})):
        return model().generate(**prompts("ab 1", "xyz"), logits_processor=[mask], return_dict_in_generate=True,
                                output_scores=True, bad_words_ids=[[0], [1]],  # SynCode lets special tokens through
                                **{"max_new_tokens": count, "do_sample": True, **more})


def valid(made):
    return [bool(re.fullmatch(PATTERN, text)) for text in
            tokenizer().batch_decode(made.sequences[:, 4:], skip_special_tokens=True)]


@libraries
@pytest.mark.parametrize("rules", [
    (), (emag.CFG(0.0),), (emag.CFG(1.7),), (emag.CFG(30.0),), (emag.Compose("uncond", (emag.Term(-2.0, "cond"),)),),
    (emag.AG(threshold=0.9, on="logp"), emag.CFG(3.0)), (emag.tokens.MTI(3.0, threshold=0.5),), (emag.tokens.SoftCFG(3.0),)],
    ids=lambda rules: "+".join(rule.name for rule in rules) or "none")
def test_every_text_is_valid_at_every_strength(library, rules):
    for more in ({}, {"do_sample": False}):
        made = made_with(mask_of(library), *rules, **more)
        assert all(valid(made))
        assert not any(scores.isnan().any() or scores.isposinf().any() for scores in made.scores)


def test_without_a_mask_they_are_not():
    assert not any(valid(made_with(lambda ids, scores: scores, emag.CFG(1.7))))


@libraries
@pytest.mark.parametrize("space", ["logp", "logits"])
def test_a_mask_behind_guidance_is_the_mask_of_guidance(library, space):
    made = made_with(mask_of(library), emag.CFG(1.7), given={"space": space}, do_sample=False, count=4)
    for row in range(2):
        prompt, tokens = decoded(model(), prompts("ab 1", "xyz"), made, row)
        for i, scores in enumerate(made.scores):
            allowed = scores[row].isfinite()
            assert 0 < int(allowed.sum()) < 15
            right = by_hand(model(), prompt, NULL, tokens[:i], 1.7)[allowed]
            close(scores[row][allowed].log_softmax(-1), right.log_softmax(-1), atol=1e-4, rtol=1e-4)


@libraries
def test_guidance_then_biases_then_the_mask_then_temperature_then_top_k(library):
    first, b = LETTERS["a"], LETTERS["b"]
    made = made_with(mask_of(library), emag.CFG(1.7), count=1, temperature=0.5, top_k=1, sequence_bias={(b,): 50.0})
    prompt = prompts("ab 1", "xyz")["input_ids"][0]
    guided = by_hand(model(), prompt, NULL, prompt[:0], 1.7)
    # the bias makes b the first; top-k leaves it alone, at what was guided and biased, over the temperature
    assert made.scores[0][0].isfinite().nonzero().tolist() == [[b]]
    close(made.scores[0][0, b], (guided[b] + 50) / 0.5, atol=1e-3, rtol=1e-4)
    # a bias towards what the mask excludes is in vain, however large
    bent = made_with(mask_of(library), emag.CFG(1.7), count=1, sequence_bias={(LETTERS["z"],): 1e4})
    assert set(bent.scores[0][0].isfinite().nonzero().flatten().tolist()) == {first, b}


@libraries
def test_masks_written_into_the_scores_do_not_reach_what_is_kept(library):
    """They write in place. A step without guidance hands on what the model said, and the next one must not see the mask."""
    rule = emag.CFG(emag.Interval(1.7, 0.3, 1.0, "progress"))
    made = made_with(mask_of(library), rule, given={"space": "logits"}, output_logits=True, do_sample=False)
    assert all(valid(made)) and all(logits.isfinite().all() for logits in made.logits)


@pytest.mark.parametrize("library", LIBRARIES[:-1])
@pytest.mark.parametrize("more", [{"num_beams": 2}, {"prompt_lookup_num_tokens": 2}], ids=["beams", "drafts"])
def test_a_mask_that_follows_rows_is_refused_where_they_change(library, more):
    with pytest.raises(emag.Unsupported, match="last token"):
        made_with(mask_of(library), emag.CFG(1.7), do_sample=False, **more)


def test_a_mask_that_reads_its_text_anew_is_right_in_beams():
    assert all(valid(made_with(mask_of("syncode"), emag.CFG(1.7), do_sample=False, num_beams=3)))


@libraries
def test_a_mask_that_has_followed_a_text_is_not_taken_for_another(library):
    mask = mask_of(library)
    made_with(mask, emag.CFG(1.7))
    with pytest.raises(emag.BadValue, match="new one" if library == "xgrammar" else "reset"):
        made_with(mask, emag.CFG(1.7))
    if library != "xgrammar":
        mask.reset()
        assert all(valid(made_with(mask, emag.CFG(1.7))))
