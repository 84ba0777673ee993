"""A network watched while it draws: how far it is, what the picture looks like, and whether to stop.

Hooks of torch's own see every call of a network by its pipeline, guided or not, and are taken off at the end.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from ...engine.answer import sample_in
from ...engine.trajectory import Trajectory, trajectory
from ...errors import EmagError
from ...hosts.lookup import denoisers
from ...maths.predictions import to_x0
from .model import Model

PICTURES = 6
"""Pictures of the way there in one run: each is decoded, which large models pay for."""


class Stopped(EmagError):
    """Somebody asked for the end of a run."""


@dataclass
class Watch:
    """Counts the evaluations of one call of the pipeline. tell: called with the step, their number, and a picture or None.

    calls: of the network in a step. stop: asked before each of them. rows: images of the call.
    """

    model: Model
    tell: Callable[[int, int, Image.Image | None], None]
    stop: Callable[[], bool]
    calls: int = 1
    rows: int = 1
    pictures: bool = True
    path: Trajectory | None = None
    count: int = field(default=0, init=False)

    def before(self, *call: Any) -> None:
        """Ahead of a call of the network. Raises `Stopped`."""
        if self.stop():
            raise Stopped("stopped: the network is as it was before the run")

    def after(self, network: Any, args: tuple, kwargs: dict[str, Any], answer: Any) -> None:
        """Behind a call of the network."""
        if self.count == 0:
            self.path = trajectory(self.model.pipe.scheduler)
        assert self.path is not None
        step, rest = divmod(self.count, self.calls)
        self.count += 1
        if rest == 0 and step < len(self.path.timesteps):
            self.tell(step + 1, len(self.path.timesteps), self._picture(step, args, kwargs, answer))

    def _picture(self, step: int, args: tuple, kwargs: dict[str, Any], answer: Any) -> Image.Image | None:
        """What the network takes the picture for at this step: x0 of its conditional prediction, guided where rules push."""
        assert self.path is not None
        total, backbone = len(self.path.timesteps), self.model.network.backbone
        due = step * PICTURES // total != (step - 1) * PICTURES // total
        x, p = kwargs.get(backbone.sample, args[0] if args else None), sample_in(answer)
        if not (self.pictures and due and isinstance(x, torch.Tensor) and x.ndim == 4 and isinstance(p, torch.Tensor)):
            return None
        first = len(x) - self.rows if self.model.host.layout == "neg-pos" else 0
        x, p, at = x[first:first + 1].float(), p[first:first + 1, :x.shape[1]].float(), self.path.index[step]
        alpha, sigma = self.path.alphas[at], self.path.sigmas[at]
        if p.shape != x.shape or (alpha == 0 and self.path.space == "epsilon"):
            return None
        return decoded(self.model.pipe, to_x0(-p if backbone.negated else p, x, alpha, sigma, self.path.space))


def decoded(pipe: Any, latents: torch.Tensor) -> Image.Image | None:
    """The picture of latents [1, c, h, w]; None for a pipeline that decodes in another way."""
    vae: Any = getattr(pipe, "vae", None)
    processor = getattr(pipe, "image_processor", None)
    scale = getattr(getattr(vae, "config", None), "scaling_factor", None)
    if processor is None or not isinstance(scale, (int, float)):
        return None
    shift = getattr(vae.config, "shift_factor", None) or 0
    with torch.no_grad():
        made = vae.decode((latents / scale + shift).to(vae.dtype), return_dict=False)[0]
    return processor.postprocess(made.detach(), output_type="pil")[0]


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """While it lasts, `watch` sees every call of the pipeline's networks."""
    with ExitStack() as held:
        for network in denoisers(watch.model.pipe, watch.model.host):
            held.callback(network.register_forward_pre_hook(watch.before).remove)
            held.callback(network.register_forward_hook(watch.after, with_kwargs=True).remove)
        yield
