"""The published ways to guide by several conditions, each as a `Compose` (EchoMimicV3's with a rule before it).

Conditions are named: "cond" is the pipeline's own prompt, "uncond" its negative or empty one, any other name is given as
emag.guide(..., conditions={name: ...}) or written out as "prompt:a text". Scales are numbers, or schedules with their scale
named; they multiply differences, so each function says where its paper's method is off. `null` is the branch without any
condition.
"""

from collections.abc import Mapping, Sequence

from ...core import COND, UNCOND
from ...errors import BadValue
from ...schedules import Interval, Scale
from ...schedules.curves import IntervalUnit
from ...schedules.noise import NoisePower
from ..condition.phase_negative import PhaseNegative
from .compose import Compose, Term

Weights = Mapping[str, Scale]


def compositional(weights: Weights, null: str = UNCOND) -> Compose:
    """Concepts joined, arXiv 2206.01714: u + sum_i w_i (e_i - u); a weight below 0 negates its concept.

    weights: by condition, of the size of a CFG scale each (published values unconfirmed); "cond" may be one of them.
    """
    return Compose(null, tuple(Term(scale, name, null) for name, scale in weights.items()))


def instruct_pix2pix(image: str = "image", text_scale: Scale = 7.5, image_scale: Scale = 1.5, null: str = UNCOND) -> Compose:
    """InstructPix2Pix, arXiv 2211.09800: u + w_I (e(I) - u) + w_T (p - e(I)); p has the image and the text.

    image: condition with the image and no text. Both scales 1 is off. Defaults as published.
    """
    return Compose(null, (Term(image_scale, image, null), Term(text_scale, COND, image)))


def instruct_g2i(graphs: Weights | Sequence[str], text_scale: Scale = 7.5, text: str = COND, null: str = UNCOND) -> Compose:
    """InstructG2I, arXiv 2410.07157: u + w_T (e(T) - u) + sum_k w_k (e(T, G_k) - e(T)).

    graphs: conditions with the text and one graph each, with their scales; a plain sequence takes the published 1.5 each.
    text: the condition without a graph. text_scale 1 and all others 0 is off. Add `Rescale` for the published rescaling.
    """
    parts = tuple(Term(scale, name, text) for name, scale in _weighted(graphs, 1.5).items())
    return Compose(null, (Term(text_scale, text, null), *parts))


def cs_cfg(context: str = "context", text_scale: Scale = 5.0, context_scale: Scale = 5.0, null: str = UNCOND) -> Compose:
    """Context-style guidance, plain form, arXiv 2510.07546: e + w_t (p - e) + w_c (e - u); p has the context and the text.

    context: condition with the context and no text. Off at w_t = 1 and w_c = 0, unlike the projected form (`CSAPG`), which
    is off at 1 and 1: its w_c less 1 is this one. Defaults: the authors' function.
    """
    return Compose(context, (Term(text_scale, COND, context), Term(context_scale, context, null)))


def mask_cfg(regions: Mapping[str, str], scale: Scale = 5.0, null: str = UNCOND) -> Compose:
    """Mask-CFG, arXiv 2510.12089: u + sum_i w m_i (e_i - u).

    regions: a mask (`emag.maths.masks`) for each condition; published with masks that exclude each other and cover the
    image. With such masks, scale 1 takes every place from its own branch. The default is published.
    """
    return Compose(null, tuple(Term(scale, name, null, mask) for name, mask in regions.items()))


def ds_cfg(centre: tuple[float, float] = (0.5, 0.65), width: float = 0.15, peak: float = 3.0, low: float = 1.0,
           power: float = 1.5, null: str = UNCOND) -> Compose:
    """DS-CFG of OmniSync, arXiv 2505.21448: u + G (t / T)^power (p - u), G a bump from `peak` at `centre` to `low` afar.

    centre: (x, y) of the mouth, in fractions of the image; width: standard deviation of the bump, likewise. power: 1.5
    published; the weight ends at 0. peak, low, centre and width are unconfirmed: untested defaults. G is not normalised
    again, so `peak` is the weight at the centre in pure noise; peak = low and power 0 is CFG.
    """
    if not low <= peak:
        raise BadValue(f"ds_cfg needs low <= peak (the bump is strongest at its centre), got {low} and {peak}")
    bump = f"bump:{centre[0]}:{centre[1]}:{width}"
    return Compose(null, (Term(NoisePower(low, power), COND, null), Term(NoisePower(peak - low, power), COND, null, bump)))


def sync_cfg(driven: str = "driven", scale: Scale = 3.0) -> Compose:
    """SyncCFG of Harmony, arXiv 2511.21579: d + w (p - d); p is the joint pass, d the one driven by a mute other modality.

    Off at 1. The scale, and how CFG on the text goes with it, are unconfirmed: 3 is an untested default.
    """
    return Compose(driven, (Term(scale, COND, driven),))


def hg_v(scale: Scale = 4.0, null: str = UNCOND) -> Compose:
    """Vanilla history guidance, arXiv 2502.06764: w p - (w - 1) e(0); p has the history, `null` has it masked.

    Off at 1. Published: 4 (prediction) and 1.5 (interpolation) on RealEstate10K; other data unconfirmed.
    """
    return Compose(null, (Term(scale, COND, null),))


def hg_f(fraction: str, scale: Scale = 4.0, null: str = UNCOND) -> Compose:
    """Fractional history guidance, arXiv 2502.06764: p + (w - 1) (e(h at k) - e(0)).

    fraction: condition with the history at noise level k in [0, 1]; k = 0 is "cond", and then this is `hg_v`; k = 1 is
    `null`, and then it is off. Off at 1. The default is HG-v's: unconfirmed.
    """
    return Compose(COND, (Term(scale, fraction, null), Term(-1.0, fraction, null)))


def hg_t(histories: Weights, null: str = UNCOND) -> Compose:
    """Temporal history guidance, arXiv 2502.06764: e(0) + sum_i w_i (e(h_i) - e(0)), over parts h_i of the history.

    histories: weight of each condition, "cond" being the whole history.
    """
    return compositional(histories, null)


def phase_negative(text: str = "text", text_scale: Scale = 4.0, audio_scale: Scale = 2.9, factor: float = 1.5,
                   steps: int = 2) -> tuple[PhaseNegative, Compose]:
    """EchoMimicV3, arXiv 2507.03905: u + w_t (e(T) - u) + w_a (p - e(T)), u of a negative prompt scaled early on.

    p has the text and the audio, u the negative prompt and no audio. text: condition with the text and no audio. steps:
    the last step scaled by `factor`, see `PhaseNegative`. Equal scales and factor 1 are CFG. Defaults: the authors' preview;
    their app takes 4.5 and 2.5, their page 3 to 6 and 1.8 to 2. Their decay and the last steps without guidance are a
    schedule of both scales, e.g. emag.Waning(4.0, skip=0.1). Both rules are needed: emag.guide(pipe, *phase_negative()).
    """
    return PhaseNegative(factor, steps), Compose(UNCOND, (Term(text_scale, text, UNCOND), Term(audio_scale, COND, text)))


def late_negative(negative: str, scale: float = 4.0, low: float = 0.2, high: float = 1.0, unit: IntervalUnit = "progress",
                   null: str = UNCOND) -> Compose:
    """A negative prompt for a phase of the run: w p + (1 - w) e(negative) there, and CFG, w p + (1 - w) u, elsewhere.

    arXiv 2406.02965 finds that a negative prompt acts late, and given too early brings out what it forbids. low, high,
    unit: as in `Interval`; the default, from a fifth of the run on, and the scale are untested. Off at 1. Costs no
    evaluation more than CFG. For the pipeline's own negative prompt say late_negative("uncond", null="prompt:").
    """
    inside = Interval(scale, low, high, unit)  # 1 outside
    return Compose(COND, (Term(inside, COND, negative), Term(-1.0, COND, negative),
                          Term(scale, COND, null), Term(inside, null, COND)))


def fcfg(affected: Weights | Sequence[str], invariant: Weights | Sequence[str] = (), null: str = UNCOND) -> Compose:
    """FCFG: u + sum_m w_m (e(group m) - u), the condition restricted to one group of attributes at a time.

    affected, invariant: conditions of the groups that shall change and of those that shall not, with scales; plain sequences
    take 2.5 and 1.0. No identifier of a paper is confirmed.
    """
    return compositional({**_weighted(affected, 2.5), **_weighted(invariant, 1.0)}, null)


def _weighted(names: Weights | Sequence[str], default: float) -> dict[str, Scale]:
    if isinstance(names, str):
        raise BadValue(f"conditions come as a sequence of names or with their weights, got the text {names!r}")
    return dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, default)
