"""SPG: the style branch in parts, and what it comes to in pipelines."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.core import COND, UNCOND, Rows
from emag.errors import BadValue, Unsupported
from emag.maths.attention import Attention
from emag.maths.streams import Streams
from emag.methods.weak.spg import SPG, StyledState
from emag.samplers.style import read_latents
from reference import at_step, softmax_map, tensors
from spy import network_outputs, scheduler_steps
from styles import latents, style
from tiny import CASES

B, H, IMAGE, TEXT, D = 2, 3, 6, 4, 8
BOTH, SWAPPED = Rows(slice(B, 2 * B), slice(0, B), 2 * B), Rows(slice(0, B), slice(B, 2 * B), 2 * B)
close = torch.testing.assert_close
on_pipes = pytest.mark.parametrize("case", ["sd3", "dit", "pixart"])


def state_at(rows=BOTH, seed=3, path="flow"):
    x = tensors(99, 1, B, 4, 8, 8)[0]
    state = StyledState(latents(seed), Streams.of(x))
    state.watch(1, None, rows)
    state.predicted(at_step(path, "flow" if path == "flow" else "epsilon", x), x)
    return state, x


@pytest.mark.parametrize("rows", [BOTH, SWAPPED], ids=["neg-pos", "pos-neg"])
@pytest.mark.parametrize("image", [slice(0, IMAGE), slice(TEXT, TEXT + IMAGE)])
@pytest.mark.parametrize("text", [TEXT, 0])
def test_image_queries_see_the_style_and_their_own_text(rows, image, text):
    image = image if text else slice(0, IMAGE)
    q, k, v = (t.double() for t in tensors(1, 3, 2 * B, H, IMAGE + text, D))
    call, (state, _) = Attention(q, k, v, image), state_at(rows)
    out = state.perturb(1, call, lambda q: F.scaled_dot_product_attention(q, k, v))
    mixed_k, mixed_v = k[rows.cond].clone(), v[rows.cond].clone()
    mixed_k[:, :, image], mixed_v[:, :, image] = k[rows.uncond][:, :, image], v[rows.uncond][:, :, image]
    known = softmax_map(q, k) @ v
    known[rows.cond, :, image] = (softmax_map(q[rows.cond], mixed_k) @ mixed_v)[:, :, image]
    close(out, known, atol=1e-12, rtol=0)
    assert bool(state.differed)


@pytest.mark.parametrize("path", ["flow", "vp"])
def test_the_style_is_at_the_noise_level_of_the_step(path):
    (first, x), (second, _) = state_at(path=path), state_at(seed=4, path=path)
    step = first.step
    noise = (first.noised(x) - step.alpha * latents()) / step.sigma
    close(noise, (second.noised(x) - step.alpha * latents(4)) / step.sigma, atol=1e-5, rtol=1e-5)
    assert abs(float(noise.std()) - 1) < 0.15 and not torch.allclose(noise[0], noise[1])
    first.streams.next_step()
    assert not torch.allclose(first.noised(x), second.noised(x) + step.alpha * (latents() - latents(4)), atol=0.1)


def test_every_row_tensor_is_that_of_the_unconditional_rows():
    state, x = state_at()
    values = {"hidden_states": torch.cat([x, x]), "encoder_hidden_states": tensors(2, 1, 2 * B, 5, 3)[0],
              "mask": torch.arange(2 * B), "timestep": torch.full((2 * B,), 7.0), "ids": torch.zeros(9, 3), "flag": True}
    new = state.inputs(values, ())
    assert set(new) == {"hidden_states", "encoder_hidden_states", "mask", "timestep"}
    for name in ("encoder_hidden_states", "mask"):
        assert torch.equal(new[name], torch.cat([values[name][:B]] * 2))
    assert torch.equal(new["hidden_states"][B:], x) and torch.equal(new["hidden_states"][:B], state.noised(x))
    assert torch.equal(values["hidden_states"], torch.cat([x, x])) and torch.equal(values["mask"], torch.arange(2 * B))


@on_pipes
def test_the_style_of_x_itself_is_the_unconditional_prediction(monkeypatch, case):
    """Own keys and values: e_style = u, so that nothing is added."""
    apart = []
    apply = SPG.apply

    def seen(self, pred, branches, step, state):
        apart.append((branches[self.perturbation] - branches[UNCOND]).abs().max() / branches[COND].abs().max())
        return apply(self, pred, branches, step, state)

    monkeypatch.setattr(SPG, "apply", seen)
    pipe = CASES[case].pipe()
    with emag.guide(pipe, SPG(3.0, style(), (1, 2))):
        CASES[case].run(pipe, num_inference_steps=2)
    assert min(apart) > 1e-2
    apart.clear()
    monkeypatch.setattr(StyledState, "noised", lambda self, x: x)
    with emag.guide(pipe, SPG(3.0, style(), (1, 2))), pytest.raises(emag.NoEffect):
        CASES[case].run(pipe, num_inference_steps=2)
    assert len(apart) == 2 and max(apart) < 1e-5


def test_after_cfg_it_is_as_published_and_before_it_g_times_as_large():
    pushes = []
    for rules in ((SPG(3.0, style(), (1, 2)), emag.CFG(4.0)), (emag.CFG(4.0), SPG(3.0, style(), (1, 2)))):
        pipe = CASES["sd3"].pipe()
        with scheduler_steps(pipe) as got, network_outputs(pipe) as made, emag.guide(pipe, *rules):
            CASES["sd3"].run(pipe, num_inference_steps=2)
        uncond, cond = made[0].chunk(2)
        pushes.append(got[0] - (uncond + 4.0 * (cond - uncond)))
        styled = made[1].chunk(2)[1]  # the second pass: the conditional rows' places hold the style branch
        close(pushes[-1], (4.0 if len(pushes) == 1 else 1.0) * 2.0 * (styled - uncond), atol=1e-4, rtol=1e-4)


def test_a_step_costs_two_evaluations_more_and_a_neutral_one_none():
    made = []
    for scale in (2.0, emag.Interval(2.0, 0.5, 1.0, "progress")):
        pipe = CASES["sd3"].pipe()
        with emag.guide(pipe, SPG(scale, style(), (1,))) as run:
            CASES["sd3"].run(pipe, num_inference_steps=4)
        assert run.stats.evaluations == run.stats.planned
        made.append(run.stats.evaluations)
    assert made == [4 * 4 * 4, 4 * 2 * 4 + 2 * 2 * 4]


def test_images_have_styles_of_their_own():
    both = torch.cat([latents(1), latents(2)])
    made = []
    for tensor, seeds in ((both, (8, 9)), (latents(2), (9,))):
        pipe = CASES["sd3"].pipe()
        with emag.guide(pipe, SPG(2.0, style(tensor), (1, 2))):
            made.append(CASES["sd3"].run(pipe, seeds, num_inference_steps=3))
    close(made[0][1:], made[1], atol=1e-4, rtol=1e-4)


def test_files_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(BadValue, match="style="):
        SPG(2.0)
    with pytest.raises(BadValue, match="cannot read"):
        read_latents(str(tmp_path / "none.safetensors"))
    with pytest.raises(BadValue, match="no tensor 'latents'"):
        read_latents(style(name="image"))
    state, x = state_at()
    for odd in (latents(shape=(3, 4, 8, 8)), latents(shape=(1, 4, 8, 9))):
        state.latents = odd
        with pytest.raises(BadValue, match="style latents"):
            state.noised(x)


def test_hosts_with_two_calls_are_refused():
    pipe = CASES["true-cfg"].pipe()
    with pytest.raises(Unsupported, match="network call"), emag.guide(pipe, SPG(2.0, style(), (1,))):
        CASES["true-cfg"].run(pipe, num_inference_steps=2)


@pytest.mark.parametrize(("depth", "layers"), [(70, tuple(range(64, 70))), (24, (22, 23)), (4, (3,))])
def test_by_default_the_share_of_the_depth_that_sdxl_has(depth, layers):
    assert SPG(2.0, "a file").automatic_layers(depth) == layers
    assert replace(SPG(2.0, "a file"), scale=1.0).neutral
