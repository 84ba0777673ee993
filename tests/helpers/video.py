"""Video networks, and what their tests share."""

from collections import Counter as Tally
from dataclasses import replace
from functools import partial

import pytest
import torch

import emag
from cases import EMAG
from emag.engine.reading import read_network
from emag.testing.small_video import MORE as SMALL
from emag.testing.small_video import texts
from spy import network_outputs, scheduler_steps, snapshot

LAYERS, STEPS, WEAK = (1, 2), 5, 4
MORE = {name: replace(case, call=partial(case.call, num_inference_steps=STEPS)) for name, case in SMALL.items()}
ALL = pytest.mark.parametrize("case", MORE.values(), ids=MORE.keys())
GUIDED = [case for case in MORE.values() if case.uncond]
WITH_UNCOND = pytest.mark.parametrize("case", GUIDED, ids=[case.name for case in GUIDED])
NO_VAE = torch.nn.Identity()


def made(case, *rules, seeds=(8, 9), **more):
    pipe = case.pipe()
    with emag.guide(pipe, *rules) as run:
        out = case.run(pipe, seeds, **more)
    return out, run


def whole(pipe):
    """A snapshot of a pipeline without its VAE."""
    vae, vars(pipe)["vae"] = vars(pipe)["vae"], NO_VAE
    try:
        return snapshot(pipe)
    finally:
        vars(pipe)["vae"] = vae


class Counted:
    """Row evaluations of every block, by hooks of its own."""

    def __init__(self, pipe):
        self.rows = Tally()
        for block in read_network(pipe.transformer).blocks:
            block.module.register_forward_hook(self._counting(block.index), with_kwargs=True)

    def _counting(self, index):
        def hook(module, args, kwargs, output):
            self.rows[index] += (kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]).shape[0]
        return hook

    def per_image(self, images):
        return sum(self.rows.values()) / images


def close(a, b, share=2e-4):
    assert (a - b).abs().max() < share * b.abs().max()


def distance(a, b):
    """Largest relative distance of two videos; untrained networks blow up rounding in single pixels."""
    return ((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max()


def acts_and_costs(case, variant, clean):
    """clean: block evaluations of the conditional rows over all steps."""
    pipe = case.pipe()
    plain, counted = case.run(pipe), Counted(pipe)
    with emag.guide(pipe, EMAG(variant=variant)) as run:
        out = case.run(pipe)
    assert run.stats.evaluations == run.stats.planned == counted.per_image(2)
    assert run.stats.clean == clean * (2 if case.uncond else 1)
    assert run.stats.effect > 1e-4 and (out - plain).abs().max() > 1e-3 * plain.abs().max()


def traced(case, *rules, pipe=None, **call):
    """A run, [(conditional, unconditional, weak) of each step] and what the scheduler was handed."""
    pipe = pipe or case.pipe()
    with network_outputs(pipe) as raw, scheduler_steps(pipe) as given, emag.guide(pipe, *rules) as run:
        case.run(pipe, **call)
    raw, steps = list(raw), []
    for effect in run.stats.effects:
        answer = raw.pop(0)
        weak = raw.pop(0) if effect is not None else None
        uncond, cond = answer.chunk(2) if run.host.doubled else (raw.pop(0), answer)
        steps.append((cond, uncond, weak))
    assert raw == []
    return run, steps, given


class Encoder:
    """Stands in for a pipeline's text encoder: features that depend on the text."""

    def __init__(self, *shapes):
        self.shapes = shapes

    def __call__(self, prompt, *args, **kwargs):
        seeds = tuple(len(text) for text in prompt)
        return tuple(None if shape is None else torch.ones(len(prompt), 5) if shape == "mask" else texts(seeds, 300, *shape)
                     for shape in self.shapes)
