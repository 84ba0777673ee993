"""Plain, slow forms of the maths that emag computes cleverly, and recorders of what it did."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import emag
from emag.core import COND, UNCOND, Step
from emag.maths.predictions import convert
from emag.maths.streams import Streams
from emag.methods.emag.tracker import Tracker
from emag.testing.laws.made_up import SPACES as SPACES
from tiny import CASES, Case

VARIANTS = ("query", "map", "image")
LAYERS = {case.name: (1, 3) if not case.uncond or case.name == "true-cfg" else (1, 2) for case in CASES.values()}
TEXT_FREE = ("dit", "pixart", "sigma")
EVERY = emag.Window.progress(0, 0.2, 0.8)  # of 8 steps: averages 0-6, applies 2-6
AVERAGED, APPLIED = range(0, 7), range(2, 7)


def rule(case: Case, **more: Any) -> emag.EMAG:
    return emag.EMAG(**{"scale": 2.0, "layers": LAYERS[case.name], "beta": 0.9, "window": EVERY, **more})


def softmax_map(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None = None,
                scale: float | None = None) -> torch.Tensor:
    """The whole attention map [B, H, L, S], fp64."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    logits = q.double() @ k.double().transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        logits = torch.where(mask, logits, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
    return logits.softmax(-1)


def live_of(variant: str, q: torch.Tensor, k: torch.Tensor, image: slice) -> torch.Tensor:
    """What a variant averages, fp64."""
    if variant == "query":
        return q[:, :, image].double()
    rows = softmax_map(q, k)[:, :, image]
    return rows if variant == "map" else rows[..., image] if variant == "image" else rows[..., text_of(image, k)]


def text_of(image: slice, k: torch.Tensor) -> list[int]:
    """The keys that are not the image's."""
    return [at for at in range(k.shape[2]) if not image.start <= at < image.stop]


def replaced(variant: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, image: slice, new: torch.Tensor,
             renorm: str = "row", text_scale: float = 1.0) -> torch.Tensor:
    """Attention output with `new` in the place of what `live_of` gives; the text's part scaled, rows renormalised."""
    if variant == "query":
        q = q.clone()
        q[:, :, image] = new.to(q.dtype)
        return (softmax_map(q, k) @ v.double()).to(q.dtype)
    weights, text = softmax_map(q, k), text_of(image, k)
    rows, keys = weights[:, :, image], list(range(k.shape[2]))
    rows[..., {"map": keys, "image": keys[image], "text": text}[variant]] = new.double()
    rows[..., text] *= text_scale
    whole = variant == "map" and text_scale == 1  # full rows are used as they are, whatever their sum in 16 bits
    if renorm == "row" and not whole:
        rows = rows / rows.sum(-1, keepdim=True)
    if renorm == "text":
        left = 1 - rows[..., image].sum(-1, keepdim=True)
        rows[..., text] *= left.clamp(min=0) / rows[..., text].sum(-1, keepdim=True)
    weights[:, :, image] = rows
    return (weights @ v.double()).to(q.dtype)


def statistic_of(name: str, variant: str, average: torch.Tensor, q: torch.Tensor, k: torch.Tensor,
                 image: slice) -> torch.Tensor:
    """Distance of the average from the live call, per sample, on whole fp64 tensors."""
    live = live_of(variant, q, k, image)
    if variant == "query" and name in ("kl", "entropy"):
        held = q.double().clone()
        held[:, :, image] = average
        average, live = softmax_map(held, k)[:, :, image], softmax_map(q, k)[:, :, image]
    if name in ("mae", "logits"):
        size = k.double().abs().flatten(1).mean(1) if name == "logits" else 1
        return (average - live).abs().flatten(1).mean(1) * size
    if name == "kl":
        return (live * (live.clamp(min=1e-12) / average.clamp(min=1e-12)).log()).sum(-1).flatten(1).mean(1)
    if name == "cosine":
        dot = (live * average).sum(-1) / live.norm(dim=-1) / average.norm(dim=-1)
        return (1 - dot).flatten(1).mean(1)
    return torch.special.xlogy(live, live).sum(-1).flatten(1).mean(1)


@dataclass
class Watched:
    """One update of an average: the conditional rows of the live call, the average after it, the statistic."""

    call: Any
    average: torch.Tensor
    statistic: torch.Tensor

    def live(self, variant: str) -> torch.Tensor:
        return live_of(variant, self.call.q, self.call.k, self.call.image)


@dataclass
class Weak:
    """One candidate block in one weak pass: attention output as it would be, and as it was."""

    block: int
    phase: str
    chosen: list[bool]
    image: slice
    live: torch.Tensor
    out: torch.Tensor

    def text(self, tensor: torch.Tensor) -> torch.Tensor:
        keep = torch.ones(tensor.shape[2], dtype=torch.bool)
        keep[self.image] = False
        return tensor[:, :, keep]


@dataclass
class Trace:
    watched: dict[int, list[Watched]] = field(default_factory=dict)
    weak: list[Weak] = field(default_factory=list)
    tracker: Tracker | None = None

    @property
    def picks(self) -> list[list[int] | None]:
        blocks = self.tracker.spec.blocks
        return [None if pick is None else [blocks[i] for i in pick.tolist()] for pick in self.tracker.picks]


def trace(monkeypatch: Any) -> Trace:
    """Record every update and every weak attention call of the runs to come."""
    seen, watch, perturb = Trace(), Tracker.watch, Tracker.perturb

    def watching(self: Tracker, block: int, call: Any, rows: Any) -> None:
        part = call.rows(rows.cond)
        part = replace(part, q=part.q.clone(), k=part.k.clone(), v=part.v.clone())
        watch(self, block, call, rows)
        seen.tracker = self
        seen.watched.setdefault(block, []).append(
            Watched(part, self.averages[block].value.clone(), self.statistic[block].clone()))

    def perturbing(self: Tracker, block: int, call: Any, sdpa: Any) -> torch.Tensor:
        live = sdpa(call.q).clone()
        out = perturb(self, block, call, sdpa)
        at = self.spec.blocks.index(block)
        chosen = [True] * len(live) if self.pick is None else (self.pick == at).tolist()
        seen.tracker = self
        seen.weak.append(Weak(block, self.phase, chosen, call.image, live, out.clone()))
        return out

    monkeypatch.setattr(Tracker, "watch", watching)
    monkeypatch.setattr(Tracker, "perturb", perturbing)
    return seen


@dataclass
class StepSeen:
    """What a scheduler was given at one step, and what it made of it."""

    prediction: torch.Tensor
    x: torch.Tensor
    t: torch.Tensor
    after: torch.Tensor


@contextmanager
def scheduler_steps(pipe: Any) -> Iterator[list[StepSeen]]:
    """Record a pipeline's scheduler steps."""
    seen: list[StepSeen] = []
    original = pipe.scheduler.step

    def step(prediction: torch.Tensor, t: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        before = prediction.clone(), x.clone()
        out = original(prediction, t, x, *args, **kwargs)
        seen.append(StepSeen(*before, t, (out[0] if isinstance(out, tuple) else out.prev_sample).clone()))
        return out

    pipe.scheduler.step = step
    try:
        yield seen
    finally:
        del pipe.scheduler.step


def freeze(pipe: Any) -> Any:
    """Make every step the same: a network that does not see the time, and a scheduler that does not move."""
    for name, module in pipe.transformer.named_modules():
        if name.endswith("timestep_embedder.linear_2"):
            torch.nn.init.zeros_(module.weight)
    original = pipe.scheduler.step

    def step(prediction: torch.Tensor, t: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        original(prediction, t, x, *args, **kwargs)
        return (x,) if kwargs.get("return_dict") is False else type("Out", (), {"prev_sample": x})

    pipe.scheduler.step = step
    return pipe


def space_of(path: str) -> tuple[float, float]:
    """alpha and sigma of a point of a variance preserving or of a linear path."""
    return {"vp": (0.8, 0.6), "flow": (0.35, 0.65)}[path]


def tensors(seed: int, count: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*(shape or (2, 4, 6, 6)), generator=generator) for _ in range(count)]


def at_step(path: str = "vp", space: str = "epsilon", x: torch.Tensor | None = None, **more: Any) -> Step:
    """A step in the middle of an 8-step run."""
    alpha, sigma = space_of(path)
    x = tensors(99, 1)[0] if x is None else x
    values = {"index": 4, "sigmas": (sigma,) * 8, "time": sigma, "alphas": (alpha,) * 8,
              "space": space, "x": x, "streams": Streams.of(x)}
    return Step(**{**values, **more})


def branches_in(space: str, step: Step, source: str, named: dict[Any, torch.Tensor]) -> dict[Any, torch.Tensor]:
    """Predictions given in `source`, in another space."""
    return {name: convert(p, step.x, step.alpha, step.sigma, source, space) for name, p in named.items()}


def pair(seed: int = 1) -> dict[str, torch.Tensor]:
    return dict(zip((COND, UNCOND), tensors(seed, 2)))


class Handmade:
    """An attention processor written out, for joint and for self-attention; `see(q, k, v, image)` is the attention."""

    def __init__(self, see: Any):
        self.see = see

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
                 attention_mask: None = None, **_: Any) -> Any:
        def heads(x: torch.Tensor, norm: Any = None) -> torch.Tensor:
            x = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return x if norm is None else norm(x)

        count, text = hidden_states.shape[1], encoder_hidden_states
        q, k = heads(attn.to_q(hidden_states), attn.norm_q), heads(attn.to_k(hidden_states), attn.norm_k)
        v = heads(attn.to_v(hidden_states))
        if text is not None:
            q = torch.cat([q, heads(attn.add_q_proj(text), attn.norm_added_q)], 2)
            k = torch.cat([k, heads(attn.add_k_proj(text), attn.norm_added_k)], 2)
            v = torch.cat([v, heads(attn.add_v_proj(text))], 2)
        out = self.see(q, k, v, slice(0, count)).transpose(1, 2).flatten(2)
        image = attn.to_out[0](out[:, :count])
        if text is None:
            return image
        rest = out[:, count:]
        return image, rest if attn.context_pre_only else attn.to_add_out(rest)


class Model:
    """A tiny SD3 or DiT network in fp64, called by branch and row; `see[block]` replaces a block's attention."""

    def __init__(self, pipe: Any, call: dict[str, Any]):
        self.net = deepcopy(pipe.transformer).double()
        self.see: dict[int, Any] = {}
        self.sd3 = "prompt_embeds" in call
        self.condition = self._sd3(call) if self.sd3 else self._dit(call)
        for at, block in enumerate(self.net.transformer_blocks):
            (block.attn if self.sd3 else block.attn1).set_processor(Handmade(self._seen(at)))

    def _sd3(self, call: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
        return {branch: {"encoder_hidden_states": call[f"{sign}prompt_embeds"].double(),
                         "pooled_projections": call[f"{sign}pooled_prompt_embeds"].double()}
                for branch, sign in ((COND, ""), (UNCOND, "negative_"))}

    def _dit(self, call: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
        labels = torch.tensor(call["class_labels"])
        return {COND: {"class_labels": labels}, UNCOND: {"class_labels": torch.full_like(labels, 1000)}}

    def _seen(self, at: int) -> Any:
        def see(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, image: slice) -> torch.Tensor:
            return self.see[at](q, k, v, image) if at in self.see else softmax_map(q, k) @ v

        return see

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, t: torch.Tensor, branch: str, rows: slice = slice(None)) -> torch.Tensor:
        """Prediction of some rows of one branch, or of "both": unconditional rows, then conditional ones."""
        names = (UNCOND, COND) if branch == "both" else (branch,)
        condition = {name: torch.cat([self.condition[b][name][rows] for b in names])
                     for name in self.condition[names[0]]}
        x = torch.cat([x[rows]] * len(names))
        return self.net(x, timestep=t.expand(len(x)), **condition).sample[:, :x.shape[1]]


class Path:
    """The sampler of a tiny pipeline in fp64: first latents, timesteps, and one step."""

    def __init__(self, pipe: Any, call: dict[str, Any]):
        count = call["num_inference_steps"]
        self.flow, self.scheduler = "prompt_embeds" in call, deepcopy(pipe.scheduler)
        self.scheduler.set_timesteps(count)
        self.timesteps = self.scheduler.timesteps
        size, channels = pipe.transformer.config.sample_size, pipe.transformer.config.in_channels
        shape = (1, channels, call.get("height", size), call.get("width", size))
        self.x = torch.cat([torch.randn(shape, generator=deepcopy(g)) for g in call["generator"]]).double()

    def step(self, prediction: torch.Tensor, i: int, x: torch.Tensor) -> torch.Tensor:
        if self.flow:
            sigmas = self.scheduler.sigmas.double()
            return x + (sigmas[i + 1] - sigmas[i]) * prediction
        return self.scheduler.step(prediction, self.timesteps[i], x).prev_sample
