"""What tests of guidance beside other tools share."""

import threading
from contextlib import contextmanager

import emag
from tiny import sd3

WINDOW = emag.Window.progress(0, 0.2, 0.9)


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": WINDOW, **more})


def rules_for(case):
    return (EMAG(), emag.CFG(3.0)) if case.uncond else (EMAG(),)


def guided(case, pipe, *rules, **call):
    with emag.guide(pipe, *(rules or rules_for(case))) as run:
        out = case.run(pipe, **call)
    return out, run.stats


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


def sharing(pipe):
    """Another pipeline on the same network."""
    other = sd3()
    other.transformer = pipe.transformer
    return other


@contextmanager
def at_step(pipe, number, action):
    """Run `action` before the scheduler's step `number`, in the middle of a run."""
    original, count = pipe.scheduler.step, []

    def step(*args, **kwargs):
        count.append(1)
        if len(count) == number:
            action()
        return original(*args, **kwargs)

    pipe.scheduler.__dict__["step"] = step
    yield
    del pipe.scheduler.__dict__["step"]


def in_thread(action):
    def run():
        thread = threading.Thread(target=action)
        thread.start()
        thread.join()
    return run
