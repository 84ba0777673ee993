"""A pipeline's network in our own sampling loop, where correctors and solvers have their moments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from ..core import COND, UNCOND, Rule, condition_names
from ..engine.reading import read_network
from ..errors import BadValue, NotFinite, Unsupported
from ..models.pipeline import SmallPipeline, uniform_sigmas
from ..samplers import Corrector, Path, Solver, sample
from ..samplers.loop import Progress
from .defaults import models_of, resolved
from .function import Function
from .function_checks import looks_inside
from .given import PROMPT, Condition, encode_condition
from .guided import guided
from .lookup import host_of
from .sights import PipelineImages


@dataclass(frozen=True)
class Loop:
    """What our loop takes in the place of a pipeline call. steps None: the pipeline's default of 28.

    conditions: those that rules, correctors or the solver name, each a prompt, or one prompt per image; "prompt:a text"
    needs no entry. rows: most rows of one network call, for correctors that draw all images of a prompt together; None is
    all.
    """

    rules: tuple[Rule, ...] = ()
    correctors: tuple[Corrector, ...] = ()
    solver: Solver | None = None
    steps: int | None = None
    height: int | None = None
    width: int | None = None
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    rows: int | None = None

    @property
    def named(self) -> list[str]:
        """Conditions that are named beside "cond" and "uncond"."""
        asked = list(condition_names(self.rules))
        parts: list[Corrector | Solver] = [*self.correctors, *([self.solver] if self.solver else [])]
        asked += [name for part in parts for name in part.conditions]
        return [name for name in dict.fromkeys(asked) if name not in (COND, UNCOND)]


@torch.no_grad()
def run(pipe: Any, loop: Loop, prompts: Sequence[str], negatives: Sequence[str | None], seeds: Sequence[int],
        progress: Progress | None = None) -> tuple[list[Image.Image], Function]:
    """One image per prompt and seed, and the finished model. For `StableDiffusion3Pipeline` and the embedded one."""
    model = loop_model(pipe, loop, prompts, negatives)
    x = sample(model, _noise(pipe, loop, seeds), *loop.correctors, solver=loop.solver, on_step=progress)
    return [image for part in x.split(loop.rows or len(x)) for image in _images(pipe, part)], model


@torch.no_grad()
def loop_model(pipe: Any, loop: Loop, prompts: Sequence[str], negatives: Sequence[str | None]) -> Function:
    """The network of a pipeline under the loop's rules, on the levels of its scheduler: what `emag.sample` drives."""
    host = host_of(pipe)
    if host.name != "StableDiffusion3Pipeline":
        raise Unsupported(f"our own loop drives StableDiffusion3Pipeline and the embedded model, not {host.name}: for "
                          "another network write denoiser(x, t, condition), and use emag.guided and emag.sample")
    network = read_network(pipe.transformer)
    loop = replace(loop, rules=resolved(loop.rules, models_of(pipe), network))
    texts: dict[str, Any] = {COND: list(prompts), UNCOND: [text or "" for text in negatives]}
    texts |= {name: _value(name, loop) for name in loop.named}
    conditions = {name: _rows(encode_condition(value, host, pipe, network), len(prompts)) for name, value in texts.items()}
    inside = pipe.transformer if any(map(looks_inside, loop.rules)) else None
    return guided(_denoiser(pipe, loop.rows or len(prompts)), *loop.rules, path=_path(pipe, loop.steps or 28),
                  conditions=conditions, backbone=inside, decode=PipelineImages(pipe))


def _value(name: str, loop: Loop) -> Condition:
    if name in loop.conditions:
        return loop.conditions[name]
    if name.startswith(PROMPT):
        return name.removeprefix(PROMPT)
    raise BadValue(f"the condition {name!r} was not given: say Loop(..., conditions={{{name!r}: 'a prompt'}}), or name it "
                   "'prompt:a prompt'")


def _denoiser(pipe: Any, rows: int) -> Any:
    trained, network = pipe.scheduler.config.num_train_timesteps, pipe.transformer

    def denoiser(x: torch.Tensor, sigma: float, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        timestep, parts = torch.full((len(x),), sigma * trained, device=x.device), []
        for at in range(0, len(x), rows):
            part = slice(at, at + rows)
            values = {name: value[part] for name, value in condition.items()}
            parts.append(network(x[part].to(network.dtype), timestep=timestep[part], **values, return_dict=False)[0])
        return torch.cat(parts)

    return denoiser


def _path(pipe: Any, steps: int) -> Path:
    sigmas = uniform_sigmas(steps) if isinstance(pipe, SmallPipeline) else None
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
