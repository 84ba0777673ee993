"""Wan 2.2 with its two experts."""

from dataclasses import replace
from functools import partial

import emag
from emag.testing.small_wan import MORE, experts

STEPS, SWITCH = 8, 4
CASE = replace(MORE["wan-experts"], call=partial(MORE["wan-experts"].call, num_inference_steps=STEPS))


def made(*rules, seeds=(8, 9), pipe=None, **call):
    pipe = pipe or experts()
    with emag.guide(pipe, *rules) as run:
        return CASE.run(pipe, seeds, **call), run
