"""The Ray engine: actors on one machine or a cluster, GPUs as Ray resources, lost workers started again.

The run folder must be the same place for every machine: a shared path or a URL.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import BadValue, EmagError
from .folder import RunFolder
from .tasks import Batch
from .work import maker, open_model, set_one_thread

RESTARTS = 4
"""How often a worker may be lost and started again, and a batch be tried again."""


class Worker:
    """An actor: it makes the batches it is given. Batches are stored whole or not at all, so trying again is safe."""

    def __init__(self, url: str, device: str):
        set_one_thread(device)
        folder = RunFolder(url)
        self.make = maker(folder, open_model(folder.spec.model, device))

    def batch(self, batch: Batch) -> int:
        """Make and store a batch; how many images it had."""
        return self.make(batch)


def run_ray(folder: RunFolder, batches: Sequence[Batch], devices: Sequence[str], workers: int | None,
            on_done: Callable[[int], None]) -> None:
    """Make `batches` with `workers` Ray actors, or one per GPU of the cluster.

    Raises what a worker raised, and `BadValue` where one is lost too often.
    """
    import ray

    if not batches:
        return
    kind = torch.device(devices[0]).type
    with _connected(ray):
        todo, url = iter(batches), folder.url if "://" in folder.url else os.path.abspath(folder.url)
        actors = [_actor(ray, url, kind) for _ in range(min(_count(ray, kind, workers), len(batches)))]
        busy = {actor.batch.remote(batch): actor for actor, batch in zip(actors, todo)}
        while busy:
            [ready], _ = ray.wait(list(busy))
            actor = busy.pop(ready)
            images, batch = _result(ray, ready), next(todo, None)
            if batch is not None:
                busy[actor.batch.remote(batch)] = actor
            on_done(images)


def _count(ray: Any, kind: str, workers: int | None) -> int:
    """How many workers; more than the cluster has room for would wait for ever."""
    resource = "GPU" if kind == "cuda" else "CPU"
    room = int(ray.cluster_resources().get(resource, 0))
    if (workers or 1) > room:
        raise BadValue(f"{workers or 1} worker(s) need as many {resource}s, and this Ray cluster has {room}")
    return workers or (room if kind == "cuda" else 1)


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Connected to the cluster that RAY_ADDRESS names, or to one made here; one that was connected before stays so."""
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(log_to_driver=False, include_dashboard=False)
        yield
    finally:
        ray.shutdown()


def _actor(ray: Any, url: str, kind: str) -> Any:
    options = {"num_cpus": 1, "num_gpus": 1 if kind == "cuda" else 0}
    return ray.remote(max_restarts=RESTARTS, max_task_retries=RESTARTS, **options)(Worker).remote(url, kind)


def _result(ray: Any, ready: Any) -> int:
    try:
        return ray.get(ready)
    except ray.exceptions.RayActorError as error:
        raise BadValue(f"a worker was lost {RESTARTS + 1} times or could not start ({str(error).splitlines()[0]}); give the "
                       "same command again for the rest") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EmagError):
            raise error.cause from None
        raise
