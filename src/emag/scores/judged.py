"""Scores by published networks: CLIP, PickScore, HPS, ImageReward and the aesthetic score, with gradients.

The networks and numbers are those of the metrics of the same names (`emag metrics`), where the image is scaled_to by floats
with gradients, bicubic with antialias, in the place of PIL's bytes. Weights are loaded as the score is made, once for all
scores of that network, so that what is missing is said before a run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch.nn import functional

from ..errors import BadValue
from ..models.judges import (
    CLIP,
    CLIP_MEAN,
    CLIP_STD,
    CLIP_WORDS,
    HPS_SIZE,
    PICKSCORE,
    PICKSCORE_WORDS,
    REWARD_WORDS,
    load_aesthetic,
    load_clip,
    load_hps,
    load_imagereward,
    reward,
)

Texts = str | Sequence[str]
"""A text for all images, or one for each."""


@dataclass(frozen=True, eq=False)
class ClipScore:
    """The cosine of CLIP's embeddings of image and text, in [-1, 1]; times the model's own scale, about 100, if `scaled`.

    text: one for all images, or one each; cut at 77 tokens. model: a folder or hub id of a `CLIPModel`; tokenizer: likewise,
    None is the model's own. The shorter side is brought to the model's size, and the middle square is seen: with `augment`
    of `energy` other parts are, too.
    """

    text: Texts
    model: str = CLIP
    tokenizer: str | None = None
    scaled: bool = False

    name: ClassVar[str] = "clip"

    def __post_init__(self) -> None:
        _check_text(self.name, self.text)
        _clip(self.model, self.tokenizer)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        net, tokenizer = _on(images, _clip(self.model, self.tokenizer))
        words = tokenizer(_each(self.text, images), padding=True, truncation=True, max_length=CLIP_WORDS,
                          return_tensors="pt")
        text = net.get_text_features(**words.to(images.device)).pooler_output.float()
        found = torch.cosine_similarity(embedded(net, images), text)
        return found * net.logit_scale.exp() if self.scaled else found


@dataclass(frozen=True, eq=False)
class PickScore(ClipScore):
    """PickScore: CLIP-H fine-tuned on what people chose, the cosine times its own scale, about 100."""

    model: str = PICKSCORE
    tokenizer: str | None = PICKSCORE_WORDS
    scaled: bool = True

    name = "pickscore"


@dataclass(frozen=True, eq=False)
class HPS:
    """HPS v2: the cosine of image and text in open_clip's ViT-H-14 fine-tuned on human choices, in [-1, 1].

    text: one for all images, or one each. version: "2.0" or "2.1". The longer side is brought to 224, zeros around.
    """

    text: Texts
    version: str = "2.1"

    name: ClassVar[str] = "hps"

    def __post_init__(self) -> None:
        _check_text(self.name, self.text)
        _hps(self.version)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        net, tokenizer = _on(images, _hps(self.version))
        image = net.encode_image(normalised(padded(images, HPS_SIZE)))
        text = net.encode_text(tokenizer(_each(self.text, images)).to(images.device))
        return torch.cosine_similarity(image.float(), text.float())


@dataclass(frozen=True, eq=False)
class ImageRewardScore:
    """ImageReward v1.0: BLIP reading image and text, about -2 to 2. text: one for all images, or one each; 35 tokens."""

    text: Texts

    name: ClassVar[str] = "imagereward"

    def __post_init__(self) -> None:
        _check_text(self.name, self.text)
        _imagereward()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        net, tokenizer = _on(images, _imagereward())
        words = tokenizer(_each(self.text, images), padding="max_length", truncation=True, max_length=REWARD_WORDS,
                          return_tensors="pt")
        pixels = normalised(cropped(images, net["vision"].config.image_size))
        return reward(net, pixels, words.to(images.device))


@dataclass(frozen=True, eq=False)
class AestheticScore:
    """The LAION aesthetic score, about 1 to 10: a head on CLIP ViT-L/14's image embedding. It reads no text.

    model: a folder or hub id of that `CLIPModel`.
    """

    model: str = CLIP
    width: int = field(init=False)

    name: ClassVar[str] = "aesthetic"

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", _clip(self.model, None)[0].config.projection_dim)
        _aesthetic(self.width)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        (net, _), (head, _) = _on(images, _clip(self.model, None)), _on(images, _aesthetic(self.width))
        return head(functional.normalize(embedded(net, images), dim=1))[:, 0]


def embedded(net: Any, images: torch.Tensor) -> torch.Tensor:
    """CLIP's image embeddings [batch, width] of images [batch, 3, height, width] in [0, 1]."""
    pixels = normalised(cropped(images, net.config.vision_config.image_size))
    return net.get_image_features(pixel_values=pixels.to(net.dtype)).pooler_output.float()


def cropped(images: torch.Tensor, size: int) -> torch.Tensor:
    """The shorter side brought to `size`, the middle square: [batch, 3, size, size]; differentiable."""
    height, width = images.shape[-2:]
    short = min(height, width)
    sides = [size if side == short else int(size * side / short) for side in (height, width)]
    top, left = ((side - size) // 2 for side in sides)
    return scaled_to(images, sides)[..., top:top + size, left:left + size]


def padded(images: torch.Tensor, size: int) -> torch.Tensor:
    """The longer side brought to `size`, zeros around: [batch, 3, size, size]; differentiable."""
    height, width = (round(side * size / max(images.shape[-2:])) for side in images.shape[-2:])
    above, left = (size - height) // 2, (size - width) // 2
    return functional.pad(scaled_to(images, [height, width]), (left, size - width - left, above, size - height - above))


def scaled_to(images: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """Images [batch, 3, height, width] at other sides, bicubic with antialias; differentiable."""
    images = images.float()
    if list(images.shape[-2:]) == list(sides):
        return images
    return functional.interpolate(images, list(sides), mode="bicubic", antialias=True, align_corners=False)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """(x - mean) / std per channel, as CLIP and its relatives read images."""
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def _check_text(name: str, text: Texts) -> None:
    texts = [text] if isinstance(text, str) else list(text)
    if not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise BadValue(f"the score {name} reads a text, e.g. {name}:a red fox, got {text!r}")


def _each(text: Texts, images: torch.Tensor) -> list[str]:
    texts = [text] * len(images) if isinstance(text, str) else list(text)
    if len(texts) != len(images):
        raise BadValue(f"a score has {len(texts)} texts for {len(images)} images: give one for all, or one each")
    return texts


def _loader(load: Callable[..., Any]) -> Callable[..., Any]:
    """`load`, once for each argument, its networks without gradients of their own. Weights made under inference mode take
    part in no gradient, so it is off."""
    @lru_cache(maxsize=2)
    def loaded(*args: Any) -> Any:
        # first weights, which are replaced, are not drawn from the user's generator
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            net, words = load(*args)
        return net.requires_grad_(False), words

    return loaded


_clip, _hps = _loader(lambda *args: load_clip(*args)), _loader(lambda *args: load_hps(*args))
_imagereward = _loader(lambda: load_imagereward())
_aesthetic = _loader(lambda width: (load_aesthetic(width), None))


def _on(images: torch.Tensor, loaded: tuple[Any, Any]) -> tuple[Any, Any]:
    """A network on the device of the images, where it stays, and its tokenizer."""
    net, tokenizer = loaded
    return net.to(images.device), tokenizer
