"""The arguments of one network call, by name, and their batch rows."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import Unsupported
from ..families import Backbone
from .answer import Answer
from .network import Network

_Change = Callable[[Any], Any]
PLACED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Arguments:
    """One call of a network, its values in our form: x_t one tensor with channels after the rows, all tensors rows first.

    per_row, shared: extra attention arguments declared to have batch rows, or none. positional: names of the arguments that
    the host gives by their place, in order; further: those behind them that have no name.
    """

    network: Network
    values: dict[str, Any]
    per_row: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    further: tuple[Any, ...] = ()

    @classmethod
    def bind(cls, network: Network, args: tuple, kwargs: dict[str, Any], per_row: tuple[str, ...] = (),
             shared: tuple[str, ...] = ()) -> "Arguments":
        """The call `forward(*args, **kwargs)`. Raises `TypeError` for arguments that the network does not take."""
        bound, kinds = network.signature.bind(*args, **kwargs).arguments, network.signature.parameters
        values = {name: value for name, value in bound.items() if kinds[name].kind not in OPEN}
        for name in bound.keys() - values.keys():
            if kinds[name].kind is inspect.Parameter.VAR_KEYWORD:  # a forward(x, t, **more) has their own names for them
                values |= bound[name]
        placed = [name for name, parameter in kinds.items() if parameter.kind in PLACED][:len(args)]
        return cls(network, _to_ours(values, network.backbone), per_row, shared, tuple(placed), args[len(placed):])

    def evaluated(self, forward: Callable[..., Any]) -> Answer:
        """What `forward` answers to this call. It gets by place and by name what the host gives so."""
        backbone, named = self.network.backbone, self.as_given()
        placed = [named.pop(name) for name in self.positional]
        return Answer.of(forward(*placed, *self.further, **named), self.network.latents(self.sample), backbone)

    def as_given(self) -> dict[str, Any]:
        """The values by name in the form in which the host gives them."""
        # a U-Net takes what it adds from its list of residuals out of that list
        values = {name: list(value) if isinstance(value, list) else value for name, value in self.values.items()}
        return _to_hosts(values, self.network.backbone)

    @property
    def sample(self) -> torch.Tensor:
        """x_t as the network gets it, [rows, ...]."""
        return self.values[self.network.backbone.sample]

    @property
    def total(self) -> int:
        """Batch rows of the call."""
        return self.sample.shape[0]

    def condition(self) -> dict[str, torch.Tensor]:
        """The condition tensors given as arguments, all rows; of a tuple (text, pictures) the text."""
        given = {name: self.value(name) for name in self.network.backbone.condition}
        found = {name: value[0] if isinstance(value, tuple) else value for name, value in given.items()}
        return {name: value for name, value in found.items() if value is not None}

    def value(self, name: str) -> Any:
        """One argument, or entry b of the dict a for the name "a.b"; None where there is none."""
        outer, _, inner = name.partition(".")
        value = self.values.get(outer)
        return (value or {}).get(inner) if inner else value

    def replacing(self, values: dict[str, Any]) -> "Arguments":
        """The same call with some arguments changed; the name "a.b" means entry b of the dict a."""
        new = dict(self.values)
        for name, value in values.items():
            outer, _, inner = name.partition(".")
            own = new.get(outer)
            if isinstance(own, tuple) and isinstance(value, torch.Tensor):
                value = value, *own[1:]  # the pictures beside a text stay
            new[outer] = {**(own or {}), inner: value} if inner else value
        return replace(self, values=new)

    def later(self, by: float) -> "Arguments":
        """The same call, its timestep moved by so much of the scheduler's."""
        backbone = self.network.backbone
        told = torch.as_tensor(self.values[backbone.timestep])
        time = told * backbone.time_scale + backbone.time_offset
        # tokens of a given picture have a time of their own, 0, and keep it
        moved = torch.where((time == 0) & (time < time.amax()), told, told + by / backbone.time_scale)
        return self.replacing({backbone.timestep: moved.to(told.dtype) if told.is_floating_point() else moved})

    def conditioned(self, condition: dict[str, Any]) -> "Arguments":
        """The same call under another condition: masks of the call's own type; masks and positions cover the image too."""
        backbone, pictures = self.network.backbone, self.network.image_tokens(self.values) + self.network.references
        new = {name: self._typed(name, value) for name, value in condition.items()}
        if backbone.joint_mask and new.get(backbone.joint_mask) is not None:
            mask = new[backbone.joint_mask]
            new[backbone.joint_mask] = torch.cat([mask, mask.new_ones(mask.shape[0], pictures)], 1)
        if backbone.joint_ids and backbone.text in new:
            # positions of text are 0 on these networks; those of the image stay what they are
            ids = self.values[backbone.joint_ids]
            text = ids.new_zeros(new[backbone.text].shape[1], ids.shape[1])
            new[backbone.joint_ids] = torch.cat([text, ids[-pictures:]])
        return self.replacing(new)

    def _typed(self, name: str, value: Any) -> Any:
        """A condition argument as the call has it: a list of rows; a mask of whole numbers or of truth values."""
        own = self.values.get(name)
        if name in self.network.backbone.lists:
            return list(value)
        return value.to(own.dtype) if isinstance(own, torch.Tensor) and not own.is_floating_point() else value

    def rows(self, rows: slice) -> "Arguments":
        """The same call for some rows. Arguments are sliced by declared name, never by the look of their shape."""
        # all rows: the very call, so that nothing is copied
        if len(range(*rows.indices(self.total))) == self.total:
            return self
        return self._each(lambda value: value if len(value) == 1 else value[rows])

    def repeated(self, times: int) -> "Arguments":
        """The same call with all its rows `times` over."""
        if times == 1:
            return self

        def over(value: Any) -> Any:
            if len(value) != self.total:
                return value
            return value * times if isinstance(value, list) else torch.cat([value] * times)

        return self._each(over)

    def _each(self, change: _Change) -> "Arguments":
        """The same call, its declared row tensors changed."""
        backbone, values = self.network.backbone, dict(self.values)
        for name in backbone.per_row:
            values[name] = self._changed(name, values.get(name), change)
        if backbone.kwargs and values.get(backbone.kwargs):
            values[backbone.kwargs] = self._kwargs(values[backbone.kwargs], change)
        sizes = values.get(backbone.grid_ids or "")
        if isinstance(sizes, list) and len(sizes) == self.total:  # one entry per row
            values[str(backbone.grid_ids)] = [sizes[i] for i in change(torch.arange(self.total)).tolist()]
        return replace(self, values={k: v for k, v in values.items() if k in self.values})

    def _changed(self, name: str, value: Any, change: _Change) -> Any:
        if name in self.network.backbone.lists:
            return change(value)
        if isinstance(value, dict):
            return {key: self._changed(f"{name}[{key!r}]", v, change) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._changed(name, v, change) for v in value)
        if not isinstance(value, torch.Tensor) or value.ndim == 0:
            return value
        if value.shape[0] not in (1, self.total):
            raise Unsupported(f"argument {name} has {value.shape[0]} rows, but the batch has {self.total}")
        return change(value)

    def _may_have_rows(self, value: Any) -> bool:
        if isinstance(value, (dict, list, tuple)):
            return any(map(self._may_have_rows, value.values() if isinstance(value, dict) else value))
        return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == self.total > 1

    def _kwargs(self, kwargs: dict[str, Any], change: _Change) -> dict[str, Any]:
        declared = (*self.network.backbone.kwargs_rows, *self.per_row)
        for name, value in kwargs.items():
            if name not in declared and name not in self.shared and self._may_have_rows(value):
                raise Unsupported(f"cannot tell whether the attention argument {name!r} has one entry per batch row: say "
                                  f"emag.guide(..., per_row=({name!r},)) or shared=({name!r},)")
        return {n: self._changed(n, v, change) if n in declared else v for n, v in kwargs.items()}


def _to_ours(values: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    """The host's arguments in our form."""
    rows_first = {name: values[name].movedim(dim, 0) for name, dim in backbone.row_dims if values.get(name) is not None}
    x = values[backbone.sample]
    if backbone.framed:
        frames = x.movedim(backbone.channel_dim, 1).shape[2]
        rows_first |= _each_of(values, backbone.frame_rows, lambda rows: rows.unflatten(0, (-1, frames)))
        rows_first |= _each_of(values, backbone.frame_copies, lambda rows: rows[::frames])
    if backbone.sample in backbone.lists:
        x = x[0] if backbone.lone else torch.stack(list(x)).squeeze(2)
    elif backbone.channel_dim != 1:  # else the very tensor: hosts that make two calls are told by it
        x = x.movedim(backbone.channel_dim, 1)
    return {**values, **rows_first, backbone.sample: x}


def _each_of(values: dict[str, Any], names: tuple[str, ...], change: _Change) -> dict[str, Any]:
    """Some arguments, tensors or lists of them, changed."""
    found = {name: values[name] for name in names if values.get(name) is not None}
    return {name: change(value) if isinstance(value, torch.Tensor) else type(value)(map(change, value))
            for name, value in found.items()}


def check_copies(network: Network, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise `Unsupported` where frames of a sample have conditions of their own. Waits for the device."""
    values, backbone = network.signature.bind(*args, **kwargs).arguments, network.backbone
    for name in backbone.frame_copies:
        frames, value = values[backbone.sample].movedim(backbone.channel_dim, 1).shape[2], values.get(name)
        if value is not None and not torch.equal(value[::frames].repeat_interleave(frames, 0), value):
            raise Unsupported(f"{name} of this {backbone.name} differs from frame to frame (FreeNoise with several texts?) "
                              "and emag knows one condition for all frames of a video: give one prompt")


def _to_hosts(values: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    """The inverse of `_to_ours`."""
    moved = {name: values[name].movedim(0, dim) for name, dim in backbone.row_dims if values.get(name) is not None}
    x = values[backbone.sample]
    if backbone.framed:
        frames = x.shape[2]
        moved |= _each_of(values, backbone.frame_rows, lambda rows: rows.flatten(0, 1))
        moved |= _each_of(values, backbone.frame_copies, lambda rows: rows.repeat_interleave(frames, 0))
    if backbone.sample in backbone.lists:
        x = [x] if backbone.lone else list(x.unsqueeze(2))
    else:
        x = x.movedim(1, backbone.channel_dim)
    return {**values, **moved, backbone.sample: x}
