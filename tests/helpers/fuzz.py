"""Random guidances on small pipelines, and what became of each: for the laws that hold for all of them."""

import logging
import random
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

import emag
from emag.engine import lock
from emag.engine.reading import read_network
from emag.engine.undo import _get_current_function_mode_stack
from emag.errors import EmagError
from emag.hosts.lookup import denoisers, host_of
from emag.lab.doctor.coverage import _other_text, every
from emag.methods import METHODS
from emag.methods.combining.compose import Term
from emag.schedules import MAMBOG, BetaCFG, CFGpp, Constant, Curve, Interval, NoisePower, Rectified
from emag.testing.outside import HOOKS
from ratios import ratios

CASES = every()
AFTER = ("never differed", "is the one the images are made with", "predicts what the pipeline's own does",
         "was 0 at all steps")
"""What is known at the end of a run alone: that something had no effect."""
SEEN = ("attention has a mask", "among", "embeds one per token")
"""What only the network's own attention and time embedders show, in the first clean evaluation."""
OTHER, ONE = "other", ("wan-vace",)  # the latter makes one video a call
MODELS = ("guide", "tuned", "pretrained", "base")
MASK = {"mine": torch.ones(3, 3), "content": torch.tensor([[True, True, False, True, False]])}
NAMES = ("cond", "uncond", OTHER)


@dataclass(frozen=True)
class Drawn:
    """A case, the rules to try on it, and the arguments of the call."""

    case: str
    rules: tuple
    call: dict


@dataclass(frozen=True)
class Outcome:
    """evaluated: forwards of the network that were made."""

    error: BaseException | None
    evaluated: int
    finite: bool
    left: tuple[str, ...]


def schedule(rng, scale):
    return rng.choice([
        lambda: Constant(scale), lambda: Interval(scale, 0.3, 0.7, "progress"), lambda: Interval(scale, 0.2, 0.9, "sigma"),
        lambda: Interval(scale, 0.5, 1.0, "progress"), lambda: Curve(scale, rng.choice(("linear", "cosine", "v"))),
        lambda: Rectified(scale), lambda: NoisePower(scale), lambda: CFGpp(0.5), lambda: BetaCFG(scale),
        lambda: MAMBOG(scale)])()


def scale(rng):
    value = rng.choice((0.0, 0.5, 1.0, 1.3, 2.5, 7.0))
    return value if rng.random() < 0.6 else schedule(rng, value)


def window(rng):
    return rng.choice([emag.Window.published(), emag.Window.progress(0, 0.2, 0.9), emag.Window.index(5, 1, 0),
                       emag.Window.sigma(1.0, 0.1, 0.0), emag.Window.progress(0.5, 0.3, 0.8), None])


def own(rng, method, style):
    """Parameters that a method needs, or that change what it does to a network."""
    return {
        "emag": lambda: {"window": window(rng), "variant": rng.choice(("query", "map", "image")),
                         "jitter": rng.choice((0, 0, 0.3)), "beta": rng.choice((0.5, 0.9))},
        "pag": lambda: {"form": rng.choice(("image", "strict", "image")), "heads": rng.choice((None, (0,), (1,), (9,)))},
        "nag": lambda: {"negative": rng.choice((None, OTHER)), "sigma_end": rng.choice((0.0, 0.5))},
        "vsf": lambda: {"negative": rng.choice((None, OTHER)), "flip": 0.5, "offset": 0.1},
        "cads": lambda: {"tau1": 0.2, "tau2": 0.9, "psi": 0.5},
        "spg": lambda: {"style": style},
        "negative": lambda: {"negative": OTHER},
        **dict.fromkeys(("sld", "dng", "contrastive"), lambda: {"negative": OTHER}),
        "nasa": lambda: {"negative": rng.choice((None, OTHER)), "strength": rng.choice((0.2, 1.0))},
        "neg-to-me": lambda: {"reference": style, "threshold": rng.choice((-1.0, 0.2)), "sigma_end": rng.choice((0.0, 0.5))},
        "o-nag": lambda: {"negative": rng.choice((None, OTHER)), "sigma_end": rng.choice((0.0, 0.5))},
        "soft-pag": lambda: {"heads": rng.choice((("1.0",), ("0.1", "2.0"), ("1.9",))), "strength": rng.choice((0.3, 1.0))},
        "swg": lambda: {"share": 0.7, "unit": 2},
        "cdg": lambda: {"null": OTHER, "mask": rng.choice(("mine", "content")), "block": rng.choice((0, 1, 9))},
        "compose": lambda: {"base": rng.choice(NAMES), "terms": tuple(
            Term(scale(rng), rng.choice(NAMES), rng.choice((None, *NAMES)) or "uncond",
                 rng.choice((None, "box:0:0:0.5:1", "mine", "frames:0:0.5"))) for _ in range(rng.randint(1, 2)))},
        "recfg": lambda: {"ratios": ratios()},
        "cs-apg": lambda: {"context": OTHER, "norm_threshold": 5.0},
        "sine": lambda: {"source": OTHER},
        "icg": lambda: rng.choice([{"form": "gaussian"}, {"form": "label"}, {"form": "given", "conditions": (OTHER,)}]),
        "linear-ag": lambda: rng.choice([{}, {"count": 4}, {"pairs": 2, "coefficients": (1.0,) * 5}]),
        "autoguidance": lambda: {"model": rng.choice(("guide", "lora:0.5"))},
        "personalization": lambda: {"model": rng.choice(("base", "lora:0.5"))},
        "rlg": lambda: {"model": rng.choice(("base", "lora:0"))},
        "s-cfg": lambda: {"bos": rng.choice((0, 2, 50))},
        "apg": lambda: {"norm_threshold": rng.choice((0.0, 5.0)), "momentum": rng.choice((0.0, -0.5))},
        "energy": lambda: {"score": rng.choice(("colour:0.9:0.1:0.1", "edges:0.1", None)),
                           "strength": rng.choice((0.0, 5.0)), "through_network": rng.choice((True, False)),
                           "where": rng.choice(("x0", "next", "x_t")),
                           "of": rng.choice(("guided", "cond", "uncond")), "recur": rng.choice((1, 2))},
        "fdg": lambda: {"scales": rng.choice(((4.0, 2.0), (3.0,), (4.0, 2.0, 1.5)))},
    }.get(method, dict)()


def rule(rng, style):
    """One rule with random parameters; None where these are refused, as some are."""
    name = rng.choice(list(METHODS))
    kind, values = METHODS[name], own(rng, name, style)
    names = {f.name for f in fields(kind)}
    if "scale" in names and rng.random() < 0.9:
        values.setdefault("scale", scale(rng))
    if "layers" in names and rng.random() < 0.6:
        values["layers"] = rng.choice(((0,), (1,), (1, 2), (0, 1, 2, 3), "auto", (7,)))
    if "cross" in names and rng.random() < 0.3:
        values["cross"] = rng.choice((True, False))
    if "every" in names and name not in ("linear-ag", "cfg-cache") and rng.random() < 0.2:
        values["every"] = rng.choice((2, 3))
    try:
        return kind(**values)
    except EmagError:
        return None


def ordered(rules):
    """The order in which most lists are right: a list in any other is refused at once."""
    place = {"condition": 0, "attention": 1, "null": 2, "weak": 3, "combining": 4, "after": 5, "energy": 6}
    kept, combining = [], False
    for one in sorted(rules, key=lambda one: place[one.kind]):
        if one.kind == "combining" and combining:
            continue
        combining |= one.kind == "combining"
        kept.append(one)
    return tuple(kept)


def drawn(number, case, style):
    """Guidance and call of a number; the same number, the same ones."""
    rng = random.Random(f"{case} {number}")
    rules = [found for found in (rule(rng, style) for _ in range(rng.randint(1, 4))) if found is not None]
    call = {"num_inference_steps": rng.randint(2, 5)}
    if rng.random() < 0.15:
        call[CASES[case].scale] = 1.0
    return Drawn(case, ordered(rules) if rng.random() < 0.9 else tuple(rules), call)


class Bench:
    """One small pipeline, what rules may name on it, and its state before."""

    def __init__(self, name):
        self.name, self.case = name, CASES[name]
        self.pipe = self.case.pipe()
        self.networks = denoisers(self.pipe, host_of(self.pipe))
        self.models = dict.fromkeys(MODELS, denoisers(self.case.pipe(seed=1), host_of(self.pipe))[0])
        self.plain = self.run()
        self.other = self._other()
        self.style = str(Path(tempfile.mkdtemp()) / "style.safetensors")
        save_file({"latents": torch.zeros_like(self.plain)[:1].contiguous()}, self.style)
        self.before = self.state()

    def run(self, **call):
        return self.case.run(self.pipe, seeds=(8,) if self.name in ONE else (8, 9), **{"num_inference_steps": 3, **call})

    def _other(self):
        try:
            text = _other_text(read_network(self.networks[0]), partial(self.case.run, self.pipe, seeds=(8,)))
        except (KeyError, TypeError, AttributeError):
            return {}
        return {OTHER: text} if text else {}

    def state(self):
        """Class, attributes and hooks of the pipeline and of all that its network is made of, by identity."""
        held = {"class": type(self.pipe), **{f"pipe.{key}": id(value) for key, value in vars(self.pipe).items()
                                             if isinstance(value, torch.nn.Module)}}
        for at, network in enumerate(self.networks):
            for name, module in network.named_modules():
                place = f"{at}.{name}"
                held[f"{place} class"] = type(module)
                held |= {f"{place}.{key}": id(value) for key, value in vars(module).items()}
                held |= {f"{place}.{kind}.{key}": id(hook) for kind in HOOKS for key, hook in getattr(module, kind).items()}
                held |= {f"{place}.processor.{key}": id(value)
                         for key, value in vars(getattr(module, "processor", None) or torch.nn.Identity()).items()
                         if hasattr(module, "processor")}
        return held

    def left(self):
        """What a run left: names of what changed."""
        after = self.state()
        found = sorted(key for key in self.before.keys() | after.keys() if self.before.get(key) != after.get(key))
        modes = [mode for mode in _get_current_function_mode_stack() if not getattr(mode, "over", False)]
        return (*found[:5], *(["a lock"] if len(lock._owners) else []), *(["a mode"] if modes else []))

    def try_out(self, item):
        """Draw under the rules of `item`."""
        counts, error, images = [], None, None
        for network in self.networks:
            self._count(network, counts)
        try:
            with emag.guide(self.pipe, *item.rules, conditions=self.other, models=self.models, masks=MASK):
                images = self.run(**item.call)
        except Exception as caught:
            error = caught.with_traceback(None)
        finally:
            for network in self.networks:
                del network.__dict__["forward"]
        finite = images is None or all(bool(one.isfinite().all()) for one in images)
        return Outcome(error, len(counts), finite, self.left())

    def _count(self, network, counts):
        original = network.forward

        def counting(*args, **kwargs):
            counts.append(1)
            return original(*args, **kwargs)

        network.__dict__["forward"] = counting


def complaint(found, item):
    """Why an outcome breaks the law, or None: finite, or refused before the network is called, and untouched afterwards."""
    if found.left:
        return f"left behind: {', '.join(found.left)}"
    if found.error is None:
        return None if found.finite else "not finite"
    first = 1 + sum(rule.kind == "attention" and getattr(rule, "negative", None) is not None for rule in item.rules)
    if any(text in str(found.error) for text in (*AFTER, *(SEEN if found.evaluated <= first else ()))):
        return None
    if not isinstance(found.error, EmagError):
        return f"{type(found.error).__name__}: {found.error}"
    return f"refused after {found.evaluated} evaluations: {found.error}" if found.evaluated else None


@contextmanager
def quiet():
    """Without the lines that hundreds of runs would print."""
    log = logging.getLogger("emag")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(before)
