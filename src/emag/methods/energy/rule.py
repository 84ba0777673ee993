"""Energy guidance: towards images that a score prefers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...core import Branches, EstimateOf, Look, Rule, RunStart, Score, Step
from ...errors import BadValue, NoEffect
from ...maths.energies import Normalise, StrengthShape, label_of, shape_of
from ...near import choices
from .ahead import check_ahead, stops
from .made import EnergyOf, Made, Where, stochastic, warn_of_size
from .making import Making
from .numbers import EXAMPLE, accessed
from .presets import PRESETS
from .settings import check_settings
from .slopes import Slopes


@dataclass(frozen=True)
class Energy(Rule):
    """Energy guidance: move the sample to where a score of the decoded image is higher, by its gradient.

    A score is a function of images [batch, 3, height, width] in [0, 1] that gives one number for each, higher is better:
    a classifier's log probability, minus a distance, a reward. G is its gradient, per sample, at the estimate x0 of the
    clean sample. Through the network G is that of x_t, one more forward and a backward pass; otherwise that of x0 alone,
    and the network is not differentiated. Both in one are the training-free guidance of which DPS, LGD, FreeDoM, UGD and
    MPGD are settings (`Energy.preset`). Rules before it, CFG among them, make the estimate it works on: name it last.

    Where "next" or "x_t" is moved, or the step is repeated, it is exact for first-order deterministic samplers (DDIM with
    eta 0, Euler), and others are refused. Noise in each step, as published runs of TFG have it, is `eta` here, not the
    sampler's. A step from pure noise is left alone where the formula divides by alpha. Each step waits for the device, to
    look at the scores.

    Args:
        score: a function, or the name of a score: "classifier:frog", "colour:0.9:0.1:0.1", "edges:0.2", or one given by
            emag.guide(..., scores={...}).
        strength: rho, what G is multiplied by, of any sign; 0 is off. Its unit is that of `where` over that of the score,
            so there is no default for all scores: 1 is a place to begin.
        where: "x0": x0 is moved and x_t stays: by G, or through the network by sigma^2 / alpha G, which is classifier
            guidance. "next": the next sample is moved: by alpha' G, or through the network by G. "x_t": x_t is moved by G
            and the step made from there. "velocity": the velocity towards the data is moved by G, or through the network
            by sigma / alpha G: a move that shrinks with the step, so that the strength holds for any number of them.
        through_network: differentiate the network, so that G is the gradient in x_t.
        of: whose x0 is scored: "guided", what the rules before gave; "cond" or "uncond", a clean prediction. "noisy": x_t
            itself, its root mean square at most 1, by a score made for noisy images; the network is not differentiated.
        mean: mu, what the gradient at x0 itself is multiplied by in `inner` further moves of x0 (TFG's mean guidance).
        inner: N_iter, moves of x0 one after the other, each by the gradient there; of x_t where it is evaluated again.
        recur: N_recur, how often a step is made: after each but the last, noise takes it back to where it began.
        again: where x_t is moved, evaluate the network anew there; otherwise its estimate of the noise is kept.
        smooth: noise added to x0 before it is scored, in units of sigma; the score is log mean exp over `draws` of it.
        draws: draws of that noise.
        augment: views of the image, mirrored and shifted at random, over which the score is averaged; 0 is the image itself.
        normalise: what G is divided by, per sample: "none", its "norm", its "rms", the "score", or the "root" of the score;
            "relative" is its rms, and times that of x: strength is then a share of x.
        clip: norm that G is scaled down to where it is longer, per sample; 0 is none.
        schedule: how strengths run over the steps, with mean 1: "increase" as a_t = (alpha / alpha')^2, "decrease" as
            1 - a_t, or "constant"; "elucd" and "elucd-edm" are EluCD's own, whose mean is what it is.
        interval: first and last share of the run in which it acts.
        checkpoint: what is differentiated keeps the inputs of the network's and decoder's parts alone, which backward
            evaluates again: less memory, more time, the same gradients bit for bit. Around a function each call
            is a part.
        decoder: another autoencoder for the images that are scored, such as a small approximate one of the same latents
            (TAESD, an AutoencoderTiny): an object, a folder or a hub id. None is the pipeline's own.
        steps: k: through the network, what is scored is the end of k first-order steps from x_t, spread evenly over those
            that are left. 1 is x0 itself, "posterior" guidance; the steps of the run and more are end-to-end guidance.
            Each costs a forward and a backward pass. Where another network takes over on the way (Wan 2.2), it is refused.
        eta: how much of DDPM's noise each step but the last adds, in [0, 1], in its interval or not: x' = alpha' x0 +
            sqrt(sigma'^2 - s^2) epsilon + s z, s = eta times the spread of q(x' | x, x0), before what is moved. 1 is TFG's.
        lam: what the move through the network is multiplied by where the velocity is moved; None is sigma / alpha. 1 is the
            authors' of on-manifold guidance for networks that predict x0.

    >>> import emag
    >>> emag.Energy("colour:0.9:0.1:0.1", 2.0).looks_further
    True
    """

    score: str | Score | None = None
    strength: float = 1.0
    where: Where = "x0"
    through_network: bool = False
    of: EnergyOf = "guided"
    mean: float = 0.0
    inner: int = 1
    recur: int = 1
    again: bool = False
    smooth: float = 0.0
    draws: int = 1
    augment: int = 0
    normalise: Normalise = "none"
    clip: float = 0.0
    schedule: StrengthShape = "constant"
    interval: tuple[float, ...] = (0.0, 1.0)
    checkpoint: bool = False
    decoder: str | Callable[..., Any] | None = None
    steps: int = 1
    eta: float = 0.0
    lam: float | None = None

    name = "energy"
    paper = "arXiv 2409.15761"
    equation = "x0 + rho grad score(decode(x0)), and the same for x_t and x_(t-1)"
    kind = "energy"
    space = "x0"
    cost = ("a gradient of the score and the decoder; through the network also a forward and a backward pass, and a forward "
            "pass per repetition")
    required = {"score": f"energy={EXAMPLE}"}

    def __post_init__(self) -> None:
        check_settings(self)

    @classmethod
    def preset(cls, name: str, score: str | Score | None = None, **changes: Any) -> "Energy":
        """A published method by its name, some of its settings changed: `Energy.preset("dps", score, strength=0.5)`.

        In a shell: `energy=classifier:frog,preset=dps,strength=0.5`. Names, papers and where the numbers come from:
        `emag.methods.energy.presets.PRESETS`. Raises `BadValue` for others.
        """
        if name not in PRESETS:
            raise BadValue(f"there is no energy preset {name!r}; {choices(name, PRESETS)}")
        return cls(score, **{**PRESETS[name].settings, **changes})

    @property
    def neutral(self) -> bool:
        return self.strength == self.mean == 0

    @property
    def label(self) -> str:
        """The score in words."""
        return label_of(self.score)

    @property
    def first_order(self) -> bool:
        return self.where in ("x_t", "next") or self.recur > 1 or self.eta > 0

    @property
    def looks_further(self) -> bool:
        return True

    @property
    def scores(self) -> tuple[str | Score | None, ...]:
        return (self.score,)

    def reads_null(self, step: Step) -> bool:
        return self.of == "uncond"

    def share(self, step: Step) -> float:
        """What the strengths are multiplied by at `step`; 0 where it is left alone."""
        low, high = self.interval
        # classifier guidance of x0, and x_t moved under the noise it had, divide by alpha
        divides = self.pulls and self.where != "next" and not self.again and self.lam is None
        if not low <= step.progress <= high or (divides and step.alpha == 0):
            return 0.0
        return shape_of(self.schedule, (*zip(step.alphas, step.sigmas), step.end))[step.index]

    def looks(self, step: Step) -> tuple[Look, ...]:
        if not self.share(step):
            return ()
        found: list[Look] = []
        for turn in range(self.recur):
            # what `Making.turn` evaluates: each pull; the guided x0 where x is another and no pull gave it; the scored one
            found += self._pulled(step)
            elsewhere = turn > 0 or self.again
            given = self.pulls > 0 and self.of == "guided" and not self.again
            found += [Look("guided", False)] if elsewhere and not given else []
            found += [Look(self._of, False)] if elsewhere and self.climbs and self._of != "guided" else []
        return tuple(found)

    def _pulled(self, step: Step) -> list[Look]:
        """What the moves by the gradient in x_t evaluate: a pass for each step that is looked ahead, none at x_t itself."""
        found = [Look(self._of, True, at - step.index) for at in stops(step, self.steps)]
        return [] if self.of == "noisy" else found * self.pulls

    def fits_run(self, start: RunStart) -> None:
        if not any(map(self.share, start.steps)):
            raise BadValue(f"energy acts at no step of this run: interval {self.interval} holds none")
        if self.steps > 1:
            check_ahead(self.name, start, self._farthest)

    def _farthest(self, step: Step) -> int:
        """The number of the last step that is looked at from `step`."""
        return stops(step, self.steps)[-1] if self.share(step) else step.index

    def apply(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        made = self._told(pred, branches, step, state)
        if step.index < step.count - 1:
            return made
        warn_of_size(step)
        if "moved" not in state:
            raise NoEffect(f"energy acted at no step that was made: interval {self.interval} holds none of them")
        if not bool(state["moved"]):
            raise NoEffect(f"the gradient of the score {self.label} was 0 at all steps, for every image: it is flat there, "
                           "or the images are out of [0, 1], where they are cut off")
        return made

    def _told(self, pred: torch.Tensor, branches: Branches, step: Step, state: dict[str, Any]) -> torch.Tensor:
        """The x0 that makes a sampler make the step; where it is left alone, but for its noise."""
        share = self.share(step)
        if not share:
            return stochastic(Made(step.x, pred), self.eta, step, 0).told(step)
        access, score = accessed(step, self.score, self.name)
        slopes = Slopes(step, access, score, self.label, self.smooth, self.draws, self.augment, self.normalise, self.clip,
                        self.steps, state)
        return Making(self, slopes, share).made(pred, branches, step).told(step)

    @property
    def _of(self) -> EstimateOf:
        """Whose x0 is moved, and scored where it is not x_t itself that is."""
        return "guided" if self.of == "noisy" else self.of

    @property
    def pulls(self) -> int:
        """Moves by the gradient in x_t."""
        if not self._in_x_t or self.strength == 0:
            return 0
        return self.inner if self.again else 1

    @property
    def _in_x_t(self) -> bool:
        """True where the gradient is that in x_t: through the network, or of the score of x_t itself."""
        return self.through_network or self.of == "noisy"

    @property
    def climbs(self) -> bool:
        """True where x0 is moved by the gradient at itself."""
        return not self._in_x_t or self.mean != 0
