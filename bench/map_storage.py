"""What storing EMAG's averaged maps in 16 or 8 bits changes, against float32: errors, and picks that differ.

python bench/map_storage.py --images 8 --steps 28

Two networks: the embedded model, and an SD3-style one with random weights and sharp attention (256 image, 77 text tokens).
Errors are relative L2 norms against the run in float32: of E at the end of the run, of the weak predictions (mean over the
steps that have one), and of the final latents, which hold what has built up on the way. Lines marked "nearest" round
without dither; float16 is plain; float8_e4m3 stands where scaled8's square root does.
"""

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.table import Table

import emag
from emag.methods.emag import stored_map
from emag.methods.emag.compat import Compat
from emag.methods.emag.stored_map import FINE, Scaled8
from emag.methods.emag.tracker import Tracker
from emag.testing.small import generators, noise, quiet, sd3

SIDE, TEXT, HEADS, HEAD_DIM, BLOCKS = 16, 77, 4, 64, 6
BITS = 20  # mantissa bits that float32 has and e4m3 has not
LARGEST = 448.0


class E4m3(Scaled8):
    """scaled8 with float8_e4m3 in the place of the square root: 3 bits of mantissa, from peak down to peak / 28672."""

    def read(self, rows: slice) -> torch.Tensor:
        return self.codes[:, :, rows].view(torch.float8_e4m3fn).float().mul_(self.peaks[:, :, rows] / LARGEST)

    def take(self, rows: slice, live: torch.Tensor, beta: float) -> torch.Tensor:
        differs = (self.read(rows) != live).flatten(1).any(1)
        new, peak = self.read(rows).lerp_(live, 1 - beta), self.peaks[:, :, rows]
        peak.lerp_(live.amax(-1, keepdim=True), 1 - beta)
        bits = (new * (LARGEST / peak)).view(torch.int32).add_(self._dither(rows) >> FINE - BITS)
        cut = bits.bitwise_and_(-1 << BITS).view(torch.float32).clamp_(max=LARGEST)
        self.codes[:, :, rows] = cut.to(torch.float8_e4m3fn).view(torch.uint8)
        return differs


@dataclass
class Seen:
    """One run: statistics [candidates, images] and weak predictions by step, E at the end, picks, final latents."""

    statistics: list[torch.Tensor] = field(default_factory=list)
    weak: list[torch.Tensor] = field(default_factory=list)
    tracker: Any = None
    latents: Any = None

    @property
    def picks(self) -> torch.Tensor:
        return torch.stack([pick for pick in self.tracker.picks if pick is not None])

    @property
    def averages(self) -> torch.Tensor:
        return torch.cat([average.value.double().flatten() for average in self.tracker.averages.values()])


@contextmanager
def watched() -> Iterator[Seen]:
    """Record the guided run inside."""
    seen, choose, apply = Seen(), Tracker.choose, emag.EMAG.apply

    def choosing(self: Tracker) -> None:
        choose(self)
        if self.pick is not None:
            seen.tracker = self
            seen.statistics.append(torch.stack([self.statistic[block] for block in self.spec.blocks]))

    def applying(self: Any, pred: torch.Tensor, branches: Any, *rest: Any) -> torch.Tensor:
        if self.perturbation in branches:
            seen.weak.append(branches[self.perturbation].clone())
        return apply(self, pred, branches, *rest)

    with patch.object(Tracker, "choose", choosing), patch.object(emag.EMAG, "apply", applying):
        yield seen


def lines() -> dict[str, tuple[dict[str, Any], tuple[Any, ...]]]:
    """What is compared, by name: settings of the rule, and what is patched."""
    nearest = patch.object(stored_map, "dither", lambda *_: torch.tensor(1 << FINE - 1, dtype=torch.int32))
    e4m3 = patch.dict(stored_map.KINDS, scaled8=(E4m3, torch.uint8))
    return {"float32": ({"maps": "float32"}, ()), "scaled16": ({"maps": "scaled16"}, ()),
            "scaled16, nearest": ({"maps": "scaled16"}, (nearest,)),
            "float16": ({"compat": Compat(ema_dtype="float16")}, ()),
            "scaled8": ({"maps": "scaled8"}, ()), "scaled8, nearest": ({"maps": "scaled8"}, (nearest,)),
            "float8_e4m3": ({"maps": "scaled8"}, (e4m3,))}


def tiny(images: int, steps: int) -> tuple[Any, dict[str, Any]]:
    """The embedded model and its call."""
    pipe = quiet(emag.load("tiny", device="cpu"))
    prompts = [f"a photo of a {pipe.classes[i % len(pipe.classes)]}" for i in range(images)]
    return pipe, {"prompt": prompts, "num_inference_steps": steps, "generator": generators(tuple(range(images)))}


def random_sd3(images: int, steps: int) -> tuple[Any, dict[str, Any]]:
    """An SD3-style network with random weights, gains of the query and key norms 2, and its call."""
    pipe = sd3(layers=BLOCKS, sample_size=2 * SIDE, attention_head_dim=HEAD_DIM, num_attention_heads=HEADS,
               caption_projection_dim=HEADS * HEAD_DIM, pos_embed_max_size=SIDE)
    for name, parameter in pipe.transformer.named_parameters():
        if "norm_q." in name or "norm_k." in name or "norm_added" in name:
            torch.nn.init.constant_(parameter, 2.0)
    embeds = {"prompt_embeds": noise(1, images, TEXT, 12), "pooled_prompt_embeds": noise(2, images, 10),
              "negative_prompt_embeds": noise(3, 1, TEXT, 12).repeat(images, 1, 1),
              "negative_pooled_prompt_embeds": noise(4, 1, 10).repeat(images, 1)}
    return pipe, {**embeds, "height": 2 * SIDE, "width": 2 * SIDE, "guidance_scale": 4.0, "num_inference_steps": steps,
                  "generator": generators(tuple(range(images)))}


def run(network: tuple[Any, dict[str, Any]], variant: str, name: str) -> Seen:
    """One batch under one line."""
    (pipe, call), (settings, patches) = network, lines()[name]
    more = {} if "prompt" in call else {"layers": (2, 3, 4)}
    rule = emag.EMAG(1.5, variant=variant, window=emag.Window.progress(0, 0.2, 0.9), **more, **settings)
    call = {**call, "generator": [generator.manual_seed(i) for i, generator in enumerate(call["generator"])]}
    with ExitStack() as held, watched() as seen, emag.guide(pipe, rule):
        for one in patches:
            held.enter_context(one)
        seen.latents = pipe(**call, output_type="latent").images
    return seen


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| / |b|."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def row(name: str, seen: Seen, full: Seen) -> tuple[str, ...]:
    """Errors of one line, how many picks differ, and the largest lead, as a share, that a block so lost."""
    weak = sum(map(distance, seen.weak, full.weak)) / len(full.weak)
    best = torch.stack(full.statistics).sort(1, descending=True).values  # [steps, candidates, images]
    wrong = seen.picks != full.picks
    margin = (1 - best[:, 1] / best[:, 0])[wrong].max().item() if wrong.any() else 0.0
    errors = (distance(seen.averages, full.averages), weak, distance(seen.latents, full.latents))
    return (name, *(f"{error:.1e}" for error in errors), f"{int(wrong.sum())} of {wrong.numel()}", f"{margin:.1%}")


def main(images: Annotated[int, typer.Option(help="Images per line, one batch.")] = 8, steps: int = 28,
         only: Annotated[str | None, typer.Option(help="tiny or sd3; both where not given.")] = None) -> None:
    """Print a table per network and variant."""
    console = Console(width=130)
    console.print(f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for label, make in (("tiny", tiny), ("sd3", random_sd3)):
        for variant in ("map", "image") if only in (None, label) else ():
            network = make(images, steps)
            table = Table("maps", "E at the end", "weak prediction", "final latents", "picks that differ", "lead lost",
                          box=None, title=f"{label}, {variant}")
            full = run(network, variant, "float32")
            for name in lines():
                table.add_row(*row(name, full if name == "float32" else run(network, variant, name), full))
            console.print(table)
            console.print(f"mean largest entry of a row of E: {_sharpness(full):.3f}")


def _sharpness(full: Seen) -> float:
    values = [average.value.amax(-1).mean() for average in full.tracker.averages.values()]
    return float(torch.stack(values).mean())


if __name__ == "__main__":
    typer.run(main)
