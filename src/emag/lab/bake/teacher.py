"""What a guided run shows, step by step: the network's own inputs for the conditional rows, and the guided prediction."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch

from ...core import Rule
from ...engine.answer import sample_in
from ...engine.arguments import Arguments
from ...engine.network import Network
from ...engine.reading import read_network
from ...engine.undo import Undo
from ...engine.view import CallKind
from ...errors import BadValue, Unsupported
from ...hosts.defaults import models_of, resolved
from ...hosts.lookup import denoisers, host_of
from ...hosts.pipeline import guide
from ...hosts.pipeline_view import PipelineView
from ...models.folder import first_line
from ...objectives import memory_of
from ..draw.sampling import generators
from .adapter import check_network

PLAIN = (torch.Tensor, bool, int, float, type(None))
NOT_AT_RANDOM = "so it cannot be asked at random times): leave out --times random"
TOLERANCE = 1e-3
"""Largest difference, as a share of the largest value, between what a network says and what its scheduler is given."""


@dataclass(frozen=True)
class Lesson:
    """One guided call: for each of its steps in order the network's inputs, by name, and the prediction they are to give.

    inputs: tensors with the conditional rows first, or shared by all rows; other values are the same at all steps. guided:
    [rows, ...], as the scheduler was given it, in fp32. images: final latents, [rows, ...].
    """

    inputs: tuple[dict[str, Any], ...]
    guided: tuple[torch.Tensor, ...]
    images: torch.Tensor


def follow(pipe: Any, rules: Sequence[Rule], call: Mapping[str, Any], seeds: Sequence[int]) -> Lesson:
    """One call of a diffusers pipeline under `rules`, in order from noise to image, so that a memory is what it is.

    call: arguments of the pipeline, prompts among them. Its own guidance combines where no rule does, as ever. Raises
    `Unsupported` for pipelines whose conditional rows cannot be told here, and what `emag.guide` raises.
    """
    network = _network(pipe)
    with guide(pipe, *rules) as run, _recorded(pipe, network, run, call) as (inputs, guided):
        made = pipe(**{**call, "output_type": "latent", "generator": generators(list(seeds))})
    if len(inputs) != len(guided):
        raise Unsupported(f"{len(inputs)} evaluations gave {len(guided)} steps: {type(pipe).__name__}'s scheduler evaluates "
                          "some noise levels twice, and baking needs one evaluation a step")
    latents = made.get("images", made.get("frames"))
    images = latents.detach() if isinstance(latents, torch.Tensor) else torch.empty(0)  # some know no latents
    return Lesson(tuple(inputs), tuple(guided), images)


def answer_at(pipe: Any, rules: Sequence[Rule], call: Mapping[str, Any], x: torch.Tensor, sigma: float) -> Lesson:
    """The guided prediction at one noise level of a flow, x_t given: a run of one step. For rules without a memory alone."""
    lesson = follow(pipe, rules, {**call, "latents": x, "sigmas": [sigma], "num_inference_steps": 1}, [0] * len(x))
    backbone, clock = _network(pipe).backbone, pipe.scheduler.config.num_train_timesteps
    seen, time = lesson.inputs[0][backbone.sample], lesson.inputs[0][backbone.timestep]
    told = (time.float() * backbone.time_scale + backbone.time_offset) / clock
    if seen.shape != x.shape or not torch.equal(seen, x.to(seen)) or (told - sigma).abs().max() > TOLERANCE:
        raise Unsupported(f"{type(pipe).__name__} does not start where it is told ({NOT_AT_RANDOM}")
    return lesson


def check_random(pipe: Any) -> None:
    """Raise `Unsupported` where a pipeline cannot be asked at a noise level of a flow."""
    known = inspect.signature(type(pipe).__call__).parameters
    if not {"latents", "sigmas"} <= set(known) or "FlowMatch" not in type(pipe.scheduler).__name__:
        raise Unsupported(f"{type(pipe).__name__} takes no latents and noise levels of a flow ({NOT_AT_RANDOM}")


def check_pipeline(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise `Unsupported` where what the network says is not what the scheduler gets: a LoRA could then not learn it.

    One step without any guidance is made and compared. Raises as `check_network`, too.
    """
    host, network = host_of(pipe), _network(pipe)
    check_network(network)
    off = {host.scale: host.off} if host.scale else {}
    lesson = follow(pipe, (), {**call, **off, "num_inference_steps": 1}, [0] * rows_in(call, host.prompt))
    try:
        with torch.no_grad():
            own = predicted(network, lesson.inputs[0], lesson.guided[0])
        far = (own - lesson.guided[0]).abs().max() / lesson.guided[0].abs().max().clamp(min=1e-12)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise Unsupported(f"the network of {type(pipe).__name__} cannot be asked again outside its pipeline, which baking "
                          f"does: {first_line(error)}") from error
    if not far < TOLERANCE:
        raise Unsupported(f"{type(pipe).__name__} changes the network's prediction on its way to the scheduler (by "
                          f"{float(far):.2g} of its largest value): what it does there cannot be baked in")


def predicted(network: Network, inputs: Mapping[str, Any], like: torch.Tensor) -> torch.Tensor:
    """The network's prediction for recorded inputs, fp32; of a learned variance nothing. like: [rows, channels, ...]."""
    made, channels = sample_in(network.module(**_nested(inputs))), network.backbone.channel_dim
    made = made.narrow(channels, 0, like.shape[channels]).float()
    return -made if network.backbone.negated else made


def rows_in(call: Mapping[str, Any], prompt: str) -> int:
    """How many images a call makes."""
    value = call[prompt]
    return len(value) if isinstance(value, list) else 1


def _network(pipe: Any) -> Network:
    host = host_of(pipe)
    networks = [read_network(one) for one in denoisers(pipe, host)]
    if len(networks) != 1 or networks[0].compiled:
        raise Unsupported(f"{host.name} has {len(networks)} networks: baking needs one" if len(networks) != 1 else
                          "a compiled network takes no adapter: bake before compiling")
    return networks[0]


@contextmanager
def _recorded(pipe: Any, network: Network, run: Any, call: Mapping[str, Any]
              ) -> Iterator[tuple[list[dict[str, Any]], list[torch.Tensor]]]:
    """Record the host's own calls of its network and its steps, until the block ends."""
    inputs: list[dict[str, Any]] = []
    guided: list[torch.Tensor] = []
    bound = inspect.signature(type(pipe).__call__).bind(pipe, **call)
    bound.apply_defaults()
    view = PipelineView(run.host, pipe, dict(bound.arguments), {}, {})
    scheduler, step, undo = pipe.scheduler, pipe.scheduler.step, Undo()

    def called(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = Arguments.bind(network, args, kwargs)
        kind = view.kind(arguments)
        if kind == "other":
            raise Unsupported(f"{run.host.name} calls its network a third time: baking knows the two calls of CFG")
        if kind != "uncond":
            inputs.append(_conditional(network, view, arguments, kind))

    def stepped(self: Any, model_output: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not scheduler:  # a copy, for the sound of a video
            return type(self).step(self, model_output, *args, **kwargs)
        # the result of a rule is marked as ours: what is kept is an ordinary tensor
        guided.append(model_output.detach().as_subclass(torch.Tensor).float().clone())
        return step(model_output, *args, **kwargs)

    view.install(network, undo)  # where the calls of a step are tagged
    hook = network.module.register_forward_pre_hook(called, with_kwargs=True)
    scheduler.step = MethodType(stepped, scheduler)
    try:
        yield inputs, guided
    finally:
        hook.remove()
        undo.close()
        del scheduler.step


def _conditional(network: Network, view: PipelineView, arguments: Arguments, kind: CallKind) -> dict[str, Any]:
    """The inputs of the conditional rows, flat by name ("a.b" is entry b of the dict a); no time stands without rows."""
    rows = view.rows(kind, arguments.total)
    values = arguments.rows(rows.cond).as_given()
    count = len(range(*rows.cond.indices(arguments.total)))
    time = torch.as_tensor(values[network.backbone.timestep])
    flat = dict(_flat({**values, network.backbone.timestep: time.expand(count) if time.numel() == 1 else time}))
    strange = [name for name, value in flat.items() if not isinstance(value, PLAIN)] + list(network.backbone.lists)
    if strange:
        raise Unsupported(f"{network.backbone.name} takes {strange[0]} as a list of rows: baking reads tensors alone")
    return {name: value.detach().clone() if isinstance(value, torch.Tensor) else value for name, value in flat.items()}


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values with names that lead to them: "a.b" in a dict, "a.(0" in a tuple, "a.[0" in a list."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat({f"{name}.{key}": item for key, item in value.items()})
        elif isinstance(value, (list, tuple)) and value:
            mark = "(" if isinstance(value, tuple) else "["
            yield from _flat({f"{name}.{mark}{at}": item for at, item in enumerate(value)})
        else:
            yield name, value


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What `_flat` was made of."""
    parts: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        outer, _, inner = name.partition(".")
        parts.setdefault(outer, {})[inner] = value
    return {name: part[""] if "" in part else _held(_nested(part)) for name, part in parts.items()}


def _held(inner: dict[str, Any]) -> Any:
    """A dict, or the tuple or list that its keys are places of."""
    mark = next(iter(inner))[0]
    return tuple(inner.values()) if mark == "(" else list(inner.values()) if mark == "[" else inner


def filled(pipe: Any, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """`rules` with the defaults of a pipeline in them, as its runs have them."""
    return resolved(rules, models_of(pipe), _network(pipe))


def check_times(pipe: Any, rules: Sequence[Rule], times: str) -> None:
    """Raise `BadValue` where rules with a memory are to be asked at random times, and for other words."""
    if times not in ("trajectory", "random"):
        raise BadValue(f"times must be trajectory or random, got {times!r}")
    for rule in filled(pipe, rules) if times == "random" else ():
        reason = memory_of(rule)
        if reason:
            raise BadValue(f"{rule.name} {reason}, so it has no answer at a random time: leave out --times random, and it "
                           "is followed along whole runs")
