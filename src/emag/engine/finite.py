"""Whether the predictions of a run are finite, and if not, which one was the first: the network's own, or a rule's."""

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..errors import NotFinite

Maker = Literal["network", "rule", "host"]
MENDS: dict[Maker, str] = {"network": "its weights are damaged, or overflow in this dtype: use bfloat16 or float32",
         "rule": "what it was made from is finite: give the rule a weaker setting, or leave it out",
         "host": "the predictions before it were: look at the scheduler, callbacks and the first latents"}


@dataclass(frozen=True)
class Asked:
    """One tensor asked about. what: in words; whose: who made it; flag: a bool on its device."""

    what: str
    whose: Maker
    flag: torch.Tensor


@dataclass(frozen=True)
class Sent:
    """The answers of one step on their way to the host. event: over when they are there."""

    asked: tuple[Asked, ...]
    flags: torch.Tensor
    event: Any


class Finite:
    """Asks of every prediction of a run whether it is finite. Raises `NotFinite` for the first that is not.

    On the CPU that is at once. A CUDA device is never waited for: the answers of a step are copied in the background and
    read when they have arrived, a few steps late at most. On other devices they are read after the last step.
    """

    def __init__(self) -> None:
        self._asked: list[Asked] = []
        self._sent: deque[Sent] = deque()

    def ask(self, what: str, whose: Maker, tensor: torch.Tensor) -> None:
        """what: the tensor in words, with its step; whose: made by the "network", a "rule" or the "host"."""
        one = Asked(what, whose, torch.isfinite(tensor).all())
        if one.flag.device.type == "cpu":
            _check(one, bool(one.flag))
        else:
            self._asked.append(one)

    def after_step(self) -> None:
        """Send the answers of a step on their way, and read those that have arrived."""
        if self._asked and self._asked[0].flag.device.type == "cuda":
            # an asynchronous copy and an event behind it: nobody waits, and the answers are read when the event is over
            flags = torch.stack([one.flag for one in self._asked]).to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._sent.append(Sent(tuple(self._asked), flags, event))
            self._asked.clear()
        while self._sent and self._sent[0].event.query():
            self._read(self._sent.popleft())

    def finish(self) -> None:
        """Read all answers, in order; the device is waited for."""
        while self._sent:
            self._sent[0].event.synchronize()
            self._read(self._sent.popleft())
        for one in self._asked:
            _check(one, bool(one.flag))
        self._asked.clear()

    def _read(self, sent: Sent) -> None:
        for one, flag in zip(sent.asked, sent.flags.tolist(), strict=True):
            _check(one, flag)


def _check(one: Asked, finite: bool) -> None:
    if not finite:
        raise NotFinite(f"{one.what} is not finite (infinite values or NaNs): {MENDS[one.whose]}")
