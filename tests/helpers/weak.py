"""Weak branches by attention written out: dense maps in fp64, and the call of one attention by itself."""

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

import emag
from emag.engine.seam import Seam
from emag.maths.attention import Attention
from reference import Model, Path, softmax_map, tensors
from spy import network_outputs
from tiny import CASES

B, H, D, TEXT = 2, 4, 8, 5
GRID = (3, 4)
IMAGE = math.prod(GRID)
ORDERS = {"image-text": slice(0, IMAGE), "text-image": slice(TEXT, IMAGE + TEXT), "image": slice(0, IMAGE)}


def call_of(order: str = "image-text", groups: int = H, dtype: torch.dtype = torch.float64, scale: float | None = None,
            sharp: float = 1.0) -> Attention:
    size = IMAGE + (0 if order == "image" else TEXT)
    q, k, v = (tensors(i, 1, B, g, size, D)[0].to(dtype) for i, g in enumerate((H, groups, groups)))
    return Attention(sharp * q, k, v, ORDERS[order], None, scale)


def sdpa_of(call: Attention) -> Any:
    return lambda q: F.scaled_dot_product_attention(q, call.k, call.v, call.mask, scale=call.scale,
                                                    enable_gqa=call.k.shape[1] != call.q.shape[1])


def perturbed(branch: Any, call: Attention, grid: tuple[int, ...] = GRID) -> tuple[torch.Tensor, bool]:
    """Attention output in the weak pass of `branch`, and whether it says that something differed."""
    state = branch.start((1.0, 0.5), None)
    state.place(grid)
    out = state.perturb(branch.blocks[0], call, sdpa_of(call))
    return out, bool(state.differed)


def through_seam(branch: Any, attention: torch.nn.Module, hidden: torch.Tensor, text: torch.Tensor) -> Any:
    """The answer of a joint attention module (image first) in the weak pass of `branch`."""
    state = branch.start((1.0, 0.5), None)

    def handle(call: Attention, live: Any) -> torch.Tensor:
        return state.perturb(branch.blocks[0], call, lambda q: live(replace(call, q=q)))

    with Seam(hidden.shape[1] + text.shape[1], slice(0, hidden.shape[1]), handle):
        return attention(hidden_states=hidden, encoder_hidden_states=text)


# attention of (q, k, v, image) with one thing changed, as dense maps


def identity(strength: float = 1.0, joint: bool = False, heads: tuple[int, ...] | None = None) -> Any:
    def see(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, image: slice) -> torch.Tensor:
        live = softmax_map(q, k)
        new = torch.eye(q.shape[2], dtype=live.dtype).expand_as(live).clone()
        if not joint:
            own = torch.zeros(q.shape[2], q.shape[2], dtype=torch.bool)
            own[image, image] = ~torch.eye(image.stop - image.start, dtype=torch.bool)
            new = live.masked_fill(own, 0)
            new /= new.sum(-1, keepdim=True)
        mixed = (1 - strength) * live + strength * new
        if heads is not None:
            others = [h for h in range(q.shape[1]) if h not in heads]
            mixed[:, others] = live[:, others]
        return mixed @ v.double()

    return see


def blurred(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """[.., rows, columns, d] convolved as published: one axis after the other, reflected, kernel capped by each side."""
    if sigma > 9999:
        return planes.mean((-3, -2), keepdim=True).expand_as(planes)
    for dim in (-3, -2):
        n, size = planes.shape[dim], math.ceil(6 * sigma)
        size = min(size + 1 - size % 2, n + 1 if n % 2 == 0 else n)
        x = torch.arange(size, dtype=planes.dtype) - size // 2
        taps = torch.exp(-0.5 * (x / sigma) ** 2)
        line = planes.movedim(dim, -1)
        padded = F.pad(line.reshape(-1, 1, n), (size // 2, size // 2), mode="reflect")
        line = F.conv1d(padded, (taps / taps.sum()).view(1, 1, -1)).reshape(line.shape)
        planes = line.movedim(-1, dim)
    return planes


def smooth(sigma: float, grid: tuple[int, int] = GRID) -> Any:
    def see(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, image: slice) -> torch.Tensor:
        q = q.clone()
        q[:, :, image] = blurred(q[:, :, image].unflatten(2, grid), sigma).flatten(2, 3)
        return softmax_map(q, k) @ v.double()

    return see


def rectify(tau: float, alpha: float = 1.0, gamma: float = 1.0, steps: int = 1) -> Any:
    def see(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, image: slice) -> torch.Tensor:
        out, state = softmax_map(q, k) @ v.double(), q.double()
        for _ in range(steps):
            weights = softmax_map(state, k, scale=tau * q.shape[-1] ** -0.5)
            state = state - gamma * (state - alpha * weights @ v.double())
        out[:, :, image] = state[:, :, image]
        return out

    return see


def sinkhorn(iterations: int) -> Any:
    """Scaling vectors instead of potentials, in fp64."""

    def see(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, image: slice) -> torch.Tensor:
        live, n = softmax_map(q, k), image.stop - image.start
        gram = torch.exp(-(q[:, :, image].double() @ k[:, :, image].double().transpose(-1, -2)) * q.shape[-1] ** -0.5)
        b = torch.ones_like(gram[..., 0])
        for _ in range(iterations):
            a = 1 / n / (gram @ b[..., None])[..., 0]
            b = 1 / n / (gram.transpose(-1, -2) @ a[..., None])[..., 0]
        plan = a[..., None] * gram * b[..., None, :]
        live[:, :, image, image] = n * plan * live[:, :, image, image].sum(-1, keepdim=True)
        return live @ v.double()

    return see


def weak_predictions(name: str, rule: Any, **more: Any) -> list[torch.Tensor]:
    """The weak predictions of a run of two steps."""
    case, pipe = CASES[name], CASES[name].pipe()
    with network_outputs(pipe) as seen, emag.guide(pipe, rule):
        case.run(pipe, num_inference_steps=2, **more)
    channels = pipe.transformer.config.in_channels
    return [out[:, :channels] for out in seen[1::2]]


def written_out(name: str, block: int, see: Any, **more: Any) -> torch.Tensor:
    """The first weak prediction, the attention of one block replaced by `see`; fp64."""
    pipe, call = CASES[name].pipe(), CASES[name].call(num_inference_steps=2, **more)
    model, path = Model(pipe, call), Path(pipe, call)
    model.see[block] = see
    return model(path.x, path.timesteps[0], "cond")


def near(made: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """True where the two agree, relative to the size of `expected`."""
    return bool((made.double() - expected.double()).abs().max() <= tolerance * expected.double().abs().max())
