"""A small OmniGen pipeline, as in `small`."""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, OmniGenPipeline, OmniGenTransformer2DModel
from diffusers.pipelines.omnigen import pipeline_omnigen, processor_omnigen

from .small import Case, awaken, generators, quiet
from .small_unet import deep_vae

WORDS = 40


class Reader:
    """A stand-in for the reader of texts and pictures, which wants torchvision: a word a letter, and no pictures."""

    max_image_size = 1024

    def __init__(self, *given: Any, **more: Any):
        self.collator = processor_omnigen.OmniGenCollator()

    def __call__(self, prompts: list[str], images: Any, height: int, width: int, **more: Any) -> Any:
        texts = [self.read(text) for text in prompts]
        return self.collator([(text, self.read("low quality"), None, [height, width]) for text in texts])

    def read(self, text: str) -> dict[str, Any]:
        """The letters of a text."""
        return {"input_ids": [3 + ord(letter) % (WORDS - 3) for letter in text], "pixel_values": None, "image_sizes": None}


def omnigen(layers: int = 3, seed: int = 0) -> OmniGenPipeline:
    torch.manual_seed(0)
    net = OmniGenTransformer2DModel(
        in_channels=4, hidden_size=24, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32, num_layers=layers,
        pad_token_id=0, vocab_size=WORDS, pos_embed_max_size=16, time_step_dim=16,
        rope_scaling={"short_factor": [1.0] * 6, "long_factor": [1.0] * 6})
    # where torchvision is not here, the pipeline's own reader is not either
    vars(pipeline_omnigen).setdefault("OmniGenMultiModalProcessor", Reader)
    pipe = OmniGenPipeline(transformer=awaken(net, seed), vae=deep_vae(), tokenizer=None,
                           scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1))
    pipe.multimodal_processor = Reader()
    return quiet(pipe)


def omnigen_call(seeds: tuple[int, ...] = (8, 9), **more: Any) -> dict[str, Any]:
    """Texts of one length, a letter of each its seed's."""
    return {"prompt": [f"a picture of {chr(97 + seed)}" for seed in seeds], "generator": generators(seeds), "height": 64,
            "width": 64, "guidance_scale": 4.0, "num_inference_steps": 8, "output_type": "latent", **more}


MORE: dict[str, Case] = {"omnigen": Case("omnigen", omnigen, omnigen_call, True)}
