"""What energies cost over plain CFG, in one run: evaluations, backward passes, seconds as a ratio, peak memory.

python bench/energy_cost.py --out docs/results/energy-cost.md

The networks have random weights: they cost what trained ones cost. Lines are timed in turn, `--repeats` times; the ratio is
the median over the turns, in brackets the smallest and the largest. Peak memory is of tensors beside the weights: on the CPU
counted in a call of its own, which is not timed, on CUDA the allocator's.
"""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKL, AutoencoderTiny

import emag
from emag.lab.live import LiveBytes
from emag.scores import Colour
from emag.testing.small import sd3

THROUGH = {"where": "next", "through_network": True}


@dataclass(frozen=True)
class Line:
    """energy: its settings, None for CFG alone. slicing: the autoencoder decodes row by row. small: by another decoder."""

    energy: dict[str, Any] | None = None
    slicing: bool = False
    small: bool = False


LINES = {
    "CFG": Line(), "energy of x0 (mpgd)": Line({"where": "next"}),
    "the same, rows of the decoder one by one": Line({"where": "next"}, slicing=True),
    "the same, by a small decoder": Line({"where": "next"}, small=True),
    "through the network (dps)": Line(THROUGH), "the same, checkpointed": Line({**THROUGH, "checkpoint": True}),
    "the same, checkpointed, by a small decoder": Line({**THROUGH, "checkpoint": True}, small=True),
    "each step twice (freedom)": Line({**THROUGH, "recur": 2})}


@dataclass
class Measured:
    """Blocks for one image: forward, of those differentiated, evaluated again. peak: bytes. seconds: of a call, by turn."""

    forward: int = 0
    backward: int = 0
    again: int = 0
    peak: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Drawn:
    """A pipeline, its small decoder, and how it is called."""

    pipe: Any
    small: AutoencoderTiny
    images: int
    steps: int

    def __call__(self, line: Line) -> Measured:
        """One call under a line."""
        self.pipe.vae.use_slicing = line.slicing
        decoder = {"decoder": self.small} if line.small else {}
        rules = [emag.Energy(Colour(0.9, 0.1, 0.1), 1.0, **line.energy, **decoder)] if line.energy is not None else []
        noise = [torch.Generator().manual_seed(seed) for seed in range(self.images)]
        with emag.guide(self.pipe, emag.CFG(3.0), *rules) as run:
            self.pipe(**self._texts(), num_inference_steps=self.steps, generator=noise, output_type="latent")
        return Measured(run.stats.evaluations, run.stats.backward, run.stats.again)

    def _texts(self) -> dict[str, torch.Tensor]:
        made, network = torch.Generator().manual_seed(0), self.pipe.transformer.config
        sizes = {"prompt_embeds": (16, network.joint_attention_dim),
                 "pooled_prompt_embeds": (network.pooled_projection_dim,)}
        return {f"{side}{name}": torch.randn(self.images, *size, generator=made).to(self.pipe.device)
                for side in ("", "negative_") for name, size in sizes.items()}


def drawn(blocks: int, width: int, side: int, images: int, steps: int, device: str) -> Drawn:
    """A pipeline of SD3 on latents of `side` with an autoencoder of an eighth, and a small one."""
    pipe = sd3(layers=blocks, sample_size=side, num_attention_heads=width // 32, attention_head_dim=32,
               caption_projection_dim=width, joint_attention_dim=64, pooled_projection_dim=64, pos_embed_max_size=side // 2)
    ends = {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8, "latent_channels": 4}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    pipe.register_modules(vae=AutoencoderKL(**ends, **kinds, shift_factor=0.0).eval())
    small = AutoencoderTiny(encoder_block_out_channels=(16,) * 4, decoder_block_out_channels=(16,) * 4, latent_channels=4,
                            num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1)).eval()
    pipe.set_progress_bar_config(disable=True)
    return Drawn(pipe.to(device), small.to(device), images, steps)


def peak(work: Callable[[], Any], device: str) -> int:
    """Bytes beside what was there before."""
    if device == "cpu":
        with LiveBytes() as live:
            work()
        return live.peak
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def timed(work: Callable[[], Any], device: str) -> float:
    """Seconds: of this process on the CPU, by the clock where a device is waited for."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began


def table(found: dict[str, Measured], title: str, device: str) -> str:
    """The page."""
    plain = found["CFG"]
    name = platform.processor() or platform.machine() if device == "cpu" else torch.cuda.get_device_name()
    lines = ["# Results: what energies cost", "",
             "Made by `python bench/energy_cost.py`; no number here is written by hand.", "",
             f"- **Run**: {title}; torch {torch.__version__}, {name}. Weights are random.",
             "- **Evaluations** are of blocks, for one image: forward; those among them that were differentiated; those "
             "that backward passes evaluated again.",
             "- **Time** is that of plain CFG in the same turn, times this: the median, in brackets smallest and largest; "
             "on a CPU of its work. Decoding at the end of a run is not in it.",
             "- **Peak memory** is of tensors beside the weights: on a CPU counted as they come and go, on a GPU the "
             "allocator's. The score is a mean colour, which keeps next to nothing.", "",
             "| | forward | backward | again | time | peak memory, MiB | times that of CFG |",
             "|---|---|---|---|---|---|---|"]
    for label, one in found.items():
        ratios = [mine / theirs for mine, theirs in zip(one.seconds, plain.seconds)]
        lines.append(f"| {label} | {one.forward} | {one.backward} | {one.again} | {statistics.median(ratios):.2f} "
                     f"[{min(ratios):.2f}, {max(ratios):.2f}] | {one.peak / 2**20:.1f} | {one.peak / plain.peak:.1f} |")
    return "\n".join(lines) + "\n"


def main(out: Annotated[Path, typer.Option(help="Page to write.")] = Path("out/energy/cost.md"),
         blocks: Annotated[int, typer.Option(min=1)] = 8, width: Annotated[int, typer.Option(min=32)] = 192,
         side: Annotated[int, typer.Option(min=4, help="Rows and columns of the latents.")] = 16,
         images: Annotated[int, typer.Option(min=1)] = 2, steps: Annotated[int, typer.Option(min=1)] = 2,
         repeats: Annotated[int, typer.Option(min=1)] = 3, device: Annotated[str, typer.Option()] = "cpu") -> None:
    """Print the table, and write it down."""
    work = drawn(blocks, width, side, images, steps, device)
    found = {name: work(line) for name, line in LINES.items()}  # and everything is warm
    for name, line in LINES.items():
        found[name].peak = peak(lambda line=line: work(line), device)  # type: ignore[misc]
    for _ in range(repeats):
        for name, line in LINES.items():
            found[name].seconds.append(timed(lambda line=line: work(line), device))  # type: ignore[misc]
    title = (f"SD3's network with {blocks} blocks of width {width}, latents of {side} x {side}, {images} images in a batch, "
             f"{steps} steps")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table(found, title, device))
    typer.echo(out.read_text())


if __name__ == "__main__":
    typer.run(main)
