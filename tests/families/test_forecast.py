"""How many text tokens a forecast assumes, value by value: a wrong one makes memory and cost wrong in silence."""

import inspect

import diffusers
import pytest

from emag.families import BACKBONES

USUAL_TEXT = {name: entry.usual_text for name, entry in BACKBONES.items() if entry.usual_text}

PADDED = {"SD3Transformer2DModel": ("StableDiffusion3Pipeline", 1, 77),  # CLIP's beside those of T5
          "AuraFlowTransformer2DModel": ("AuraFlowPipeline", 1, 8),  # register tokens
          "FluxTransformer2DModel": ("FluxPipeline", 1, 0), "ChromaTransformer2DModel": ("ChromaPipeline", 1, 0),
          "Flux2Transformer2DModel": ("Flux2Pipeline", 1, 0), "Lumina2Transformer2DModel": ("Lumina2Pipeline", 1, 0),
          "HiDreamImageTransformer2DModel": ("HiDreamImagePipeline", 3, 0),  # T5's, and Llama's twice
          "CogVideoXTransformer3DModel": ("CogVideoXPipeline", 1, 0), "MochiTransformer3DModel": ("MochiPipeline", 1, 0),
          "HunyuanVideoTransformer3DModel": ("HunyuanVideoPipeline", 1, 0), "BriaTransformer2DModel": ("BriaPipeline", 1, 0),
          "OvisImageTransformer2DModel": ("OvisImagePipeline", 1, 0),
          "CogView3PlusTransformer2DModel": ("CogView3PlusPipeline", 1, 0),
          "MotifVideoTransformer3DModel": ("MotifVideoPipeline", 1, 0)}
"""Pipelines that pad the text: the length they pad to by default, how often it stands there, and what stands beside it."""
OTHERS = {"LongCatImageTransformer2DModel": 512,  # padded to its limit
          "QwenImageTransformer2DModel": 128, "CogView4Transformer2DModel": 128, "ZImageTransformer2DModel": 128,
          "Krea2Transformer2DModel": 512, "HunyuanVideo15Transformer3DModel": 1000 + 256 + 729,  # words, glyphs, an image
          "HunyuanImageTransformer2DModel": 1000 + 128,  # words, glyphs
          "ConsisIDTransformer3DModel": 226,  # padded to its limit; its pipeline is not here without OpenCV
          "EasyAnimateTransformer3DModel": 256,  # padded to its limit
          "PRXTransformer2DModel": 256,  # padded to the limit of its tokenizer
          "ErnieImageTransformer2DModel": 128, "NucleusMoEImageTransformer2DModel": 128,
          "QwenImage21Transformer2DModel": 128, "OmniGenTransformer2DModel": 128,
          "Cosmos3OmniTransformer": 256}  # words, and what is said of size and length


@pytest.mark.parametrize("name", PADDED)
def test_padded_text_is_as_long_as_the_pipeline_pads_it(name):
    pipeline, times, beside = PADDED[name]
    length = inspect.signature(getattr(diffusers, pipeline).__call__).parameters["max_sequence_length"].default
    assert USUAL_TEXT[name] == times * length + beside


def test_the_text_of_all_others():
    assert {name: count for name, count in USUAL_TEXT.items() if name not in PADDED} == OTHERS
    assert set(USUAL_TEXT) <= set(BACKBONES)
