"""A small pipeline of Cosmos 3, as in `small`."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import Cosmos3OmniPipeline, Cosmos3OmniTransformer, UniPCMultistepScheduler

from .small import Case, awaken, generators, quiet
from .small_video import Video
from .small_wan import wan_vae

WORDS = 40


class Tokenizer:
    """A stand-in: a word a letter, and a few more for the roles of a conversation."""

    eos_token_id = 1

    def convert_tokens_to_ids(self, token: str) -> int:
        """The mark at which a picture begins."""
        return 2

    def apply_chat_template(self, conversations: list[dict[str, str]], **more: Any) -> Any:
        """The letters of what is said."""
        said = "".join(one["content"] for one in conversations)
        return SimpleNamespace(input_ids=[3 + ord(letter) % (WORDS - 3) for letter in said])


class Omni(Video):
    """A case whose pipeline makes one video a call, and says so."""

    def run(self, pipe: Any, seeds: tuple[int, ...] = (8,), **more: Any) -> torch.Tensor:
        return pipe(**self.call(seeds, **more)).video


def cosmos3(layers: int = 3, seed: int = 0) -> Any:
    torch.manual_seed(0)
    net = Cosmos3OmniTransformer(
        head_dim=12, hidden_size=24, intermediate_size=32, latent_channel=4, num_attention_heads=2, num_hidden_layers=layers,
        num_key_value_heads=1, patch_latent_dim=16, vocab_size=WORDS, rope_axes_dim=(2, 2, 2))
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return quiet(Cosmos3OmniPipeline(
        transformer=awaken(net, seed), text_tokenizer=Tokenizer(), vae=wan_vae(), scheduler=scheduler,
        enable_safety_checker=False))


def cosmos3_call(seeds: tuple[int, ...] = (8,), **more: Any) -> dict[str, Any]:
    """One video, of the last of the seeds."""
    plain = {"use_system_prompt": False, "add_resolution_template": False, "add_duration_template": False}
    return {"prompt": f"ab{seeds[-1]}", "negative_prompt": "cde", "generator": generators(seeds[-1:])[0], "height": 40,
            "width": 64, "num_frames": 5, "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent",
            **plain, **more}


MORE: dict[str, Case] = {"cosmos3": Omni("cosmos3", cosmos3, cosmos3_call, True)}
