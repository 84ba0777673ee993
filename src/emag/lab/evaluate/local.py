"""The local engine: one process per device, or several on a CPU."""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from transformers.utils import logging as transformers_logging

from ...errors import BadValue, EmagError
from .folder import RunFolder
from .tasks import Batch
from .work import maker, one_thread, open_model

OnDone = Callable[[int], None]


def devices_of(device: str | None) -> list[str]:
    """The devices of a run: the one named, or every CUDA device, or the CPU."""
    if device not in (None, "cuda"):
        return [str(device)]
    return [f"cuda:{at}" for at in range(torch.cuda.device_count())] or [device or "cpu"]


def run_here(folder: RunFolder, pipe: Any, batches: Sequence[Batch], device: str, on_done: OnDone) -> None:
    """Make `batches` in this process."""
    make = maker(folder, pipe)
    with one_thread(device):
        for batch in batches:
            on_done(make(batch))


def run_processes(folder: RunFolder, batches: Sequence[Batch], devices: Sequence[str], workers: int | None,
                  on_done: OnDone) -> None:
    """Make `batches` in `workers` processes, or one per device. Raises what a worker raised; `BadValue` where one died."""
    todo = iter(batches)
    count = min(workers or len(devices), len(batches))
    with _started(folder.url, [devices[at % len(devices)] for at in range(count)]) as busy:
        for connection in busy:
            _hand(connection, next(todo, None))
        while busy:
            for connection in [one for one in busy if one in set(wait(busy))]:
                answer = _answer(connection)
                if answer is None:
                    busy.remove(connection)
                    continue
                _hand(connection, next(todo, None))
                on_done(answer)


def _hand(connection: Connection, batch: Batch | None) -> None:
    """Send a batch, or that there is none. A worker that died meanwhile is noticed when its answer is read."""
    with suppress(BrokenPipeError):
        connection.send(batch)


def _answer(connection: Connection) -> int | None:
    """Images of a finished batch; None when a worker has no more."""
    try:
        answer = connection.recv()
    except (EOFError, ConnectionResetError):
        raise BadValue("a worker died. Nothing finished is lost: give the same command again for the rest") from None
    if isinstance(answer, EmagError):
        raise answer
    return answer


@contextmanager
def _started(url: str, devices: Sequence[str]) -> Iterator[list[Connection]]:
    """Worker processes, ended at the end; a connection to each."""
    context = multiprocessing.get_context("spawn")
    processes, held = [], []
    try:
        for device in devices:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(url, device, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the death of the worker ends the connection
            processes.append(process)
            held.append(ours)
        yield list(held)
    finally:
        for connection in held:
            connection.close()
        for process in processes:
            process.join(0.2)
            process.terminate()
            process.join()


def work(url: str, device: str, connection: Connection) -> None:
    """A worker: makes the batches it is sent until there is none, or the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-c is for the command, which ends its workers
    transformers_logging.set_verbosity_error()
    logging.getLogger("emag").setLevel(logging.ERROR)  # its warnings have been given by the check before the run
    try:
        folder = RunFolder(url)
        with one_thread(device):
            make = maker(folder, open_model(folder.spec.model, device))
            while (batch := connection.recv()) is not None:
                connection.send(make(batch))
        connection.send(None)
    except (EOFError, BrokenPipeError):
        return
    except EmagError as error:
        connection.send(error)
