"""Pipelines of diffusers that fill in masked tokens: Amused as by its own guidance, LLaDA2 as by the definition."""

import functools

import pytest
import torch
from diffusers import (
    AmusedImg2ImgPipeline,
    AmusedInpaintPipeline,
    AmusedPipeline,
    AmusedScheduler,
    BlockRefinementScheduler,
    LLaDA2Pipeline,
    UVit2DModel,
    VQModel,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import emag
from emag.maths.logits import remask

CODES, MASK = 13, 22
close = torch.testing.assert_close


class Words:
    """A tokenizer of letters, as far as Amused asks."""

    model_max_length = 6

    def __call__(self, texts, **_):
        rows = [[1, *(2 + ord(letter) % 20 for letter in text)][:6] for text in texts]
        ids = torch.tensor([row + [0] * (6 - len(row)) for row in rows])
        return type("Ids", (), {"input_ids": ids})()


@functools.cache
def parts():
    torch.manual_seed(0)
    network = UVit2DModel(
        hidden_size=16, cond_embed_dim=16, micro_cond_encode_dim=2, micro_cond_embed_dim=10, encoder_hidden_size=16,
        vocab_size=16, codebook_size=CODES, in_channels=16, block_out_channels=16, num_res_blocks=1, block_num_heads=2,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, sample_size=4).eval()
    words = CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=24, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, projection_dim=16,
        max_position_embeddings=6, bos_token_id=1, eos_token_id=0)).eval()
    for made in (network, words):
        for weight in made.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
    codes = VQModel(act_fn="silu", block_out_channels=[8], down_block_types=["DownEncoderBlock2D"], in_channels=3,
                    latent_channels=8, layers_per_block=1, norm_num_groups=4, num_vq_embeddings=CODES, out_channels=3,
                    sample_size=4, up_block_types=["UpDecoderBlock2D"], mid_block_add_attention=False,
                    lookup_from_codebook=True).eval()
    return {"vqvae": codes, "tokenizer": None, "text_encoder": words, "transformer": network,
            "scheduler": AmusedScheduler(mask_token_id=15)}


def amused(kind=AmusedPipeline):
    made = kind(**parts())
    made.tokenizer = Words()
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe, **more):
    more = {"prompt": ["ship", "frog"], "negative_prompt": ["bad", "bad"], "num_inference_steps": 6, "output_type": "latent",
            "generator": torch.Generator().manual_seed(3), "guidance_scale": 5.0, **more}
    return pipe(**more, return_dict=False)[0] if more["output_type"] != "latent" else pipe(**more).images


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_amused_is_guided_as_by_itself(scale):
    pipe = amused()
    theirs = draw(pipe, guidance_scale=scale)
    with emag.tokens.filled(pipe, emag.CFG(scale)) as run:
        ours = draw(pipe)
    assert torch.equal(ours, theirs) and run.steps == 6 and run.passes == 12
    assert not torch.equal(ours, draw(pipe, guidance_scale=1.0)) and type(pipe) is AmusedPipeline
    assert "forward" not in pipe.transformer.__dict__ and torch.equal(draw(pipe, guidance_scale=scale), theirs)


def test_an_image_of_tokens_is_filled_in_again():
    pipe, image = amused(AmusedImg2ImgPipeline), torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    theirs = draw(pipe, image=image, guidance_scale=4.0)
    with emag.tokens.filled(pipe, emag.CFG(4.0)):
        assert torch.equal(draw(pipe, image=image), theirs)


def test_a_part_of_an_image_of_tokens_is_filled_in_again():
    pipe, random = amused(AmusedInpaintPipeline), torch.Generator().manual_seed(0)
    image, hole = torch.rand(2, 3, 4, 4, generator=random), torch.zeros(2, 1, 4, 4)
    hole[..., 2:] = 1
    given = {"image": image, "mask_image": hole, "strength": 1.0}
    theirs = draw(pipe, guidance_scale=4.0, **given)
    with emag.tokens.filled(pipe, emag.CFG(4.0)) as run:
        assert torch.equal(draw(pipe, **given), theirs)
    with emag.tokens.filled(pipe, emag.tokens.MTI(4.0, threshold=-1.0)):
        assert torch.equal(draw(pipe, **given), theirs)
    plain = draw(pipe, guidance_scale=1.0, **given)
    assert not torch.equal(plain, theirs) and torch.equal(plain[..., :2], theirs[..., :2]) and run.passes == 2 * run.steps


def test_codes_that_the_model_is_unsure_of_are_guided_and_a_null_that_agrees_is_spared():
    pipe, passes = amused(), {}
    for threshold in (-1.0, 1.5, 10.0):  # log 13 is 2.6 nats
        with emag.tokens.filled(pipe, emag.tokens.MTI(4.0, threshold=threshold)) as run:
            made = draw(pipe)
        passes[threshold] = run.passes
        if threshold != 1.5:
            assert torch.equal(made, draw(pipe, guidance_scale=4.0 if threshold < 0 else 1.0))
    assert passes == {-1.0: 12, 1.5: passes[1.5], 10.0: 6} and 6 < passes[1.5] <= 12
    with emag.tokens.filled(pipe, emag.AG(-0.99, on="logp"), emag.CFG(4.0)) as run:
        once = draw(pipe)
    with emag.tokens.filled(pipe, emag.CFG(emag.Interval(4.0, 0.0, 0.1, "progress"))) as first:
        assert torch.equal(draw(pipe), once) and first.passes == run.passes == 7


def test_steps_at_1_take_no_null_and_a_scale_of_1_is_the_prompt_alone():
    pipe = amused()
    with emag.tokens.filled(pipe, emag.CFG(emag.Interval(4.0, 0.5, 1.0, "progress"))) as run:
        draw(pipe)
    assert run.steps == 6 and run.passes == 9
    with emag.tokens.filled(pipe, emag.CFG(1.0)) as run:
        made = draw(pipe)
    assert torch.equal(made, draw(pipe, guidance_scale=1.0)) and run.passes == 6


def test_amused_without_a_null_is_refused():
    pipe = amused()
    with emag.tokens.filled(pipe, emag.CFG(4.0)):
        with pytest.raises(emag.BadValue, match="leave it out"):
            draw(pipe, guidance_scale=1.0)
        with pytest.raises(emag.NoEffect, match="uncond"):
            draw(pipe, negative_prompt=["ship", "frog"])
        with pytest.raises(emag.Busy):
            emag.tokens.filled(pipe, emag.CFG(2.0))
    assert type(pipe) is AmusedPipeline
    with pytest.raises(emag.BadValue, match="negative prompt"):
        emag.tokens.filled(pipe, emag.CFG(4.0), share=0.3)
    with pytest.raises(emag.Unsupported, match=r"emag\.tokens\.filled"):
        emag.guide(pipe, emag.CFG(4.0))
    with pytest.raises(emag.Unsupported, match="Amused"):
        emag.tokens.filled(emag.load("tiny"), emag.CFG(4.0))
    with pytest.raises(emag.Unsupported, match="CFG"):
        emag.tokens.filled(pipe, emag.APG(4.0))


@functools.cache
def bert():
    torch.manual_seed(0)
    made = BertForMaskedLM(BertConfig(vocab_size=MASK + 1, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                      intermediate_size=32, max_position_embeddings=32)).eval()
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    return made


class Moe(Qwen3MoeForCausalLM):
    """As LLaDA2's model is called and answers: tokens, a mask of places [batch, length] and their positions; experts, and
    attention to all places. Its own code comes with its weights, and is not run here."""

    def forward(self, input_ids, attention_mask, position_ids):
        seen = attention_mask.bool()[:, None, None].expand(-1, 1, input_ids.shape[1], -1)
        return super().forward(input_ids=input_ids, attention_mask=seen, position_ids=position_ids, use_cache=False)


@functools.cache
def moe():
    torch.manual_seed(0)
    made = Moe(Qwen3MoeConfig(
        vocab_size=MASK + 1, hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2, head_dim=8,
        num_attention_heads=2, num_key_value_heads=1, num_experts=4, num_experts_per_tok=2,
        max_position_embeddings=32)).eval()
    for weight in made.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    return made


PROMPT = torch.tensor([[4, 5, 6], [7, 8, 9]])


def write(pipe, seen, **more):
    """Texts, and what the scheduler was given at each step: (tokens, logits of the block)."""
    plain = pipe.scheduler.step
    pipe.scheduler.step = lambda **given: seen.append((given["sample"].clone(), given["model_output"])) or plain(**given)
    try:
        return pipe(input_ids=PROMPT, gen_length=8, block_length=4, num_inference_steps=4, output_type="seq",
                    eos_token_id=-1, temperature=0.0, mask_token_id=MASK, threshold=1.5, editing_threshold=None,
                    **more).sequences
    finally:
        del pipe.scheduler.step


def llada(model=bert):
    pipe = LLaDA2Pipeline(model=model(), scheduler=BlockRefinementScheduler(), tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("model", "share"), [(bert, None), (bert, 0.5), (moe, None)], ids=["prompt", "half", "experts"])
def test_llada_is_guided_by_the_definition(model, share):
    pipe, seen, calls = llada(model), [], []
    hook = model().register_forward_pre_hook(lambda _, args, more: calls.append((args[0].clone(), more)), with_kwargs=True)
    plain = write(pipe, [])
    calls.clear()
    with emag.tokens.filled(pipe, emag.CFG(2.5), share=share) as run:
        made = write(pipe, seen)
    hook.remove()
    assert run.passes > run.steps == len(seen) and not torch.equal(made, plain)
    for (tokens, kwargs), (block, logits) in zip(calls, seen):  # the module is entered once a step: its forward is ours
        with torch.no_grad():
            c = model()(tokens, **kwargs).logits
            prompt = torch.arange(tokens.shape[1]) < 3
            null = tokens.masked_fill(prompt, MASK) if share is None else remask(tokens, c.softmax(-1), MASK, share, prompt)
            u = model()(null, **kwargs).logits
        assert torch.equal(tokens[:, -4:], block)
        close(logits, (u + 2.5 * (c - u))[:, -4:], atol=1e-4, rtol=1e-4)
        assert kwargs["attention_mask"].shape == kwargs["position_ids"].shape == tokens.shape  # places behind the text are 0
    assert not calls[-1][1]["attention_mask"][:, 11:].any() and type(pipe) is LLaDA2Pipeline
    assert "_prepare_input_ids" not in pipe.__dict__ and torch.equal(write(pipe, []), plain)


def test_llada_is_guided_where_it_is_unsure_and_until_its_null_agrees():
    cfg, found = emag.CFG(2.5), {}
    for name, rules in {"cfg": (cfg,), "all": (emag.tokens.MTI(2.5, threshold=-1.0),),
                        "none": (emag.tokens.MTI(2.5, threshold=10.0),), "ag": (emag.AG(-0.99, on="logp"), cfg)}.items():
        pipe = llada()
        with emag.tokens.filled(pipe, *rules) as run:
            found[name] = (write(pipe, []).tolist(), run.passes - run.steps)
    assert found["all"] == found["cfg"] and found["none"] == (write(llada(), []).tolist(), 0) and found["ag"][1] == 1


def test_what_llada_cannot_be_guided_by_is_refused():
    with pytest.raises(emag.BadValue, match="number of tokens"):
        emag.tokens.filled(llada(), emag.CFG(emag.Curve(2.0)))
    with pytest.raises(emag.BadValue, match="share"):
        emag.tokens.filled(llada(), emag.CFG(2.0), share=2.0)
    with pytest.raises(emag.Unsupported, match="another text"):
        emag.tokens.filled(llada(), emag.AG(0.9, on="logp"), emag.CFG(2.0), share=0.5)
    pipe = llada()
    with pytest.raises(emag.NoEffect, match="text itself"), emag.tokens.filled(pipe, emag.CFG(2.0), share=0.5):
        pipe(input_ids=PROMPT, gen_length=1, block_length=4, num_inference_steps=1, output_type="seq", mask_token_id=MASK,
             eos_token_id=-1, editing_threshold=None)
