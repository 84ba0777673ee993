"""Guidance beside attention processors of others and IP-Adapters."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0, JointAttnProcessor2_0

import emag
from adapters import with_flux_adapter, with_sd3_adapter
from coexisting import EMAG, close, guided
from emag.methods.emag.compat import Compat
from spy import blocks_of, changes, snapshot
from tiny import CASES, noise, sd3

# Attention processors


class Scaled(JointAttnProcessor2_0):
    """A user's processor that takes an argument of its own."""

    seen: list = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, my_scale=1.0, my_rows=None, **kwargs):
        if isinstance(my_rows, (list, tuple)):
            my_rows = my_rows[0]
        if my_rows is not None:
            assert my_rows.shape[0] in (1, hidden_states.shape[0])
            hidden_states = hidden_states + my_rows.view(-1, 1, 1)
        out, text = super().__call__(attn, hidden_states, encoder_hidden_states)
        self.seen.append(my_scale)
        return out * my_scale, text


def scaled():
    pipe = sd3()
    Scaled.seen.clear()
    pipe.transformer.set_attn_processor(Scaled())
    return pipe


def test_arguments_of_custom_processors_arrive_in_every_pass():
    case, pipe = CASES["sd3"], scaled()
    outs = [guided(case, pipe, joint_attention_kwargs={"my_scale": s})[0] for s in (1.0, 0.5)]
    assert torch.equal(outs[0], guided(case, sd3())[0]) and not close(outs[1], outs[0], 1e-2)
    Scaled.seen.clear()
    guided(case, pipe, joint_attention_kwargs={"my_scale": 0.7})
    assert set(Scaled.seen) == {0.7}


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: (x,)], ids=["tensor", "list", "tuple"])
def test_arguments_with_batch_rows_must_be_declared(wrap):
    case, pipe = CASES["sd3"], scaled()
    rows = torch.tensor([0.0, 0.1, 0.2, 0.3])  # two unconditional rows, two conditional ones
    call = {"joint_attention_kwargs": {"my_rows": wrap(rows)}}
    with pytest.raises(emag.Unsupported, match=r"my_rows.*per_row=\('my_rows',\)"):
        guided(case, pipe, EMAG(), **call)
    with emag.guide(pipe, EMAG(), per_row=("my_rows",)):
        together = case.run(pipe, (8, 9), **call)
        alone = [case.run(pipe, (seed,), joint_attention_kwargs={"my_rows": wrap(rows[i::2])})
                 for i, seed in enumerate((8, 9))]
    assert close(together, torch.cat(alone), 1e-4)
    assert not close(together, guided(case, pipe, EMAG())[0], 1e-2)


def test_arguments_without_batch_rows_can_be_declared_shared():
    case, pipe, four = CASES["sd3"], sd3(), torch.ones(4)

    class Four(JointAttnProcessor2_0):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, gains=None, **kwargs):
            assert gains.shape == (4,)
            return super().__call__(attn, hidden_states * gains.mean(), encoder_hidden_states)

    pipe.transformer.set_attn_processor(Four())
    with pytest.raises(emag.Unsupported, match="gains"):
        guided(case, pipe, EMAG(), joint_attention_kwargs={"gains": four})
    with emag.guide(pipe, EMAG(), shared=("gains",)) as run:
        case.run(pipe, joint_attention_kwargs={"gains": four})
    assert run.stats.effect > 0


@pytest.mark.parametrize("variant", ["query", "map"])
def test_sd3_ip_adapter(variant):
    case, pipe = CASES["sd3"], with_sd3_adapter(sd3())
    images = {"ip_adapter_image_embeds": noise(700, 2, 1, 6)}  # one negative, one positive, repeated for each prompt
    plain, before = case.run(pipe, **images), snapshot(pipe)
    with emag.guide(pipe, EMAG(variant=variant)) as run:
        together = case.run(pipe, **images)
        assert run.stats.effect > 0 and run.stats.evaluations == run.stats.planned
        alone = torch.cat([case.run(pipe, (s,), **images) for s in (8, 9)])
        other = case.run(pipe, ip_adapter_image_embeds=noise(701, 2, 1, 6))
    assert not torch.equal(together, plain)
    assert close(together, alone, 1e-4) and not close(together, other, 1e-3)
    assert changes(before, snapshot(pipe), own=False) == []
    with emag.guide(pipe, EMAG(variant=variant, compat=Compat(resume=False))):
        assert close(case.run(pipe, **images), together, 1e-4)


@pytest.mark.parametrize("name", ["flux", "true-cfg"])
def test_flux_ip_adapter(name):
    case, pipe = CASES[name], with_flux_adapter(CASES[name].pipe())
    images = {"ip_adapter_image_embeds": [noise(710, 1, 1, 6)], "negative_ip_adapter_image_embeds": [noise(700, 1, 1, 6)]}
    plain = case.run(pipe, **images)
    with emag.guide(pipe, EMAG(layers=(0, 1, 3))) as run:
        together = case.run(pipe, **images)
        assert run.stats.effect > 0 and run.stats.evaluations == run.stats.planned
        alone = torch.cat([case.run(pipe, (s,), **images) for s in (8, 9)])
    assert not torch.equal(together, plain)
    assert close(together, alone, 1e-4)
    with emag.guide(pipe, EMAG(layers=(0, 1, 3), compat=Compat(resume=False))):
        assert torch.equal(case.run(pipe, **images), together)


class Beside(AttnProcessor2_0):
    """Self-attention with a second call for as many queries, on keys of its own, as adapters make it."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        out = super().__call__(attn, hidden_states, *args, **kwargs)
        keys = noise(5, 1, 2, 3, 8).expand(len(out), -1, -1, -1)
        query = attn.to_q(hidden_states).unflatten(-1, (2, 8)).transpose(1, 2)
        return out + 0.5 * F.scaled_dot_product_attention(query, keys, keys).transpose(1, 2).flatten(2)


def test_a_second_attention_on_other_keys_is_let_through():
    case, pipe = CASES["pixart"], CASES["pixart"].pipe()
    without = guided(case, pipe, EMAG())[0]
    for block in blocks_of(pipe):
        block.attn1.set_processor(Beside())
    out, stats = guided(case, pipe, EMAG())
    assert stats.effect > 0 and not close(out, without, 1e-2)


def test_attention_slicing_is_an_error_that_names_the_processor():
    case, pipe = CASES["pixart"], CASES["pixart"].pipe()
    expected = guided(case, pipe)[0]
    pipe.enable_attention_slicing()
    assert close(guided(case, pipe)[0], expected, 1e-4)
    for block in blocks_of(pipe):
        block.attn1.set_attention_slice(1)
    with pytest.raises(emag.NoEffect, match="SlicedAttnProcessor"):
        guided(case, pipe)
