"""EMAG in an Euler loop of one's own, around a network of diffusers: the embedded model draws four frogs."""

import argparse

import torch

import emag
from emag.hosts.load import load

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=28)
parser.add_argument("--out", default="euler.png")
options = parser.parse_args()

pipe = load("tiny")
network = pipe.transformer


def encode(prompt: str, count: int = 4) -> dict[str, torch.Tensor]:
    """The network's arguments for one prompt."""
    states, _, pooled, _ = pipe.encode_prompt([prompt] * count, do_classifier_free_guidance=False)
    return {"encoder_hidden_states": states, "pooled_projections": pooled}


def denoiser(x: torch.Tensor, sigma: float, condition: dict[str, torch.Tensor]) -> torch.Tensor:
    """The flow velocity at noise level sigma; any code may stand here that calls the network once."""
    timestep = torch.full((len(x),), 1000 * sigma)
    return network(x, timestep=timestep, **condition, return_dict=False)[0]


sigmas = torch.linspace(1, 0, options.steps + 1).tolist()
conditions = {"cond": encode("a photo of a frog"), "uncond": encode("")}
rules = emag.EMAG(1.5, layers=(2, 3, 4), window=emag.Window.progress(0, 0.2, 0.9)), emag.CFG(2.5)
model = emag.guided(denoiser, *rules, path=sigmas, conditions=conditions, backbone=network)

x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
for i in range(options.steps):
    x = x + (sigmas[i + 1] - sigmas[i]) * model(x, i)

print(f"{model.block_evaluations} block evaluations per image, planned {model.plan.total}")
pixels = x / pipe.vae.config.scaling_factor
pipe.image_processor.postprocess(torch.cat(list(pixels), 2)[None])[0].save(options.out)
