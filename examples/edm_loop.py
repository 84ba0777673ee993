"""EMAG in a loop over the noise levels of EDM, x = x0 + sigma n, around a preconditioned denoiser."""

import argparse

import torch

import emag
from emag.hosts.load import load
from emag.samplers import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=28)
parser.add_argument("--out", default="edm.png")
options = parser.parse_args()

pipe = load("tiny")


class Denoiser(torch.nn.Module):
    """D(x, k): the embedded flow model at sigma = k / (1 + k), its input scaled, its velocity turned into x0."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor, k: float, prompt: str) -> torch.Tensor:
        states, _, pooled, _ = pipe.encode_prompt([prompt] * len(x), do_classifier_free_guidance=False)
        sigma, scaled = k / (1 + k), x / (1 + k)
        timestep = torch.full((len(x),), 1000 * sigma)
        return scaled - sigma * self.network(scaled, states, pooled, timestep, return_dict=False)[0]


steps, rho = options.steps, 3
levels = [(80 ** (1 / rho) + i / (steps - 1) * (0.02 ** (1 / rho) - 80 ** (1 / rho))) ** rho for i in range(steps)] + [0.0]
model = emag.guided(Denoiser(pipe.transformer), emag.EMAG(1.5, layers=(2, 3, 4)), emag.CFG(2.5), path=Path.edm(levels),
                    prediction="x0", conditions={"cond": "a photo of a ship", "uncond": ""},
                    backbone="SD3Transformer2DModel")

x = levels[0] * torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
for i in range(steps):
    x = x + (levels[i + 1] - levels[i]) * (x - model(x, i)) / levels[i]  # dx = (x - D) / sigma d sigma

print(f"{model.block_evaluations} block evaluations per image, planned {model.plan.total}")
pixels = x / pipe.vae.config.scaling_factor
pipe.image_processor.postprocess(torch.cat(list(pixels), 2)[None])[0].save(options.out)
