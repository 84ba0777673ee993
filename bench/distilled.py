"""Score distillation with images as the parameters, as a sheet for the docs: python bench/distilled.py --out docs.

Latents of the model `shapes` are moved by Adam along residuals of `emag.objectives`, from noise levels high to low: nothing
is sampled. The last two columns are an edit: what the first of them shows, moved to the row's prompt by DDS.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image

import emag
from emag.core import Step
from emag.lab.draw.sheets import sheet
from emag.maths.streams import Streams
from emag.objectives import as_loss, guided_once, guided_residual, score_residual

PROMPTS = ("a red circle", "a blue ring", "a green square left of a yellow triangle", "a purple cross")
SOURCE = "a cyan circle"
WIDEST, NARROWEST = 0.98, 0.3
"""Noise levels at the start and at the end: an image has its layout first."""


class Scores:
    """Predictions of the frozen network, as velocities, and latents decoded."""

    def __init__(self) -> None:
        self.pipe: Any = emag.load("shapes")
        self.pipe.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, sigma: float, prompts: tuple[str, ...]) -> dict[str, torch.Tensor]:
        """cond and null at x [batch, 4, 16, 16]."""
        states, empty, pooled, empty_pooled = self.pipe.encode_prompt(list(prompts))
        made = self.pipe.transformer(torch.cat([x, x]), timestep=torch.full((2 * len(x),), 1000 * sigma),
                                     encoder_hidden_states=torch.cat([states, empty]),
                                     pooled_projections=torch.cat([pooled, empty_pooled]), return_dict=False)[0]
        return dict(zip(("cond", "null"), made.chunk(2)))

    @torch.no_grad()
    def pictures(self, z: torch.Tensor) -> list[Image.Image]:
        """Latents as pictures."""
        pixels = (self.pipe.vae.decode(z)[0].clamp(-1, 1) + 1) * 127.5
        return [Image.fromarray(one.permute(1, 2, 0).round().byte().numpy()) for one in pixels]


def of_row(name: str, **knobs: float) -> Any:
    """A row of the table as a function of what an iteration knows."""
    def residual(at: Mapping[str, Any]) -> torch.Tensor:
        needs = emag.objectives.RESIDUALS[name].coefficients(**knobs)
        given = {key: value for key, value in at["predictions"].items() if key in needs}
        source = at["source"] if any(key.startswith("source") for key in needs) else None
        return score_residual(name, given, at["x"], 1 - at["sigma"], at["sigma"], "flow", source, **knobs)
    return residual


def of_rules(*rules: emag.Rule) -> Any:
    """Any guidance without a memory, less the noise."""
    def residual(at: Mapping[str, Any]) -> torch.Tensor:
        x, sigma, made = at["x"], at["sigma"], at["predictions"]
        step = Step(0, (sigma, 0.0), (1 - sigma, 1.0), 1000 * sigma, "flow", x, Streams([b"%d" % i for i in range(len(x))]))
        guided = guided_once(rules, {emag.COND: made["cond"], emag.UNCOND: made["null"]}, step)
        return guided_residual(guided, made["noise"], x, 1 - sigma, sigma, "flow")
    return residual


APG = emag.APG(7.5, eta=0.0, momentum=0.0, norm_threshold=0.0)
RESIDUALS = {"sds": of_row("sds", scale=7.5), "csd": of_row("csd"), "apg": of_rules(APG), "dds": of_row("dds", scale=7.5)}


def distilled(scores: Scores, residual: Any, start: torch.Tensor, source: torch.Tensor, iterations: int) -> torch.Tensor:
    """Latents [prompts, 4, 16, 16] moved along a residual, from `start`."""
    z, rng = start.clone().requires_grad_(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam([z], lr=0.03, betas=(0.9, 0.99))
    for number in range(iterations):
        sigma = WIDEST + (NARROWEST - WIDEST) * number / iterations
        noise = torch.randn(z.shape, generator=rng)
        x, moved = ((1 - sigma) * one.detach() + sigma * noise for one in (z, source))
        made = {**scores(x, sigma, PROMPTS), "noise": noise - z.detach()}
        if residual is RESIDUALS["dds"]:
            made |= {f"source_{key}": value for key, value in scores(moved, sigma, (SOURCE,) * len(z)).items()}
        gradient = residual({"predictions": made, "x": x, "sigma": sigma, "source": moved})
        optimizer.zero_grad()
        as_loss(z, gradient).backward()
        optimizer.step()
    return z.detach()


def main(
    out: Annotated[Path, typer.Option(help="Folder for score-distillation.png.")] = Path("docs"),
    iterations: Annotated[int, typer.Option(min=1, help="Steps of Adam.")] = 200,
) -> None:
    """Move images along residuals of score distillation, and show where they end."""
    scores = Scores()
    drawn = scores.pipe([SOURCE] * len(PROMPTS), num_inference_steps=20, output_type="latent",
                        generator=[torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]).images
    begun = 0.1 * torch.randn(drawn.shape, generator=torch.Generator().manual_seed(1))
    columns = {name: scores.pictures(distilled(scores, one, drawn if name == "dds" else begun, drawn, iterations))
               for name, one in RESIDUALS.items()}
    heads = ["SDS", "CSD", "APG inside, less the noise", f"drawn: {SOURCE}", "and moved by DDS"]
    cells = [*(columns[name] for name in ("sds", "csd", "apg")), scores.pictures(drawn), columns["dds"]]
    page = sheet(list(zip(*cells)), heads, list(PROMPTS), "Images moved along residuals of score distillation")
    page.save(out / "score-distillation.png")


if __name__ == "__main__":
    typer.run(main)
