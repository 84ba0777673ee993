"""A pipeline's network in our own sampling loop, where correctors and solvers have their moments."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ..backbones.read import read
from ..defaults import models_of, resolved
from ..errors import BadValue, NotFinite, Unsupported
from ..guidance import COND, UNCOND, Rule
from ..models.tiny import TinyPipeline, uniform_sigmas
from ..samplers import Corrector, Path, Solver, sample
from ..samplers.loop import Progress
from .function import Function, guided
from .given import PROMPT, encode
from .table import lookup


@dataclass(frozen=True)
class Loop:
    """What our loop takes in the place of a pipeline call. steps None: the pipeline's default of 28."""

    rules: tuple[Rule, ...] = ()
    correctors: tuple[Corrector, ...] = ()
    solver: Solver | None = None
    steps: int | None = None
    height: int | None = None
    width: int | None = None


@torch.no_grad()
def run(pipe: Any, loop: Loop, prompts: Sequence[str], negatives: Sequence[str | None], seeds: Sequence[int],
        progress: Progress | None = None) -> tuple[list[Image.Image], Function]:
    """One image per prompt and seed, and the finished model. For `StableDiffusion3Pipeline` and the embedded one."""
    host = lookup(pipe)
    if host.name != "StableDiffusion3Pipeline":
        raise Unsupported(f"our own loop drives StableDiffusion3Pipeline and the embedded model, not {host.name}: for "
                          "another network write denoiser(x, t, condition), and use emag.guided and emag.samplers.sample")
    network = read(pipe.transformer)
    rules = resolved(loop.rules, models_of(pipe), network)
    names = {branch.condition for rule in rules for branch in rule.weak if branch.condition}
    texts: dict[str, Any] = {COND: list(prompts), UNCOND: [text or "" for text in negatives]}
    texts |= {name: name.removeprefix(PROMPT) for name in names}
    conditions = {name: _rows(encode(value, host, pipe, network), len(prompts)) for name, value in texts.items()}
    model = guided(_denoiser(pipe), *rules, path=_path(pipe, loop.steps or 28), conditions=conditions)
    x = sample(model, _noise(pipe, loop, seeds), *loop.correctors, solver=loop.solver, on_step=progress)
    return _images(pipe, x), model


def _denoiser(pipe: Any) -> Any:
    trained = pipe.scheduler.config.num_train_timesteps

    def denoiser(x: torch.Tensor, sigma: float, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        timestep = torch.full((len(x),), sigma * trained, device=x.device)
        return pipe.transformer(x.to(pipe.transformer.dtype), timestep=timestep, **condition, return_dict=False)[0]

    return denoiser


def _path(pipe: Any, steps: int) -> Path:
    sigmas = uniform_sigmas(steps) if isinstance(pipe, TinyPipeline) else None
    pipe.scheduler.set_timesteps(steps, sigmas=sigmas)
    return Path.flow(tuple(pipe.scheduler.sigmas.double().tolist()))


def _noise(pipe: Any, loop: Loop, seeds: Sequence[int]) -> torch.Tensor:
    size = pipe.default_sample_size * pipe.vae_scale_factor
    shape = (1, pipe.transformer.config.in_channels, loop.height or size, loop.width or size)
    made = [pipe.prepare_latents(*shape, torch.float32, pipe._execution_device, torch.Generator().manual_seed(seed))
            for seed in seeds]
    return torch.cat(made)


def _rows(condition: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    odd = [name for name, value in condition.items() if len(value) not in (1, rows)]
    if odd:
        raise BadValue(f"a condition has {len(condition[odd[0]])} rows for {rows} images; give one, or one each")
    return {name: value.expand(rows, *value.shape[1:]) for name, value in condition.items()}


def _images(pipe: Any, x: torch.Tensor) -> list[Image.Image]:
    latents = x.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor + (pipe.vae.config.shift_factor or 0.0)
    decoded = pipe.vae.decode(latents, return_dict=False)[0]
    for what, tensor in (("the result of the last step", x), ("the decoded image", decoded)):
        if not tensor.isfinite().all():
            raise NotFinite(f"{what} is not finite (infinite values or NaNs)")
    return pipe.image_processor.postprocess(decoded, output_type="pil")
