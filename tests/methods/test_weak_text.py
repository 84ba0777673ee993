"""ERG's text side: prompts encoded at another temperature, and the weak branch under them."""

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

import emag
from emag.errors import BadValue, Unsupported
from emag.hosts.weak_text import weak_text
from emag.methods import METHODS
from spy import Counter, changes, snapshot
from tiny import CASES, awaken, sd3

ERG = METHODS["erg"]
IDS = torch.tensor([[3, 9, 4, 7, 2]])


@torch.no_grad()
def with_encoder(kind):
    """A tiny SD3 whose prompts go through a real text encoder of `transformers`."""
    pipe = sd3()
    if kind == "t5":
        encoder = T5EncoderModel(T5Config(vocab_size=20, d_model=12, d_kv=6, d_ff=16, num_layers=4, num_heads=2))
    else:
        encoder = CLIPTextModel(CLIPTextConfig(
            vocab_size=20, hidden_size=12, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
            max_position_embeddings=8, bos_token_id=1, eos_token_id=2))
    pipe.register_modules(text_encoder=awaken(encoder))

    original = pipe.encode_prompt

    @torch.no_grad()
    def encode_prompt(texts=None, *unused, **more):
        if texts is None:
            return original(**more)
        states = torch.cat([pipe.text_encoder(IDS + len(text) % 3).last_hidden_state for text in texts])
        return states, None, states.mean(1)[:, :10], None

    pipe.encode_prompt = encode_prompt
    return pipe


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_temperature_one_is_the_plain_encoding_and_others_are_not(kind):
    pipe = with_encoder(kind)
    before = snapshot(pipe), {name: vars(module).copy() for name, module in pipe.text_encoder.named_modules()}
    plain = pipe.encode_prompt(["a horse"])[0]
    assert torch.equal(weak_text(pipe, "a horse", 1.0)["encoder_hidden_states"], plain)
    weak = weak_text(pipe, "a horse", 0.01)["encoder_hidden_states"]
    assert not torch.allclose(weak, plain, atol=1e-3)
    assert not torch.allclose(weak_text(pipe, "a horse", 0.01, layers=(0,))["encoder_hidden_states"], weak, atol=1e-3)
    assert torch.equal(pipe.encode_prompt(["a horse"])[0], plain) and changes(before[0], snapshot(pipe)) == []
    assert all(vars(module) == before[1][name] for name, module in pipe.text_encoder.named_modules())


def test_flat_attention_is_the_mean_of_the_values():
    """CLIP's causal attention at tau -> 0: each token gets the mean of the values up to it."""
    pipe = with_encoder("clip")
    layer, seen = pipe.text_encoder.encoder.layers[1].self_attn if hasattr(pipe.text_encoder, "encoder") \
        else pipe.text_encoder.text_model.encoder.layers[1].self_attn, {}
    layer.v_proj.register_forward_hook(lambda _, args, out: seen.__setitem__("v", out))
    layer.out_proj.register_forward_pre_hook(lambda _, args: seen.__setitem__("out", args[0]))
    weak_text(pipe, "x", 1e-9, layers=(1,))
    count = torch.arange(1, 6).view(1, 5, 1)
    torch.testing.assert_close(seen["out"], seen["v"].cumsum(1) / count, atol=1e-5, rtol=1e-4)


def test_erg_under_the_weak_text():
    """At every step under the weak text, with the image side from the kick-off on; no unconditional evaluation."""
    pipe, case = with_encoder("t5"), CASES["sd3"]
    counter, before = Counter(pipe.transformer, "attn"), 0
    weak = weak_text(pipe, "a horse", 0.01)
    made = {}
    for name, rule in {"image": ERG((1,), kickoff=0.5, early="cond"), "both": ERG((2,), kickoff=0.5, text="weak"),
                       "text": ERG((1,), kickoff=1.0, text="weak")}.items():
        with emag.guide(pipe, rule, emag.CFG(3.0), conditions={"weak": weak}) as run:
            made[name] = case.run(pipe)
        counted, before = sum(counter.blocks.values()) // 2 - before, sum(counter.blocks.values()) // 2
        assert run.stats.evaluations == run.stats.planned == counted
    assert run.stats.evaluations == 8 * 2 * 4
    assert all(not torch.allclose(made[a], made[b], atol=1e-3) for a, b in (("image", "both"), ("both", "text")))
    with emag.guide(pipe, METHODS["icg"]("given", ("weak",)), emag.CFG(3.0), conditions={"weak": weak}):
        assert torch.equal(case.run(pipe), made["text"])


def test_what_cannot_be_is_refused():
    with pytest.raises(Unsupported, match="no text encoder"):
        weak_text(sd3(), "a horse")
    with pytest.raises(BadValue, match="tau"):
        weak_text(with_encoder("t5"), "a horse", 0.0)
    with pytest.raises(BadValue, match="layers"):
        weak_text(with_encoder("t5"), "a horse", layers=(9,))
