"""S-CFG: token maps against plain loops, the rate against its definition, and the whole rule in pipelines."""

import math

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.attention import Attention
from emag.errors import BadValue, NoEffect, Unsupported
from emag.guidance import COND, UNCOND, combine
from emag.layout import pack, unpack
from emag.methods import METHODS as C
from emag.perturbations.state import Rows
from emag.perturbations.token_maps import GAUSSIAN, Cells, Watcher, token_maps
from emag.rules.semantic import foreground, rates, regions
from emag.schedules import Interval
from reference import SPACES, at_step, branches_in, scheduler_steps, softmax_map, tensors
from spy import network_outputs
from tiny import CASES

close = torch.testing.assert_close
SCFG = C["s-cfg"]
TEXT = 5


def call(rows, columns, batch=2, first=0, seed=0, text=TEXT):
    """One joint attention call of `rows` x `columns` image tokens that start at token `first` of the sequence."""
    length = rows * columns + text
    q, k, v = (2 * t for t in tensors(seed, 3, batch, 3, length, 8))
    return Attention(q, k, v, slice(first, first + rows * columns))


# plain forms


def gaussian(maps):
    """3x3, standard deviation 0.5, edges mirrored; [batch, channels, height, width]."""
    weight = {0: 1.0, 1: math.exp(-0.5 / 0.25)}
    total = sum(weight[abs(i)] * weight[abs(j)] for i in (-1, 0, 1) for j in (-1, 0, 1))
    padded = F.pad(maps, (1, 1, 1, 1), "reflect")
    height, width = maps.shape[-2:]
    return sum(weight[abs(i)] * weight[abs(j)] / total * padded[..., 1 + i:1 + i + height, 1 + j:1 + j + width]
               for i in (-1, 0, 1) for j in (-1, 0, 1))


def plain_maps(call, rows, columns, side):
    """Token maps cell by cell, powers as written, fp64."""
    weights = softmax_map(call.q, call.k, call.mask, call.scale)[:, :, call.image]
    image = weights[..., call.image]
    text = torch.cat([weights[..., :call.image.start], weights[..., call.image.stop:]], -1)
    image, text = ((part / part.sum(-1, keepdim=True)).mean(1) for part in (image, text))
    shape = (-(-rows // side), -(-columns // side))
    cells = [[r * columns + c for r in range(rows) for c in range(columns) if (r // side, c // side) == (y, x)]
             for y in range(shape[0]) for x in range(shape[1])]
    own = torch.stack([torch.stack([image[:, a][:, :, b].sum(2).mean(1) for b in cells], 1) for a in cells], 1)
    words = torch.stack([text[:, a].mean(1) for a in cells], 1)
    powers = sum(torch.linalg.matrix_power(own, n) for n in (1, 2, 3, 4)) / 4
    return gaussian((powers @ words).mT.unflatten(2, shape))


def plain_rate(size, labels, inside, low=0.0, high=math.inf):
    """R at each pixel of [batch, height, width], region by region."""
    rate = torch.ones_like(size)
    for n, label, fore, out in zip(size, labels, inside, rate):
        for token in label.unique():
            out[label == token] = (n[fore].mean() / n[label == token].mean()).clamp(low, high)
    return rate


def plain_scfg(cond, uncond, maps, w, zoom, bos=0, low=0.8, high=3.0, limit=15.0):
    """The whole rule, fp64. maps: by branch, one per block, as the rule has them; zoom: cell side. Maps that are equal but
    for rounding (a relative margin of 1e-4) are equal: the first wins, and none is foreground."""
    def normed(m):
        return m / m.mean((-2, -1), keepdim=True)

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


# cells and maps


@pytest.mark.parametrize(("grid", "side", "shape"), [
    ((4, 4), 1, (4, 4)), ((4, 8), 1, (4, 8)), ((32, 32), 2, (16, 16)), ((64, 48), 4, (16, 12)), ((17, 10), 2, (9, 5)),
    ((3, 33), 3, (1, 11))])
@pytest.mark.parametrize("zoom", [1, 2])
def test_cells_cover_the_image_once(grid, side, shape, zoom):
    cells = Cells(*grid)
    rows, columns = cells.members(zoom)
    assert cells.side == side and (len(rows), len(columns)) == (zoom * grid[0], zoom * grid[1])
    assert (rows.shape[1], columns.shape[1]) == shape and max(shape) <= 16
    for at in (rows, columns):
        assert torch.equal(at.sum(1), torch.ones(len(at))) and bool((at.argmax(1).diff() >= 0).all())
        assert bool((at.sum(0)[:-1] == side * zoom).all()) and 0 < at.sum(0)[-1] <= side * zoom


@pytest.mark.parametrize("first", [0, TEXT, 2])
@pytest.mark.parametrize(("rows", "columns", "side"), [(4, 4, 1), (3, 5, 1), (17, 4, 2), (20, 34, 3)])
def test_token_maps_are_those_of_plain_loops(rows, columns, side, first, monkeypatch):
    monkeypatch.setattr("emag.attention.CHUNK_BYTES", 2**16)
    made = call(rows, columns, first=first)
    maps = token_maps(made, Cells(rows, columns))
    close(maps.double(), plain_maps(made, rows, columns, side), atol=1e-5, rtol=1e-4)
    close(maps.sum(1), torch.ones_like(maps[:, 0]), atol=1e-4, rtol=1e-4)  # S and C are shares, and blur keeps constants


def test_masked_text_has_an_empty_map():
    made = call(4, 4)
    keep = torch.ones(1, 1, 1, 16 + TEXT, dtype=torch.bool)
    keep[..., -2:] = False
    maps = token_maps(Attention(made.q, made.k, made.v, made.image, keep), Cells(4, 4))
    assert bool((maps[:, -2:] == 0).all()) and bool((maps[:, :-2] > 0).all())
    assert foreground([maps], 0).any() and (regions([maps]) < TEXT - 2).all()


def test_the_gaussian_is_that_of_the_text():
    close(torch.tensor(GAUSSIAN), torch.tensor([0.10650698, 0.78698604, 0.10650698]))


# regions, foreground, rate


def test_regions_compare_maps_by_their_means_and_average_blocks():
    faint, strong = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    faint[:, 0], faint[:, 1] = torch.tensor([[8.0, 8], [8, 0]]), torch.tensor([[0.0, 0], [0, 0.1]])
    assert regions([faint]).tolist() == [[[0, 0], [0, 1]]] * 2
    assert regions([strong, faint]).tolist() == [[[0, 0], [0, 1]]] * 2
    flipped = faint.clone()
    flipped[:, 0], flipped[:, 1] = torch.tensor([[0.0, 8], [8, 8]]), torch.tensor([[0.1, 0.0], [0, 0]])
    assert regions([flipped] * 5 + [faint]).tolist() == [[[1, 0], [0, 0]]] * 2


@pytest.mark.parametrize("bos", [0, 2, -1])
def test_foreground_is_where_the_words_outweigh_the_start(bos):
    maps = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    others = maps.sum(1) - maps[:, bos]
    expected = others / others.mean((1, 2), keepdim=True) > maps[:, bos] / maps[:, bos].mean((1, 2), keepdim=True)
    assert torch.equal(foreground([maps], bos), expected)
    assert 0 < expected.sum() < 32


@pytest.mark.parametrize("bos", [3, -4])
def test_a_start_token_that_is_not_there_is_refused(bos):
    with pytest.raises(BadValue, match="3 text tokens"):
        foreground([torch.ones(2, 3, 4, 4)], bos)


def scene(seed=0, batch=3, places=36):
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(batch, places, dtype=torch.float64, generator=generator) + 0.1
    labels = torch.randint(0, 4, (batch, places), generator=generator)
    return size, torch.ones(places).double(), labels, torch.rand(batch, places, generator=generator) > 0.6


def test_the_rate_evens_out_the_regions():
    size, count, labels, inside = scene()
    rate = rates(size, count, labels, inside)
    for n, r, label, fore in zip(size, rate, labels, inside):
        for token in label.unique():
            close((7.5 * r * n)[label == token].mean(), 7.5 * n[fore].mean())
            assert r[label == token].unique().numel() == 1
    close(rate, plain_rate(size, labels, inside))


def test_the_rate_of_pooled_places_is_that_of_their_pixels():
    size, _, labels, inside = scene()
    count = torch.tensor([1.0, 4.0, 2.0] * 12).double()
    repeats = count.long()
    fine = rates(*(t.repeat_interleave(repeats, 1) for t in (size,)), torch.ones(int(count.sum())).double(),
                 labels.repeat_interleave(repeats, 1), inside.repeat_interleave(repeats, 1))
    close(rates(size * count, count, labels, inside).repeat_interleave(repeats, 1), fine)


@pytest.mark.parametrize("k", [0.01, 3.0, 1e4])
def test_the_rate_does_not_know_the_size_of_the_difference(k):
    size, *rest = scene()
    close(rates(k * size, *rest), rates(size, *rest))


def test_the_rate_is_1_where_nothing_tells_regions_apart():
    size, count, labels, inside = scene()
    ones = torch.ones_like(size)
    close(rates(ones * 3, count, labels, inside), ones)
    close(rates(size, count, labels, torch.zeros_like(inside)), ones)
    close(rates(0 * size, count, labels, inside), ones)
    close(rates(size, count, torch.zeros_like(labels), torch.ones_like(inside)), ones)
    still = labels == 2
    rate = rates(size * ~still, count, labels, inside)
    assert bool((rate[still] == 1).all()) and bool((rate[~still] != 1).all())


# the rule


def watcher(rule, size=(12, 20), batch=2, layers=(1, 2)):
    """What has been seen of a step of latents of `size`."""
    state, rows, columns = rule.observer.start((), None), size[0] // 2, size[1] // 2
    state.place((rows, columns))
    state.begin(0)
    for layer in layers:
        made = call(rows, columns, 2 * batch, seed=layer)
        state.watch(layer, made, Rows(slice(batch, 2 * batch), slice(0, batch), 2 * batch))
    return state


def at(rule, size=(12, 20), path="vp", space="x0", **more):
    x = tensors(8, 1, 2, 4, *size)[0].double()
    return at_step(path, space, x=x, seen={rule.observer: watcher(rule, size)}, **more)


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
    class Each(emag.schedules.Schedule):
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


@pytest.mark.parametrize("case", ["dit", "pixart"])
def test_networks_without_text_in_the_attention_are_refused(case):
    pipe = CASES[case].pipe()
    with pytest.raises(Unsupported, match="SD3 and Flux"):
        emag.guide(pipe, SCFG(3.0, layers=(1,)))


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
