"""Arguments for a network that nobody has described: by the names that diffusers gives them, their widths by trial."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from ....models.folder import first_line
from ....testing.small import noise
from .unreadable import Unreadable

ROWS, TEXT = 2, 5
GRID = (4, 4)
SIDE, FRAMES = 8, 3
WIDTHS = (7, 11, 13, 17, 19, 23, 29, 31)
"""Widths to begin with: each argument has its own, so that torch's complaint tells which argument it is about."""
CHANNELS = ("in_channels", "in_visual_dim", "latent_dim")
AXES = ("axes_dims_rope", "rope_axes_dim", "axes_dims", "rope_dim_list", "mrope_section")

OPTIONAL = (("encoder_hidden_states", "timestep", "timesteps", "img_ids", "txt_ids"), ("pooled_projections",),
            ("text_encoder_layers",),
            ("class_labels",), ("num_frames", "height", "width"),
            ("encoder_attention_mask", "encoder_hidden_states_mask", "attention_mask"))
"""Arguments that a forward may go without, in the order in which they are tried."""

_COMPLAINTS = (
    r"mat1 and mat2 shapes cannot be multiplied \(\d+x(?P<got>\d+) and (?P<wanted>\d+)x\d+\)",
    r"same reduction dim, but got \[\d+, (?P<got>\d+)\] X \[(?P<wanted>\d+), \d+\]",
    r"to have (?P<wanted>\d+) channels, but got (?P<got>\d+) channels",
    r"normalized_shape=\[(?P<wanted>\d+)\].*input of size\[(?:\d+, )*(?P<got>\d+)\]",
    r"size of tensor a \((?P<got>\d+)\) must match the size of tensor b \((?P<wanted>\d+)\)",
    r"size of tensor a \((?P<wanted>\d+)\) must match the size of tensor b \((?P<got>\d+)\)")


@dataclass
class MadeCall:
    """A call of a network that works. sample, text, time: the names of those arguments; text is None where there is none."""

    network: torch.nn.Module
    arguments: dict[str, Any]
    sample: str
    time: str
    text: str | None
    channel_dim: int = 1

    def __call__(self, **other: Any) -> torch.Tensor:
        """The network's answer, some arguments replaced; without gradients."""
        return answer(self.network, {**self.arguments, **other})


@torch.no_grad()
def answer(network: torch.nn.Module, arguments: dict[str, Any]) -> torch.Tensor:
    """The first tensor of a network's answer."""
    found = network(**arguments)
    while not isinstance(found, torch.Tensor):
        found = next(iter(found.values() if hasattr(found, "values") else found))
    return found


def made_up(network: torch.nn.Module) -> MadeCall:
    """A call of `network`. Raises `Unreadable`, with the last complaint, where none can be made up."""
    parameters = inspect.signature(type(network).forward).parameters
    names = [name for name, one in parameters.items() if name != "self" and one.kind is not one.VAR_KEYWORD]
    needed = [name for name in names if parameters[name].default is inspect.Parameter.empty]
    said: list[str] = []
    for channel_dim, shape in _shapes(network, names):
        for further in _further(network, names):
            try:
                return _Trial(network, names, {*needed, *further}, shape, channel_dim).made()
            except Unreadable:
                raise
            except Exception as error:  # whatever a network says of arguments that do not suit it
                said.append(first_line(error)[:160])
        said = said[:len(OPTIONAL)]  # what the likeliest shape ended with
    raise Unreadable(f"no call of it could be made up; the last try said: {said[-1]}")


def _shapes(network: torch.nn.Module, names: list[str]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(dimension of the channels, shape) of x_t, the likeliest first."""
    channels = next((network.config[name] for name in CHANNELS if network.config.get(name)), WIDTHS[-1])
    packed = 1, (ROWS, prod(GRID), channels)  # a sequence of patches has its channels last whatever an entry says
    image = 1, (ROWS, channels, SIDE, SIDE)
    films = (1, (ROWS, channels, FRAMES, SIDE, SIDE)), (2, (ROWS, FRAMES, channels, SIDE, SIDE))
    if any("ids" in name or name == "img_shapes" for name in names):
        yield from (packed, image)
    elif "3D" in type(network).__name__:
        yield from (*films, packed)
    else:
        yield from (image, packed, *films)


def _further(network: torch.nn.Module, names: list[str]) -> Iterator[list[str]]:
    chosen = ["guidance"] * bool(network.config.get("guidance_embeds") and "guidance" in names)
    for group in OPTIONAL:
        chosen = [*chosen, *(name for name in group if name in names)]
        yield chosen


@dataclass
class _Trial:
    """One choice of arguments and of the shape of x_t, whose widths are mended until the network is content."""

    network: torch.nn.Module
    names: list[str]
    given: set[str]
    shape: tuple[int, ...]
    channel_dim: int
    widths: dict[str, int] = field(default_factory=dict)

    @property
    def sample(self) -> str:
        return self.names[0]

    @property
    def tokens(self) -> int:
        return self.shape[1] if len(self.shape) == 3 else 0

    def made(self) -> MadeCall:
        arguments = self._arguments()
        for _ in range(2 * len(WIDTHS)):
            try:
                answer(self.network, arguments)
            except (RuntimeError, ValueError) as error:
                self._mend(error)
                arguments = self._arguments()
            else:
                time = next((name for name in self.given if fits(name, TIME)), None)
                if time is None:
                    raise Unreadable("its forward takes no argument that is a time by its name")
                text = next((name for name in self.names if name in self.given and fits(name, WORDS)), None)
                return MadeCall(self.network, arguments, self.sample, time, text, self.channel_dim)
        raise ValueError("no widths suit it")

    def _mend(self, error: Exception) -> None:
        """Another width for the argument that a complaint is about. Raises it again where it is about no width of ours."""
        for pattern in _COMPLAINTS:
            said = re.search(pattern, str(error), re.DOTALL)
            name = said and next((name for name, width in self.widths.items() if width == int(said["got"])), None)
            if said and name and int(said["wanted"]) not in WIDTHS:
                self.widths[name] = int(said["wanted"])
                return
        raise error

    def _arguments(self) -> dict[str, Any]:
        made = {name: self._one(at, name) for at, name in enumerate(self.names) if name in self.given}
        return made | ({"return_dict": False} if "return_dict" in self.names else {})

    def _one(self, at: int, name: str) -> Any:
        if name == self.sample:
            return noise(1, *self.shape)
        make = next((make for pattern, make in _MAKERS if fits(name, pattern)), None)
        if make is None:
            raise Unreadable(f"its forward wants {name}, and nothing here knows what that is")
        return make(self, at, name)

    def width(self, name: str) -> int:
        free = [one for one in WIDTHS if one not in self.widths.values()]
        return self.widths.setdefault(name, free[0])

    def axes(self) -> int:
        found = next((self.network.config[name] for name in AXES if self.network.config.get(name)), (0, 0, 0))
        return len(found)


def _words(trial: _Trial, at: int, name: str) -> Any:
    layers = trial.network.config.get("num_text_layers")
    return noise(at, ROWS, TEXT, *([layers] if layers else []), trial.width(name))


def _positions(before: int, image: bool) -> Callable[[_Trial, int, str], Any]:
    """Positions [tokens, axes]: zeros for `before` tokens of text, then the rows and columns of the image's."""
    def make(trial: _Trial, at: int, name: str) -> torch.Tensor:
        ids = torch.zeros(before + trial.tokens * image, trial.axes())
        if image:
            ids[before:, -2] = torch.arange(trial.tokens) // GRID[1]
            ids[before:, -1] = torch.arange(trial.tokens) % GRID[1]
        return ids

    return make


TIME, WORDS = r"timesteps?|t", r"encoder_hidden_states\w*|text(_\w+)?|cap_feats|prompt_embeds"
_MAKERS: tuple[tuple[str, Callable[[_Trial, int, str], Any]], ...] = (
    (TIME, lambda trial, at, name: torch.full((ROWS,), 0.5)),
    (r"\w*timestep\w*|sigma", lambda trial, at, name: torch.full((ROWS,), 0.5)),
    (r"guidance", lambda trial, at, name: torch.full((ROWS,), 3.5)),
    (r"img_ids", _positions(0, True)), (r"txt_ids", _positions(TEXT, False)), (r"position_ids", _positions(TEXT, True)),
    (r"\w*(lens|lengths)", lambda trial, at, name: torch.full((ROWS,), TEXT)),
    (r"\w*mask", lambda trial, at, name: torch.ones(ROWS, TEXT, dtype=torch.bool)),
    (r"img_shapes", lambda trial, at, name: [[(1, *GRID)]] * ROWS),
    (r"pooled\w*", lambda trial, at, name: noise(at, ROWS, trial.width(name))),
    (r"original_size|target_size|crop_coords", lambda trial, at, name: torch.full((ROWS, 2), float(SIDE))),
    (r"class_labels", lambda trial, at, name: torch.arange(ROWS)),
    (r"num_frames", lambda trial, at, name: 1), (r"height", lambda trial, at, name: GRID[0]),
    (r"width", lambda trial, at, name: GRID[1]),
    (r"text_encoder_layers", lambda trial, at, name: [noise(at + 50, ROWS, TEXT, trial.width(name))] * 64),
    (WORDS, _words))


def fits(name: str, pattern: str) -> bool:
    """True where a whole name is as a pattern says."""
    return re.fullmatch(pattern, name) is not None
