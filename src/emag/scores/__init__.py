"""Ready scores: functions of images [batch, 3, height, width] in [0, 1] that give one number for each, higher is better.

By name: NAME:WHAT, or NAME@MODEL:WHAT where the model can be chosen: "classifier:frog", "clip:a red fox",
"clip@openai/clip-vit-base-patch32:a red fox", "edges-of:photo.png", "frames:0+8:colour:0.9:0.1:0.1".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..core import Score
from ..errors import BadValue
from ..models.judges import CLIP
from ..near import choices
from .calibrated import Calibrated, softened
from .classes import OfClass, classes
from .films import OfFrames
from .judged import HPS, AestheticScore, ClipScore, ImageRewardScore, PickScore
from .plain import Colour, Distance, Edges, edges
from .references import LOOKS, Alike, Perceptual, colours, read_reference

__all__ = [
    "HPS",
    "NAMED",
    "AestheticScore",
    "Alike",
    "Calibrated",
    "ClipScore",
    "Colour",
    "Distance",
    "Edges",
    "ImageRewardScore",
    "OfClass",
    "OfFrames",
    "Perceptual",
    "PickScore",
    "classes",
    "colours",
    "edges",
    "named",
    "softened",
]


@dataclass(frozen=True)
class Named:
    """A score that a text can say in full. make: (what is behind the colon, the model or None) -> the score."""

    make: Callable[[str, str | None], Score]
    what: str
    example: str
    model: str = ""  # what a model is, where one can be named


def _colour(text: str) -> Score:
    parts = text.split(":")
    if len(parts) != 3:
        raise BadValue(f"a colour is red:green:blue, each in [0, 1], e.g. colour:0.9:0.1:0.1, got {text!r}")
    return Colour(*map(_number, parts))


def _frames(text: str) -> Score:
    numbers, _, score = text.partition(":")
    try:
        places = tuple(int(number) for number in numbers.split("+"))
    except ValueError:
        raise BadValue(f"frames are numbers and a score, e.g. frames:0+8:colour:0.9:0.1:0.1, got {text!r}") from None
    return OfFrames(named(score), places)


def _aesthetic(text: str, model: str | None) -> Score:
    if text:
        raise BadValue(f"the aesthetic score reads no text, got {text!r}: say aesthetic")
    return AestheticScore(model) if model else AestheticScore()


def _temperatures(text: str | None) -> tuple[float, float]:
    parts = (text or "1+1").split("+")
    if len(parts) != 2:
        raise BadValue(f"the temperatures of a classifier are t1+t2, e.g. classifier@1+0.5:frog, got {text!r}")
    return _number(parts[0]), _number(parts[1])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadValue(f"{text!r} is no number") from None


def _alike(name: str, text: str, model: str | None) -> Score:
    return Alike(read_reference(text), LOOKS[name])


NAMED: dict[str, Named] = {
    "classifier": Named(lambda text, temperatures: OfClass(text, _temperatures(temperatures)),
                        "log probability of a class, by the embedded classifier", "classifier:frog",
                        "EluCD's two temperatures t1+t2, such as classifier@1+0.5:frog"),
    "colour": Named(lambda text, _: _colour(text), "a mean colour, red:green:blue", "colour:0.9:0.1:0.1"),
    "edges": Named(lambda text, _: Edges(_number(text)) if text else Edges(), "an amount of edges, 0 is flat", "edges:0.1"),
    "clip": Named(lambda text, model: ClipScore(text, model) if model else ClipScore(text), "CLIP's cosine to a text",
                  "clip:a red fox", "a folder or hub id of a CLIPModel"),
    "clip-logit": Named(lambda text, model: ClipScore(text, model or CLIP, None, True),
                        "CLIP's cosine to a text times its own scale, about 100: GLIDE's", "clip-logit:a red fox",
                        "a folder or hub id of a CLIPModel"),
    "pickscore": Named(lambda text, model: PickScore(text, model, None) if model else PickScore(text),
                       "PickScore of a prompt", "pickscore:a red fox", "a folder or hub id of a CLIPModel"),
    "hps": Named(lambda text, version: HPS(text, version) if version else HPS(text), "HPS v2.1 of a prompt",
                 "hps@2.0:a red fox", "the version, 2.0 or 2.1"),
    "imagereward": Named(lambda text, _: ImageRewardScore(text), "ImageReward of a prompt", "imagereward:a red fox"),
    "aesthetic": Named(_aesthetic, "the LAION aesthetic score", "aesthetic", "a folder or hub id of a CLIPModel"),
    "lpips": Named(lambda text, _: Perceptual(read_reference(text)), "LPIPS near 0 to an image file", "lpips:photo.png"),
    **{name: Named(partial(_alike, name), f"the {name.removesuffix('-of')} of an image file", f"{name}:photo.png")
       for name in LOOKS},
    "frames": Named(lambda text, _: _frames(text), "another score, of some frames of a video",
                    "frames:0+8:colour:0.9:0.1:0.1"),
}
"""Scores that a text can say in full, by the name they begin with."""


def named(text: str) -> Score:
    """The score that a text says: "classifier:frog", "colour:0.9:0.1:0.1", "clip@FOLDER:a red fox". Raises `BadValue`."""
    head, _, rest = text.partition(":")
    name, at, model = head.partition("@")
    if name not in NAMED:
        near = f"did you mean classifier:{text}" if text in classes() else choices(name, NAMED, "by name there are")
        raise BadValue(f"there is no score {text!r}; {near}; others are given as scores={{'mine': a function}}")
    if at and not (model and NAMED[name].model):
        raise BadValue(f"the score {name} has no model to choose, got {head!r}; an example is {NAMED[name].example}")
    return NAMED[name].make(rest, model or None)
