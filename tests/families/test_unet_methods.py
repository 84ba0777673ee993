"""Every kind of method on U-Nets, and the token grid of each of their blocks."""

import pytest
import torch

import emag
from emag.core import State
from emag.methods import METHODS as C
from emag.methods.weak import seg as smoothed
from emag.methods.weak.sag import on_pixels
from emag.testing.small_unet import MORE, sd
from separate import in_dtype, size_of
from unet import BOTH, EMAG, RULES, run_under

pytestmark = pytest.mark.sampled(2)

# every kind of method


@BOTH
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_other_methods_act_as_planned(name, rule):
    case, rules = MORE[name], (rule, emag.CFG(4.0)) if rule.kind == "null" else (rule,)
    pipe = case.pipe()
    made, run = run_under(case, pipe, *rules, num_inference_steps=4)
    assert made.isfinite().all() and size_of(made - case.run(pipe, num_inference_steps=4)) > 1e-3
    assert run.stats.evaluations == run.stats.planned or rule.name == "ag"


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_image_whose_sides_do_not_halve(name, dtype):
    """Latents of 9 x 5, 5 x 3 at the bottom."""
    case = MORE[name]
    pipe = case.pipe().to(dtype)
    call = in_dtype(case.call((8,), height=72, width=40), dtype)
    with emag.guide(pipe, EMAG(), C["seg"](1.3, layers=(0, 2), sigma=1.0), C["sag"](1.2, layers=(2,))) as run:
        made = pipe(**call).images
    assert made.shape[2:] == (9, 5) and made.isfinite().all()
    assert run.stats.effect > 0 and run.stats.evaluations == run.stats.planned


@BOTH
def test_a_text_of_one_token(name):
    case = MORE[name]
    short = {key: value[:, :1] for key, value in case.call().items() if key.endswith("prompt_embeds") and value.ndim == 3}
    made, run = run_under(case, case.pipe(), EMAG(), C["nag"](), num_inference_steps=4, **short)
    assert made.isfinite().all() and run.stats.evaluations == run.stats.planned


# the token grid of each block


def test_each_block_has_its_grid(monkeypatch):
    grids, original = [], smoothed.smoothed
    monkeypatch.setattr(smoothed, "smoothed", lambda q, grid, sigma: grids.append(grid) or original(q, grid, sigma))
    run_under(MORE["sd"], sd(), C["seg"](2.0, layers=(0, 1, 2), sigma=1.0), num_inference_steps=1, height=72, width=40)
    assert grids == [(9, 5), (5, 3), (9, 5)]


@pytest.mark.parametrize(("grid", "tokens", "expected"), [
    ((9, 5), 45, (9, 5)), ((9, 5), 15, (5, 3)), ((9, 5), 6, (3, 2)), ((9, 5), 2, (2, 1)), ((9, 5), 1, (1, 1)),
    ((3, 8, 6), 36, (3, 4, 3)), ((9, 5), 40, (9, 5)), ((9, 5), 90, (9, 5)), ((3, 1, 1), 2, (3, 1, 1))])
def test_grids_are_halved_rounding_up(grid, tokens, expected):
    state = State()
    state.place(grid)
    assert state.grid_of(tokens) == expected


@pytest.mark.parametrize(("height", "width", "side"), [(9, 5, 2), (25, 17, 8), (8, 8, 4), (64, 48, 8), (6, 6, 3)])
def test_token_values_lie_on_their_pixels(height, width, side):
    rows, columns = -(-height // side), -(-width // side)
    values = torch.arange(rows * columns).view(1, -1)
    made = on_pixels(values, (1, 4, height, width))
    y, x = torch.arange(height) // side, torch.arange(width) // side
    assert torch.equal(made[0, 0], y[:, None] * columns + x[None])
