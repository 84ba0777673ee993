"""A stream of images, each made from one that comes in: several are on their way at once, one at every noise level.

StreamDiffusion, arXiv 2312.12491. Each call of the network evaluates all images on their way, a row each, and each image is
guided by rules with a memory of its own. So a run of N steps costs one call of N rows an image, N - 1 images late.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..core import FiniteFields, Rule
from ..errors import BadValue, Unsupported
from ..maths.predictions import Space, to_x0
from ..samplers.first_order import needy
from ..samplers.path import Path
from .function import Function
from .guided import guided

StreamNetwork = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
"""(x [rows, ...], time of each row [rows], condition) -> prediction shaped as x."""


@dataclass(frozen=True)
class Similar(FiniteFields):
    """StreamDiffusion's similarity filter, arXiv 2312.12491: an image like the one before is left out by chance.

    Left out with probability max(0, (S - threshold) / (1 - threshold)), S the cosine of the image and the last one taken.
    threshold: in [-1, 1); 0.98 is the authors'. longest: most images in a row that are left out; 10 is the authors'.
    """

    threshold: float = 0.98
    longest: int = 10

    def __post_init__(self) -> None:
        if not -1 <= self.threshold < 1 or self.longest < 0:
            raise BadValue("a similarity filter needs a threshold in [-1, 1) and longest of at least 0, got "
                           f"{self.threshold} and {self.longest}")

    def chance(self, image: torch.Tensor, last: torch.Tensor) -> float:
        """The probability that `image` is left out after `last`; of a batch, that of the least similar pair."""
        cosine = torch.cosine_similarity(image.flatten(1).double(), last.flatten(1).double()).min().item()
        return max(0.0, (cosine - self.threshold) / (1 - self.threshold))


@dataclass
class _Image:
    """One image on its way: its run, where it is, and what the network says of it by condition."""

    model: Function
    x: torch.Tensor
    level: int = 0
    answers: dict[str, torch.Tensor] = field(default_factory=dict)


class Stream:
    """StreamDiffusion, arXiv 2312.12491: call it with clean images or latents [batch, ...], one after the other.

    It answers with the image that came in `len(path) - 1` calls before, made anew, or None where none is ready; `finish`
    gives those that are still on their way. calls, evaluations: calls of the network so far, and rows in them.

    network: predicts rows at noise levels of their own, under one condition. path: the levels an image goes through, the
    first of which says how much of it is kept. rules, prediction, conditions, time: as in `emag.guided`; RCFG takes the
    image that came in for its x0*, as published. From level to level x = alpha x0 + sigma n, n of `noise` [steps, ...], the
    same for all images, which keeps them alike (the authors'); None draws it from `seed`. similar: leaves out images like
    the last, and answers with the last result. Raises `Unsupported` for rules that change the condition, look further, or
    are exact for deterministic samplers alone.
    """

    def __init__(self, network: StreamNetwork, *rules: Rule, path: Path, prediction: Space = "epsilon",
                 conditions: Mapping[str, Any] | None = None, time: Callable[[float, float], float] | None = None,
                 noise: torch.Tensor | None = None, seed: int = 0, similar: Similar | None = None):
        _check(rules)
        self.network, self.path, self.noise, self.seed, self.similar = network, path, noise, seed, similar
        self.conditions: dict[str, Any] = {"cond": None, **(conditions or {})}
        # each run asks for its predictions by name, which one call has evaluated for all of them before
        names = {name: name for name in self.conditions}
        self._model = guided(_unasked, *rules, path=path, prediction=prediction, conditions=names)
        self._times = [(time or self._model.time)(*path.at(i)) for i in range(len(path))]
        self._on_way: list[_Image] = []
        self._last: torch.Tensor | None = None
        self._result: torch.Tensor | None = None
        self._left_out = self._count = self.calls = self.evaluations = 0

    @torch.no_grad()
    def __call__(self, image: torch.Tensor) -> torch.Tensor | None:
        """The next finished image, None where none is; from the next one that comes in."""
        if self._last is not None and image.shape != self._last.shape:
            raise BadValue(f"images of a stream have one shape; after {tuple(self._last.shape)} came {tuple(image.shape)}")
        if self._leaves_out(image):
            return self._result
        self._last = image
        self._on_way.append(self._begun(image))
        return self._advance()

    @torch.no_grad()
    def finish(self) -> list[torch.Tensor]:
        """The images that are still on their way, in order; the stream is empty afterwards."""
        found = []
        while self._on_way:
            if (made := self._advance()) is not None:
                found.append(made)
        return found

    def _leaves_out(self, image: torch.Tensor) -> bool:
        self._count += 1
        if self.similar is None or self._last is None or self._left_out >= self.similar.longest:
            self._left_out = 0
            return False
        drawn = torch.rand((), generator=torch.Generator().manual_seed(self.seed + self._count)).item()
        leaves = drawn < self.similar.chance(image, self._last)
        self._left_out = self._left_out + 1 if leaves else 0
        return leaves

    def _begun(self, image: torch.Tensor) -> _Image:
        if self.noise is None:
            drawn = torch.randn(len(self.path), *image.shape[1:], generator=torch.Generator().manual_seed(self.seed))
            self.noise = drawn.to(image)
        if self.noise.shape != (len(self.path), *image.shape[1:]):
            raise BadValue(f"noise has shape {tuple(self.noise.shape)}; images of {tuple(image.shape)} over "
                           f"{len(self.path)} steps need {(len(self.path), *image.shape[1:])}")
        alpha, sigma = self.path.at(0)
        made = _Image(copy.copy(self._model), alpha * image + sigma * self.noise[0].to(image))
        made.model.image, made.model.denoiser = image, lambda x, time, name: made.answers[name]
        made.model.start(made.x)
        return made

    def _advance(self) -> torch.Tensor | None:
        """One step of all images on their way; the first of them, where it is finished."""
        self._evaluate()
        for one in self._on_way:
            clean = to_x0(one.model(one.x, one.level), one.x, *self.path.at(one.level), one.model.space)
            one.level += 1
            one.x = self._renoised(clean, one.level)
        if self._on_way[0].level < len(self.path):
            return None
        self._result = self._on_way.pop(0).x
        return self._result

    def _evaluate(self) -> None:
        """One call of the network for each condition, of the images that ask for it at their level."""
        asked: dict[str, list[_Image]] = {}
        for one in self._on_way:
            one.answers.clear()
            for name in one.model.asks(one.x, one.level):
                asked.setdefault(name, []).append(one)
        for name, those in asked.items():
            x = torch.cat([one.x for one in those])
            times = torch.cat([one.x.new_full((len(one.x),), self._times[one.level]) for one in those])
            self.calls, self.evaluations = self.calls + 1, self.evaluations + len(x)
            parts = self.network(x, times, self.conditions[name]).split([len(one.x) for one in those])
            for one, part in zip(those, parts, strict=True):
                one.answers[name] = part

    def _renoised(self, clean: torch.Tensor, level: int) -> torch.Tensor:
        """The sampler of consistency models: all noise taken off, and that of the next level put on."""
        alpha, sigma = self.path.at(level)
        assert self.noise is not None
        return alpha * clean + sigma * self.noise[level].to(clean) if level < len(self.path) and sigma else alpha * clean


def _unasked(x: torch.Tensor, time: float, condition: Any) -> torch.Tensor:
    raise AssertionError("a stream evaluates before its runs ask")


def _check(rules: tuple[Rule, ...]) -> None:
    for rule in rules:
        if rule.kind == "condition" or rule.looks_further:
            raise Unsupported(f"{rule.name} changes what the network is given, and a stream evaluates images of several "
                              "steps in one call: leave it out, or make the images one by one")
    if found := needy(rules):
        raise Unsupported(f"{found} is exact for first-order deterministic steps only, and a stream puts new noise on at "
                          "each level: use a plain scale")
