"""S-CFG: token maps against plain loops, the rate against its definition, and the whole rule in pipelines."""

import pytest
import torch

import emag
from emag.core import COND, UNCOND, Rows, combine
from emag.errors import NoEffect, Unsupported
from emag.hosts.defaults import resolve
from emag.maths.attention import Attention
from emag.maths.layout import pack, unpack
from emag.methods import METHODS as C
from emag.methods.common.token_watchers import Watcher
from emag.schedules import Interval
from emag.testing.small_unet import MORE
from reference import SPACES, at_step, branches_in, scheduler_steps, tensors
from semantic import TEXT, at, call, close, gaussian, plain_maps, plain_rate, watcher
from spy import network_outputs
from tiny import CASES

SCFG = C["s-cfg"]


def plain_scfg(cond, uncond, maps, w, zoom, bos=0, low=0.8, high=3.0, limit=15.0):
    """The whole rule, fp64. maps: by branch, one per block, as the rule has them; zoom: cell side. Maps that are equal but
    for rounding (a relative margin of 1e-4) are equal: the first wins, and none is foreground."""
    def normed(m):
        return m / m.mean((-2, -1), keepdim=True).clamp(min=1e-30)  # masked text is nowhere

    mean = torch.stack([normed(m) for m in maps[COND]]).mean(0)
    labels = (mean >= 0.9999 * mean.amax(1, keepdim=True)).int().argmax(1)
    def foreground(maps):
        start = torch.stack([normed(m[:, bos]) for m in maps]).mean(0)
        return torch.stack([normed(m.sum(1) - m[:, bos]) for m in maps]).mean(0) - start > 1e-4

    some = foreground(maps[UNCOND])
    fore = torch.where(some.flatten(1).any(1)[:, None, None], some, foreground(maps[COND]))
    height, width = cond.shape[-2:]
    labels, inside = (t.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)[:, :height, :width]
                      for t in (labels, fore))
    shift = cond.double() - uncond.double()
    rate = plain_rate(shift.norm(dim=1), labels, inside, low, high).clamp(max=limit / w)
    return uncond + w * gaussian(rate[:, None]) * shift


# the rule


def branches(size=(12, 20)):
    return dict(zip((COND, UNCOND), (t.double() for t in tensors(3, 2, 2, 4, *size))))


def guided(rule, p, step):
    return combine((rule,), p[COND], p, step, [{}])


@pytest.mark.parametrize(("settings", "size", "zoom"), [
    ({}, (12, 20), 2), ({"bos": 3}, (12, 20), 2), ({"low": 0.95, "high": 1.05}, (12, 20), 2), ({"limit": 4.1}, (12, 20), 2),
    ({"low": 0.0, "high": 50.0}, (44, 36), 4)])
def test_the_whole_rule_is_the_plain_form(settings, size, zoom):
    rule = SCFG(4.0, layers=(1, 2), **settings)
    step, p = at(rule, size), branches(size)
    p[UNCOND][:, :, :5] = p[COND][:, :, :5] + 0.2 * (p[UNCOND] - p[COND])[:, :, :5]
    made = guided(rule, p, step)
    maps = step.seen[rule.observer].found
    close(made, plain_scfg(p[COND], p[UNCOND], maps, 4.0, zoom, **settings), atol=1e-10, rtol=1e-10)
    assert not torch.allclose(made, guided(emag.CFG(4.0), p, step), atol=1e-2)


@pytest.mark.parametrize("patch", [1, 3])
def test_a_token_may_be_of_any_size(patch):
    rule, p = SCFG(4.0, layers=(1, 2)), branches((6 * patch, 10 * patch))
    step = at_step(space="x0", x=p[COND], seen={rule.observer: watcher(rule)})
    maps = step.seen[rule.observer].found
    close(guided(rule, p, step), plain_scfg(p[COND], p[UNCOND], maps, 4.0, patch), atol=1e-10, rtol=1e-10)


def test_a_rate_of_1_is_cfg():
    rule = SCFG(4.0, layers=(1, 2), low=1.0, high=1.0)
    step = at(rule)
    close(guided(rule, branches(), step), guided(emag.CFG(4.0), branches(), step), atol=1e-10, rtol=1e-10)


def test_a_difference_of_constant_size_is_cfg():
    rule, p = SCFG(4.0, layers=(1, 2)), branches()
    step = at(rule)
    shift = p[COND] - p[UNCOND]
    p[UNCOND] = p[COND] - shift / shift.norm(dim=1, keepdim=True)
    close(guided(rule, p, step), guided(emag.CFG(4.0), p, step), atol=1e-10, rtol=1e-10)


def test_one_result_in_every_space():
    rule = SCFG(4.0, layers=(1, 2))
    for path, spaces in SPACES.items():
        known = guided(rule, branches(), at(rule, path=path))
        for space in spaces:
            step = at(rule, path=path, space=space)
            made = guided(rule, branches_in(space, step, "x0", branches()), step)
            close(branches_in("x0", step, space, {COND: made})[COND], known, atol=1e-9, rtol=1e-9)


def test_packed_latents_are_guided_as_the_image_they_are():
    rule, p = SCFG(4.0, layers=(1, 2)), branches()
    plain = at(rule)
    grid = at_step(grid=(6, 10, 2))
    step = at_step(space="x0", x=pack(plain.x, grid), grid=grid.grid, seen=plain.seen)
    made = guided(rule, {name: pack(t, grid) for name, t in p.items()}, step)
    assert torch.equal(unpack(made, grid), guided(rule, p, plain))


def test_scales_per_sample_and_scale_1():
    class Each(emag.Schedule):
        def at(self, branches, step, state):
            return torch.tensor([2.0, 7.0])

    step = at(SCFG(1.0, (1, 2)))
    both = guided(SCFG(Each(0.0), (1, 2)), branches(), step)
    close(both, torch.cat([guided(SCFG(w, (1, 2)), branches(), step)[i:i + 1] for i, w in enumerate((2.0, 7.0))]))
    assert guided(SCFG(1.0, (1, 2)), {COND: step.x}, step) is step.x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["equal", "zero", "some"])
def test_degenerate_input_stays_finite(dtype, kind):
    rule = SCFG(4.0, layers=(1, 2))
    step = at(rule)
    p = {name: t.to(dtype) * (kind != "zero") for name, t in branches().items()}
    if kind == "equal":
        p[UNCOND] = p[COND].clone()
    made = guided(rule, p, step)
    assert made.dtype == dtype and made.isfinite().all()
    assert kind == "some" or torch.equal(made, p[COND])


def placed(*grid):
    state = Watcher()
    state.place(grid)
    state.begin(0)
    return state


def test_without_unconditional_rows_the_conditional_ones_stand_in():
    rule = SCFG(4.0, layers=(1,))
    made = call(6, 10, 2)
    one, two = placed(6, 10), placed(6, 10)
    one.watch(1, made, Rows(slice(0, 2), None, 2))
    two.watch(1, made, Rows(slice(0, 2), slice(0, 2), 2))
    steps = [at_step(space="x0", x=branches()[COND], seen={rule.observer: state}) for state in (one, two)]
    assert torch.equal(*(guided(rule, branches(), step) for step in steps))


def test_maps_are_those_of_one_step_and_small():
    state = placed(40, 20)
    for index in range(3):
        state.begin(index)
        assert state.found == {}
        for layer in (1, 2):
            state.watch(layer, call(40, 20), Rows(slice(0, 1), slice(1, 2), 2))
        assert all(m.shape == (1, TEXT, 14, 7) for maps in state.found.values() for m in maps)
        assert [len(maps) for maps in state.found.values()] == [2, 2]


def test_layers_are_taken_once_each():
    assert SCFG(2.0, [2, 1, 2]).observer.blocks == (2, 1)


def test_what_it_cannot_read_is_refused():
    with pytest.raises(Unsupported, match="SD3 and Flux"):
        placed(4, 4).watch(0, call(4, 4, text=0), Rows(slice(0, 1), None, 1))
    with pytest.raises(Unsupported, match="16 image tokens where the latents have 8"):
        placed(4, 2).watch(0, call(4, 4), Rows(slice(0, 1), None, 1))
    with pytest.raises(Unsupported, match="for images"):
        placed(4, 2, 2).watch(0, call(4, 4), Rows(slice(0, 1), None, 1))
    rule = SCFG(4.0, (1,))
    with pytest.raises(NoEffect, match="saw no attention"):
        guided(rule, branches(), at_step(space="x0", x=branches()[COND], seen={rule.observer: placed(6, 10)}))


# in pipelines


@pytest.mark.parametrize(("case", "cross"), [("dit", None), ("dit", True), ("pixart", False), ("sd3", True)])
def test_networks_without_text_in_the_attention_are_refused(case, cross):
    pipe = CASES[case].pipe()
    with pytest.raises(Unsupported, match="SD3 and Flux"):
        emag.guide(pipe, SCFG(3.0, layers=(1,), cross=cross))


@pytest.mark.parametrize(("case", "size", "layers"), [
    ("sd3", (8, 8), (1, 2)), ("sd3", (8, 16), (0, 3)), ("true-cfg", (8, 8), (1, 3)), ("true-cfg", (16, 8), (2,))])
def test_the_scheduler_gets_the_plain_form(case, size, layers, monkeypatch):
    """From the attention that the network really makes: right rows, right tokens, right grid, at every step."""
    maps, held, watch = [], {}, Watcher.watch

    def watching(self, block, seen, rows):
        watch(self, block, seen, rows)
        for branch, part in ((COND, rows.cond), (UNCOND, rows.uncond)):
            if part is not None and part.start < part.stop:
                maps.append((branch, plain_maps(seen.rows(part), size[0] // 2, size[1] // 2, 1)))
        held[len(self.picks) - 1] = self.found

    monkeypatch.setattr(Watcher, "watch", watching)
    pipe = CASES[case].pipe()
    with emag.guide(pipe, SCFG(3.0, layers)), scheduler_steps(pipe) as steps, network_outputs(pipe) as outputs:
        CASES[case].run(pipe, height=size[0], width=size[1])
    grid = at_step(grid=(size[0] // 2, size[1] // 2, 2) if case == "true-cfg" else None)
    for i, step in enumerate(steps):
        uncond, cond = outputs[i].chunk(2) if case == "sd3" else (outputs[2 * i + 1], outputs[2 * i])
        here = maps[2 * len(layers) * i:2 * len(layers) * (i + 1)]
        for branch in (COND, UNCOND):
            for found, expected in zip(held[i][branch], [m for name, m in here if name == branch], strict=True):
                close(found.double(), expected, atol=1e-5, rtol=1e-4)
        expected = plain_scfg(unpack(cond, grid), unpack(uncond, grid), held[i], 3.0, 2)
        close(unpack(step.prediction, grid).double(), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(step.prediction, uncond + 3 * (cond - uncond), atol=1e-2)


@pytest.mark.parametrize("rules", [
    (SCFG(Interval(3.0, 0.3, 0.8, "progress"), (1, 2)),), (C["ag"](-0.99), SCFG(3.0, (1, 2))),
    (C["zero-star"](), SCFG(3.0, (1, 2)), C["rescale"](0.5))], ids=["interval", "ag", "zero-star"])
@pytest.mark.parametrize("case", ["sd3", "true-cfg"])
def test_it_works_beside_rules_that_spare_or_rewrite_the_unconditional(case, rules):
    pipe = CASES[case].pipe()
    with emag.guide(pipe, *rules):
        assert CASES[case].run(pipe).isfinite().all()


def test_defaults_are_the_middle_blocks():
    for case, blocks in (("sd3", (2,)), ("true-cfg", (2, 3))):
        with emag.guide(CASES[case].pipe(), SCFG()) as handle:
            assert handle.resolved[0].layers == blocks and handle.resolved[0].scale > 1


# text in a cross-attention of its own


def apart(rows, columns, rows_total=4, layer=1, text=TEXT):
    """The self-attention and the cross-attention of one block of `rows` x `columns` image tokens."""
    own = call(rows, columns, rows_total, seed=layer, text=0)
    q, = tensors(layer + 10, 1, rows_total, 3, rows * columns, 8)
    k, v = tensors(layer + 20, 2, rows_total, 3, text, 8)
    return own, Attention(2 * q, 2 * k, v, slice(0, rows * columns), cross=True)


def crossed(rule, grid, blocks):
    """What has been seen of a step: for each of `blocks` its (self-attention, cross-attention)."""
    states = {branch: branch.start((), None) for branch in rule.weak}
    for state in states.values():
        state.meet(states)
        state.place(grid)
        state.begin(0)
    for layer, pair in blocks.items():
        for state, seen in zip(states.values(), pair, strict=True):
            state.watch(layer, seen, Rows(slice(2, 4), slice(0, 2), 4))
    return states[rule.observer]


def one_call(own, text):
    """A joint call that has both maps: its softmax over the image is the one, its softmax over the text the other."""
    grid = own.q.shape[2]
    q = torch.cat([own.q, text.q], -1)
    pads = torch.zeros_like(own.k), torch.zeros_like(text.k)
    k = torch.cat([torch.cat([own.k, pads[0]], -1), torch.cat([pads[1], text.k], -1)], 2)
    scale = own.q.shape[-1] ** -0.5
    v = torch.zeros_like(k)
    filled = torch.cat([q, torch.zeros(*q.shape[:2], TEXT, q.shape[-1])], 2)
    return Attention(filled, k, v, slice(0, grid), scale=scale)


def test_maps_across_are_those_of_a_joint_attention_with_the_same_softmaxes():
    rule, size = SCFG(4.0, layers=(1, 2), cross=True), (6, 10)
    blocks = {layer: apart(*size, layer=layer) for layer in (1, 2)}
    seen = crossed(rule, size, blocks)
    joint = placed(*size)
    for layer, pair in blocks.items():
        joint.watch(layer, one_call(*pair), Rows(slice(2, 4), slice(0, 2), 4))
    for branch in (COND, UNCOND):
        for found, expected in zip(seen.found[branch], joint.found[branch], strict=True):
            close(found, expected, atol=1e-6, rtol=1e-5)
    assert not seen.beside.held  # the self-attention's maps are dropped as they are used


def test_maps_of_a_coarser_block_are_resized():
    rule, fine, coarse = SCFG(4.0, layers=(1, 2), cross=True), apart(6, 10, layer=1), apart(3, 5, layer=2)
    seen = crossed(rule, (6, 10), {1: fine, 2: coarse})
    alone = crossed(rule, (3, 5), {2: coarse})
    expected = torch.nn.functional.interpolate(alone.found[COND][0], size=(6, 10), mode="bilinear")
    close(seen.found[COND][1], expected, atol=0, rtol=0)
    assert seen.found[COND][0].shape == seen.found[COND][1].shape


def test_the_image_s_attention_has_to_come_first():
    rule = SCFG(4.0, layers=(1,), cross=True)
    with pytest.raises(NoEffect, match="without the image's"):
        crossed(rule, (6, 10), {}).watch(1, apart(6, 10)[1], Rows(slice(2, 4), slice(0, 2), 4))


@pytest.mark.parametrize("case", [CASES["pixart"], MORE["sd"], MORE["sdxl"]], ids=lambda case: case.name)
def test_on_networks_with_cross_attention_it_is_its_formula(case, monkeypatch):
    """From the maps that the network's own attention makes to what the scheduler gets, at every step."""
    held, watch = {}, Watcher.watch

    def watching(self, block, seen, rows):
        watch(self, block, seen, rows)
        held[len(self.picks) - 1] = self.found

    monkeypatch.setattr(Watcher, "watch", watching)
    pipe = case.pipe()
    with emag.guide(pipe, SCFG(2.0, low=0.5)) as run, scheduler_steps(pipe) as steps, network_outputs(pipe) as outputs:
        case.run(pipe, num_inference_steps=4)
    assert run.stats.evaluations == run.stats.planned == run.stats.clean
    for i, step in enumerate(steps):
        uncond, cond = outputs[i][:, :4].chunk(2)
        zoom = cond.shape[-1] // held[i][COND][0].shape[-1]
        expected = plain_scfg(cond, uncond, held[i], 2.0, zoom, low=0.5)
        close(step.prediction[:, :4].double(), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
        assert not torch.allclose(step.prediction[:, :4], uncond + 2 * (cond - uncond), atol=1e-3)


def test_the_published_layers_are_those_of_stable_diffusion():
    """Sixteen blocks: 16 x 16 tokens in two on the way down and three on the way up, 8 x 8 in the middle one."""
    rule = resolve(SCFG(), ("UNet2DConditionModel",), 16, (6,))
    assert rule.layers == (4, 5, 6, 7, 8, 9) and rule.cross and rule.scale == 7.5
