"""What a run on a model would cost, from its configuration alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from ..core import Rule, weak_before, weak_branches
from ..engine.network import Network
from ..engine.plan import Plan, plan
from ..engine.reading import read_network
from ..engine.trajectory import Trajectory
from ..errors import BadValue
from ..families import BACKBONES
from ..files import parsed
from ..hosts.defaults import resolved
from ..hosts.load import HUB_ID, MODELS, refuse_parts
from ..hosts.lookup import host_of_class
from ..hosts.opening import FILES, ModelSource, configured
from ..methods.emag.rule import EMAttention
from ..models import WEIGHTS, folder
from ..schedules import APPLIED, OBSERVED
from .peak import of_decoder, of_network

PICTURE, SPARED = {"off": ".", "watch": "o", "apply": "#", "hold": "#"}, "~"



def forecast(model: str, rules: Sequence[Rule], steps: int, height: int | None = None, width: int | None = None,
             images: int = 1, text: int | None = None, uncond: bool = True, origin: ModelSource = ModelSource(),  # noqa: B008
             revision: str | None = None) -> dict[str, Any]:
    """Block evaluations, memory and window of `rules` on `model`, no weights read. Flow-like noise levels are assumed.

    origin, revision: as `emag.load` takes them.
    """
    network = skeleton(model, origin, revision)
    found = foretold(network, model, rules, steps, height, width, images, text, uncond)
    return {**found, "memory": memory(network, model, rules, height, width, images, text, uncond, origin, revision, steps)}


def foretold(network: Network, model: str, rules: Sequence[Rule], steps: int, height: int | None = None,
             width: int | None = None, images: int = 1, text: int | None = None, uncond: bool = True) -> dict[str, Any]:
    """The same for a network that is at hand."""
    active = [rule for rule in resolved(rules, (model,), network) if not rule.neutral]
    for rule in active:
        rule.fits_network(network)
    path = Trajectory.even(steps)
    planned = plan(active, network.depth, path, uncond)
    tokens = _tokens(network, model, height, width, text)
    branches = [_branch(branch, path.sigmas, planned, network, tokens, images) for branch in weak_branches(active)
                if isinstance(branch, EMAttention)]
    return {"model": model, "network": network.backbone.name, "blocks": network.depth, "steps": steps,
            "image_tokens": tokens[0], "text_tokens": tokens[1], "clean": planned.host, "evaluations": planned.total,
            "backward": planned.backward, "again": planned.again, "weak": branches}


def memory(network: Network, model: str, rules: Sequence[Rule], height: int | None = None, width: int | None = None,
           images: int = 1, text: int | None = None, uncond: bool = True, origin: ModelSource = ModelSource(),  # noqa: B008
           revision: str | None = None, steps: int | None = None) -> dict[str, Any] | None:
    """What energies among `rules` keep beside the weights, in bytes, at the largest evaluation that they differentiate.

    None where none differentiates anything, or the class of the network or of the decoder is not known; a rule's score is
    not in it. "least": the same with checkpoint=true. In float32; 16 bits take about half. steps: of the run, where known.
    """
    found: list[Any] = [rule for rule in rules if rule.kind == "energy" and not rule.neutral and hasattr(rule, "checkpoint")]
    if not found:
        return None
    tokens = _tokens(network, model, height, width, text)
    pixels = tokens[0] * _pixels_of_token(network, _facts(model).get("latent_pixels")) ** 2
    decoders = [_decoder_config(model, rule.decoder, origin, revision) for rule in found]
    weak = [sum(branch.copies for branch in weak_before(rules, rules.index(rule))) for rule in found]
    found = [replace(rule, steps=min(rule.steps, steps or rule.steps)) for rule in found]
    kept = [_kept(rule, network, tokens, pixels, images, (2 if uncond else 1) + more, config)
            for rule, config, more in zip(found, decoders, weak)]
    if any(one is None for one in kept):
        return None
    return {"bytes": round(max(one[rule.checkpoint] for rule, one in zip(found, kept))),
            "least": round(max(one[True] for one in kept)), "images": images}


def _kept(rule: Any, network: Network, tokens: tuple[int, int], pixels: int, images: int, guided: int,
          autoencoder: dict[str, Any]) -> Any:
    """The most bytes there are for a rule: as it is, and checkpointed. None where that is not known.

    guided: rows per image of all branches, weak ones too, that the guided estimate is made of.
    """
    # draws and steps are evaluated one after the other, as rows are, and kept together until the backward pass
    decoder = of_decoder(autoencoder, pixels, images, rule.draws)
    if decoder is None or not rule.through_network:
        return decoder and tuple(one.most for one in decoder)
    rows = images * (guided if rule.of == "guided" else 1) * rule.steps
    config: Any = network.module.config
    kept = of_network(type(network.module), config, tokens, rows)
    return kept and tuple(ours.before(theirs) for ours, theirs in zip(kept, decoder))


def skeleton(model: str, origin: ModelSource = ModelSource(), revision: str | None = None) -> Network:  # noqa: B008
    """The network of a model without its weights: from its configuration, on the meta device."""
    config = _config(model, origin, revision)
    name = config.get("_class_name")
    if name not in BACKBONES:
        raise BadValue(f"{model} has a {name}; supported networks are {', '.join(BACKBONES)}")
    with torch.device("meta"):
        return read_network(getattr(diffusers, name).from_config(config))


def _tokens(network: Network, model: str, height: int | None, width: int | None, text: int | None) -> tuple[int, int]:
    own = _facts(model)
    return (image_tokens(network, height, width, own.get("latent_pixels")),
            text_tokens(network, own.get("max_length") if text is None else text))


def _path(model: str) -> Path:
    return WEIGHTS / model if model in MODELS else Path(model)


def _facts(model: str) -> dict[str, Any]:
    """What a small model says of itself; nothing for others."""
    own = _path(model) / folder.PROMPT
    return dict(parsed(own.read_bytes())) if own.is_file() else {}


def _decoder_config(model: str, decoder: Any, origin: ModelSource, revision: str | None) -> dict[str, Any]:
    """The configuration of a model's autoencoder, or of the one that a rule names in its place."""
    if isinstance(decoder, str):
        return _read(decoder, lambda: _of_part(decoder, None, {}))
    path = _path(model)
    if not (path / folder.PROMPT).is_file():
        return _part(model, "vae", origin, revision)
    if not (path / folder.SHAPE).is_file():
        return {"_class_name": "PixelVAE"}
    return {"_class_name": "PatchAutoencoder", **parsed((path / folder.SHAPE).read_bytes())}


def _config(model: str, origin: ModelSource, revision: str | None) -> dict[str, Any]:
    """The configuration of a model's network."""
    path = _path(model)
    if not (path / folder.PROMPT).is_file():
        return _part(model, None, origin, revision)
    refuse_parts(model, origin, revision)
    return _read(model, lambda: dict(parsed((path / "config.json").read_bytes())))


def _part(model: str, part: str | None, origin: ModelSource, revision: str | None) -> dict[str, Any]:
    """The configuration of a part of a pipeline, by name; None is what it denoises with."""
    def read() -> dict[str, Any]:
        path = Path(model)
        if not path.exists() and path.suffix not in FILES and not HUB_ID.fullmatch(model):
            raise BadValue("there is no such folder, and it is no hub id")
        place, where, cls = configured(model, revision, origin)
        return _of_part(place, part or host_of_class(cls).denoiser, where)

    return _read(model, read)


def _of_part(place: str, part: str | None, where: dict[str, Any]) -> dict[str, Any]:
    """Any model class reads the file as it is; which one it names is looked at by the caller."""
    within = {"subfolder": part} if part else {}
    return dict(diffusers.SD3Transformer2DModel.load_config(place, **within, **where))


def _read(model: str, config: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return config()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise BadValue(f"cannot read the configuration of {model}: {folder.first_line(error)}") from None


def image_tokens(network: Network, height: int | None, width: int | None, latent: int | None = None) -> int:
    """Image tokens for a picture of height x width pixels, or of the network's own size; a video has its usual frames.

    latent: pixels along a side of a latent; None is what models of the network's class usually have.
    """
    config: Any = network.module.config
    pixels = _pixels_of_token(network, latent)
    if network.backbone.usual_video:
        (frames, *sides), (few, _) = network.backbone.usual_video, network.backbone.token_extent
        depth = -(-((frames - 1) // few + 1) // (getattr(config, "patch_size_t", None) or 1))
        return depth * ((height or sides[0]) // pixels) * ((width or sides[1]) // pixels)
    if network.backbone.grid_ids:
        own = 1024
    else:
        size = getattr(config, "sample_size", None)
        own = size * pixels // network.patch if size else 1024
    return ((height or own) // pixels) * ((width or own) // pixels)


def _pixels_of_token(network: Network, latent: int | None) -> int:
    """Pixels along a side of a token, of an image."""
    if network.backbone.usual_video:
        return network.backbone.token_extent[1]
    config: Any = network.module.config
    usual = 1 if getattr(config, "in_channels", None) == 3 else network.backbone.latent_pixels
    return 16 if network.backbone.grid_ids else network.patch * (latent or usual)


def text_tokens(network: Network, text: int | None) -> int:
    """Text tokens that the tapped attention sees."""
    if not any(stack.sees_text for stack in network.backbone.stacks):
        return 0
    return text if text is not None else network.backbone.usual_text


def _branch(branch: EMAttention, sigmas: tuple[float, ...], planned: Plan, network: Network, tokens: tuple[int, int],
            images: int) -> dict[str, Any]:
    phases = branch.window.phases(sigmas)
    watched = [i for i, phase in enumerate(phases) if phase in OBSERVED]
    applied = [i for i, phase in enumerate(phases) if phase in APPLIED]
    made = [i for i in applied if branch in planned.steps[i]]
    shown = (SPARED if i in applied and i not in made else PICTURE[phase] for i, phase in enumerate(phases))
    attention: Any = network.blocks[branch.blocks[0]].attention
    heads = getattr(attention, "heads", None) or attention.num_heads
    head_dim = getattr(attention, "head_dim", None) or attention.inner_dim // heads
    # frames that attend apart have a map each
    frames = network.backbone.usual_video[0] if network.backbone.framed and network.backbone.usual_video else 1
    return {"method": f"emag {branch.variant}", "blocks": list(branch.blocks), "watched": len(watched),
            "applied": len(applied), "evaluated": len(made), "picture": "".join(shown), "images": images,
            "bytes": branch.state_bytes(images * frames, tokens[0] // frames, tokens[1], heads, head_dim),
            "first_weight": [branch.first_weight(sum(i <= at for i in watched) - 1, len(sigmas))
                             for at in (applied[0], applied[-1])]}
