"""Small Kolors pipelines, as in `small`, where the package that diffusers asks for is here."""

from typing import Any

import diffusers
from diffusers.utils import is_sentencepiece_available

from .small import Case, quiet
from .small_pag import MIDDLE, off
from .small_separate import from_image
from .small_unet import ddim, deep_vae, sdxl_call, unet_xl

POOLED = 10
"""Width of what is pooled of the text."""
HERE = is_sentencepiece_available()


def kolors(name: str = "KolorsPipeline", seed: int = 0, **more: Any) -> Any:
    """One pipeline, by its class: without sentencepiece the class is a stand-in that cannot be made."""
    return quiet(getattr(diffusers, name)(vae=deep_vae(), unet=unet_xl(seed), scheduler=ddim(), text_encoder=None,
                                          tokenizer=None, **more))


def from_picture(seed: int = 0) -> Any:
    """The one that begins with a picture; of states that it is given it forgets what was pooled of them."""
    pipe = kolors("KolorsImg2ImgPipeline", seed)
    plain = pipe.encode_prompt

    def encode_prompt(prompt_embeds: Any, negative_prompt_embeds: Any, **more: Any) -> Any:
        pooled = {"pooled_prompt_embeds": prompt_embeds[:, 0, :POOLED],
                  "negative_pooled_prompt_embeds": negative_prompt_embeds[:, 0, :POOLED]}
        return plain(prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_prompt_embeds, **more, **pooled)

    pipe.encode_prompt = encode_prompt
    return pipe


MORE: dict[str, Case] = {case.name: case for case in (
    Case("kolors", kolors, sdxl_call, True),
    Case("kolors-img2img", from_picture, from_image(sdxl_call), True),
    Case("kolors-pag", lambda **kw: kolors("KolorsPAGPipeline", pag_applied_layers=MIDDLE, **kw), off(sdxl_call), True),
)} if HERE else {}
