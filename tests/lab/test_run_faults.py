"""What may happen to a run: killed at any moment, a full disk, a lost worker. The same command ends it as if nothing had."""

import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emag.errors import BadValue, Busy
from emag.lab.draw.columns import Outcome
from emag.lab.evaluate import run as running
from emag.lab.evaluate import storage, work
from emag.lab.evaluate.folder import RunFolder
from emag.lab.evaluate.spec import parse
from emag.lab.evaluate.verify import verify

SPEC = {"classes": ["frog", "ship"], "images": 30, "steps": 2, "batch_size": 4,
        "recipes": {"cfg": {"guidance_scale": 2.5}, "pag": {"guidance_scale": 2.5, "rules": [{"pag": {"scale": 1.5}}]}}}
FEW = {**SPEC, "images": 4, "batch_size": 2}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


@pytest.fixture
def real(pipe, monkeypatch):
    """Runs in this process use one loaded model."""
    monkeypatch.setattr(running, "open_model", lambda model, device=None: pipe)


@pytest.fixture
def fake(real, monkeypatch):
    """Images of noise from their seeds, in no time."""
    monkeypatch.setattr(work, "draw", _draw)


def _draw(folder, pipe, batch, tasks):
    pixels = [np.random.default_rng(one.seed).integers(0, 256, (32, 32, 3), np.uint8) for one in tasks]
    return Outcome(folder.recipe_of(batch.recipe), tuple(map(Image.fromarray, pixels)), (), (), 1, 0.0)


def made(out, spec=SPEC, **how):
    return running.run(parse(spec), str(out), **how)


def hashes(folder):
    return {row["file"]: row["sha256"] for row in folder.index().to_pylist()}


def whole(folder, undisturbed):
    fresh = RunFolder(folder.url)
    assert verify(fresh) == []
    assert hashes(fresh) == hashes(undisturbed)


def forked(out, spec=SPEC, before=None):
    """A process that makes the run, and its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        if before:
            before()
        made(out, spec)
    finally:
        os._exit(0)


def killed(out, delay, spec=SPEC):
    """True where a run that was killed after `delay` seconds had not ended by itself."""
    pid = forked(out, spec)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.slow
def test_killed_at_random_moments(fake, tmp_path):
    started = time.perf_counter()
    undisturbed = made(tmp_path / "undisturbed")
    took, moments = time.perf_counter() - started, random.Random(0)
    kills = [killed(tmp_path / "run", moments.uniform(0, took / 2)) for _ in range(20)]
    assert any(kills)
    whole(made(tmp_path / "run"), undisturbed)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("at", range(20))
def test_killed_in_the_middle_of_any_write(fake, tmp_path, at):
    """The run dies with half of a file written: the prompts, run.json, an image or a part of the index."""
    small = {**SPEC, "images": 6}
    writes = 2 + 2 * 6 + 4

    def before():
        count = iter(range(writes))
        dies = random.Random(at).randrange(writes) if at >= 4 else (0, 1, 2, writes - 1)[at]

        def half(file, data):
            if next(count) == dies:
                file.write(data[:len(data) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            file.write(data)

        storage._fill = half

    _, status = os.waitpid(forked(tmp_path / "run", small, before), 0)
    assert os.WIFSIGNALED(status)
    assert any(name.endswith(".part") for _, _, names in os.walk(tmp_path / "run") for name in names)
    whole(made(tmp_path / "run", small), made(tmp_path / "undisturbed", small))


@pytest.mark.slow
def test_the_real_model_killed(real, tmp_path):
    started = time.perf_counter()
    undisturbed = made(tmp_path / "undisturbed", FEW)
    took, moments = time.perf_counter() - started, random.Random(1)
    for _ in range(3):
        killed(tmp_path / "run", moments.uniform(took / 4, took), FEW)
    whole(made(tmp_path / "run", FEW), undisturbed)


@pytest.mark.parametrize("at", [0, 1, 2, 5, 9, 13])
def test_disk_full(fake, tmp_path, monkeypatch, at):
    small, count = {**SPEC, "images": 6}, iter(range(1000))

    def full(file, data):
        if next(count) >= at:
            file.write(data[:len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_fill", full)
        with pytest.raises(BadValue, match=r"No space left on device.*give the same command again"):
            made(tmp_path / "run", small)
    run = RunFolder(str(tmp_path / "run"))
    assert not run.drafts()
    assert at < 2 or {problem.kind for problem in verify(run)} == {"missing"}
    whole(made(tmp_path / "run", small), made(tmp_path / "undisturbed", small))


def test_one_command_at_a_time(fake, tmp_path):
    whole_run = made(tmp_path)
    with whole_run.storage.lock(), pytest.raises(Busy, match="another process works on"):
        made(tmp_path)
    assert made(tmp_path).missing() == {"cfg": [], "pag": []}


@pytest.mark.long
def test_two_workers_one_of_which_is_killed(real, tmp_path):
    """Two workers make the bytes that one makes; a killed one is an error, and the same command makes the rest."""
    finished = []

    def kill(images):
        finished.append(images)
        if len(finished) == 4:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    spec = {**FEW, "images": 8}
    with pytest.raises(BadValue, match="a worker died"):
        made(tmp_path / "run", spec, workers=2, begun=lambda done, total: kill)
    assert not multiprocessing.active_children()
    left = sum(map(len, RunFolder(str(tmp_path / "run")).missing().values()))
    assert 0 < left <= 8
    whole(made(tmp_path / "run", spec), made(tmp_path / "undisturbed", spec))


@pytest.mark.long
def test_what_a_worker_refuses_is_raised_here(real, tmp_path):
    one = {**FEW, "images": 1, "height": 64, "recipes": {"cfg": None}}
    with pytest.raises(BadValue, match="at most 32x32 pixels"):
        made(tmp_path / "run", one, workers=2)
    assert not multiprocessing.active_children()


def ray_workers():
    import psutil

    ours = psutil.Process().children(recursive=True)  # other Ray workers on this machine are not the test's
    return [one for one in ours if one.status() != psutil.STATUS_ZOMBIE and "ray::Worker" in " ".join(one.cmdline())]


def kill_ray_workers(killed, times, over):
    """Kill workers at random moments, until there were so many or it is over; an actor starts in 5 to 10 s."""
    import psutil

    moments = random.Random(4)
    while len(killed) < times and not over.wait(moments.uniform(0, 10)):
        for worker in ray_workers()[:1]:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
                killed.append(worker.pid)


@pytest.mark.long
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_a_ray_worker_is_killed_twenty_times(real, tmp_path):
    """A run in which a worker is lost too often ends with an error, and the same command goes on."""
    import ray

    killed, over = [], threading.Event()
    killer = threading.Thread(target=kill_ray_workers, args=(killed, 20, over))
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    killer.start()
    try:
        for images in range(4, 400, 4):
            spec = {**FEW, "images": images}
            with suppress(BadValue):
                run = made(tmp_path / "run", spec, engine="ray", workers=1)
                if len(killed) >= 20:
                    break
        with pytest.raises(BadValue, match="this Ray cluster has 2"):
            made(tmp_path / "other", spec, engine="ray", workers=3)
    finally:
        over.set()
        killer.join()
        ray.shutdown()
    assert len(killed) == 20
    whole(run, made(tmp_path / "undisturbed", spec))


@pytest.mark.long
def test_the_real_model_killed_twenty_times(real, tmp_path):
    started = time.perf_counter()
    undisturbed = made(tmp_path / "undisturbed", {**SPEC, "images": 16})
    took, moments = time.perf_counter() - started, random.Random(2)
    for _ in range(20):
        killed(tmp_path / "run", moments.uniform(0, took / 4), {**SPEC, "images": 16})
    whole(made(tmp_path / "run", {**SPEC, "images": 16}), undisturbed)


def test_nothing_is_run_twice(fake, tmp_path):
    """A finished image is not written again."""
    made(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in Path(tmp_path).rglob("*.png")}
    made(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in Path(tmp_path).rglob("*.png")} == before
