"""Texts and images that pipelines of diffusers fill in: LLaDA2's, with ModernBERT in the place of its model, and Amused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .... import tokens
from ....core import Rule
from ..digits import DIGITS, LENGTH, WORDS
from .host import Kind, Sampled
from .languages import COLOURS, NAMELESS, SIDE, SLOWLY, STRIPES_OR_NONE, WAYS
from .written import TEXTS, opened

MASK = len(WORDS)
TEXT_STEPS, IMAGE_STEPS = 8, 16
"""Tokens of a text are filled in two at a step, those of an image four on average."""


def modern_bert() -> Any:
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    return ModernBertForMaskedLM(ModernBertConfig(
        vocab_size=len(WORDS) + 1, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, global_attn_every_n_layers=1, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        cls_token_id=1, sep_token_id=2, attn_implementation="sdpa"))


def masked_words(prompts: torch.Tensor) -> torch.Tensor:
    """Prompts as words, [count, 1]; the one that names nothing is a mask, as LLaDA's null reads it."""
    return torch.where(prompts[:, None] == NAMELESS, MASK, TEXTS.ids(prompts))


def text_loss(model: Any, prompts: torch.Tensor, digits: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Of masked digits, of which each text has another share."""
    hidden = torch.rand(digits.shape, generator=random) < torch.rand(len(digits), 1, generator=random)**2
    hidden[torch.arange(len(digits)), torch.randint(LENGTH, (len(digits),), generator=random)] = True
    ids = digits + DIGITS[0]
    logits = model(torch.cat([masked_words(prompts), ids.masked_fill(hidden, MASK)], dim=1)).logits[:, 1:]
    return torch.nn.functional.cross_entropy(logits[hidden], ids[hidden])


def write(model: Any, rules: Sequence[Rule], prompts: torch.Tensor, seed: int) -> Sampled:
    """Texts of 16 digits in one block, at each step the two that the model is surest of; away from a masked prompt."""
    from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

    pipe = LLaDA2Pipeline(model=model, scheduler=BlockRefinementScheduler(), tokenizer=None)
    call = {"input_ids": TEXTS.ids(prompts), "gen_length": LENGTH, "block_length": LENGTH + 1,
            "num_inference_steps": TEXT_STEPS, "temperature": 1.0, "threshold": 1.5, "editing_threshold": None,
            "eos_early_stop": False, "mask_token_id": MASK}
    made, passes = _filled(pipe, rules, seed, call | {"output_type": "seq"})
    return Sampled(made.sequences - DIGITS[0], passes, TEXT_STEPS if rules else 0)


def _filled(pipe: Any, rules: Sequence[Rule], seed: int, call: dict[str, Any]) -> tuple[Any, int]:
    """What a pipeline gives, and how many passes its null took."""
    pipe.set_progress_bar_config(disable=True)
    call = {**call, "generator": torch.Generator().manual_seed(seed)}
    if not rules:
        return pipe(**call), 0
    with tokens.filled(pipe, *rules) as run:
        return pipe(**call), run.passes - run.steps


class Amused(torch.nn.Module):
    """Amused's network and the words it reads: a pipeline without the codec, which is not trained here."""

    def __init__(self, network: Any, words: Any):
        super().__init__()
        self.network, self.words = network, words

    def save_pretrained(self, folder: Path) -> None:
        """Both in folders of their own."""
        self.network.save_pretrained(Path(folder) / "transformer")
        self.words.save_pretrained(Path(folder) / "text_encoder")


END = len(WAYS) + 1
"""The word behind a prompt, whose state speaks for it; before it the ways of stripes and none."""
MASKED_COLOUR = COLOURS


def amused() -> Amused:
    from diffusers import UVit2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    network = UVit2DModel(
        hidden_size=32, cond_embed_dim=32, micro_cond_encode_dim=2, micro_cond_embed_dim=10, encoder_hidden_size=32,
        vocab_size=COLOURS + 1, codebook_size=COLOURS, in_channels=32, block_out_channels=32, num_res_blocks=1,
        block_num_heads=2, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, sample_size=SIDE)
    words = CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=END + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=32, max_position_embeddings=2, bos_token_id=0, eos_token_id=END, pad_token_id=END))
    return Amused(network, words)


def read(model: Amused, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What Amused's pipeline gives its network beside the tokens: states of the prompt, and the size of the image."""
    said = model.words(ids, return_dict=True, output_hidden_states=True)
    size = torch.tensor([[SIDE, SIDE, 0, 0, 6]], dtype=torch.float32).expand(len(ids), -1)
    return {"encoder_hidden_states": said.hidden_states[-2], "pooled_text_emb": said.text_embeds, "micro_conds": size}


def image_loss(model: Amused, prompts: torch.Tensor, image: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Of masked tokens, whose share is that of the schedule by which they will be filled in."""
    share = torch.cos(torch.rand(len(image), 1, generator=random) * torch.pi / 2)
    hidden = torch.rand(image.shape, generator=random) < share
    hidden[:, 0] |= ~hidden.any(1)
    given = read(model, torch.stack([prompts, torch.full_like(prompts, END)], dim=1))
    grid = image.masked_fill(hidden, MASKED_COLOUR).view(-1, SIDE, SIDE)
    logits = model.network(grid, **given).flatten(2).mT
    return torch.nn.functional.cross_entropy(logits[hidden], image[hidden])


def draw(model: Amused, rules: Sequence[Rule], prompts: torch.Tensor, seed: int) -> Sampled:
    """Images of 8 x 8 tokens, away from the prompt that names no way."""
    from diffusers import AmusedPipeline, AmusedScheduler, VQModel

    codec = VQModel(act_fn="silu", block_out_channels=[8], down_block_types=["DownEncoderBlock2D"], norm_num_groups=4,
                    latent_channels=8, layers_per_block=1, num_vq_embeddings=COLOURS, sample_size=SIDE,
                    up_block_types=["UpDecoderBlock2D"], mid_block_add_attention=False, lookup_from_codebook=True)
    pipe = AmusedPipeline(vqvae=codec.eval(), tokenizer=None, text_encoder=model.words, transformer=model.network,
                          scheduler=AmusedScheduler(mask_token_id=MASKED_COLOUR))
    pipe.tokenizer = Ways()
    call = {"prompt": [str(number) for number in prompts.tolist()], "negative_prompt": [str(len(WAYS))] * len(prompts),
            "num_inference_steps": IMAGE_STEPS, "temperature": (1, 0), "output_type": "latent"}
    made, passes = _filled(pipe, rules, seed, call if rules else {**call, "guidance_scale": 1.0})
    return Sampled(made.images.flatten(1), passes, IMAGE_STEPS if rules else 0)


class Ways:
    """A tokenizer of numbers of prompts, as far as Amused asks."""

    model_max_length = 2

    def __call__(self, texts: Sequence[str], **given: Any) -> Any:
        return type("Ids", (), {"input_ids": torch.tensor([[int(text), END] for text in texts])})()


def opened_amused(folder: Any) -> Amused:
    from diffusers import UVit2DModel

    network = UVit2DModel.from_pretrained(Path(folder) / "transformer", use_safetensors=True)
    return Amused(network, opened("CLIPTextModelWithProjection")(Path(folder) / "text_encoder")).eval()


KINDS = (
    Kind("masked", "ModernBERT in diffusers' LLaDA2 pipeline: counting texts, by 1, 2 and 3", SLOWLY, modern_bert, text_loss,
         write, opened("ModernBertForMaskedLM"), 2500, 2e-3),
    Kind("masked-image", "Amused: striped images", STRIPES_OR_NONE, amused, image_loss, draw, opened_amused, 500, batch=32),
)
