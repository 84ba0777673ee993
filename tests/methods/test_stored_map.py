"""Averages of attention maps in 16 and 8 bits: rounding, dither, effects, picks."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.errors import BadValue, NoEffect
from emag.maths import attention
from emag.maths.attention import Attention
from emag.maths.streams import Streams
from emag.methods.emag import stored_map
from emag.methods.emag.compat import Compat
from emag.methods.emag.map_average import MapAverage
from emag.methods.emag.stored_map import FINE, dither, empty, format_of, size
from emag.records import recipe
from reference import EVERY, freeze, rule, tensors
from tiny import CASES, generators, noise, sd3

SHORT = ("scaled16", "scaled8")
ALL = ("float32", *SHORT)
CPU, WHOLE = torch.device("cpu"), slice(None)
close = torch.testing.assert_close
short, every = pytest.mark.parametrize("kind", SHORT), pytest.mark.parametrize("kind", ALL)


def rows(seed=1, batch=2, heads=3, count=20, columns=300, sharp=2.0):
    """Softmax rows from flat to sharp."""
    logits = sharp * tensors(seed, 1, batch, heads, count, columns)[0]
    return torch.softmax(logits * torch.linspace(0.2, 3, count)[:, None], -1)


def started(kind, live):
    held = empty(kind, live.shape, CPU)
    follow(held, live, 0.0)
    return held


def follow(held, live, beta):
    held.updates += 1
    return held.take(slice(0, live.shape[2]), live, beta)


def step_of(kind, live):
    """Distance of the two codes around each entry."""
    if kind == "scaled16":
        unit = 2.0 ** (live.shape[-1].bit_length() - 1)
        return 2.0 ** ((live * unit).clamp(min=2.0**-14).log2().floor() - 10) / unit
    peak = live.amax(-1, keepdim=True)
    return (2 * (live / peak).sqrt() * 255 + 1) / 255**2 * peak


@short
@pytest.mark.parametrize("sharp", [0.1, 2.0, 10.0])
def test_an_entry_is_kept_to_one_step(kind, sharp):
    live = rows(sharp=sharp)
    assert ((started(kind, live).value - live).abs() <= 1.01 * step_of(kind, live)).all()


@short
def test_the_first_map_is_a_plain_one(kind):
    held = empty(kind, (2, 3, 20, 300), CPU)
    assert not held.value.any() and held.updates == 0


@pytest.mark.parametrize("columns", [1, 7, 2**15, 70000])
@short
def test_rows_of_any_length_whether_on_one_key_or_on_all(kind, columns):
    live = torch.stack([F.one_hot(torch.tensor(columns - 1), columns).float(), torch.full((columns,), 1 / columns)])
    close(started(kind, live.view(1, 1, 2, columns)).value[0, 0], live, atol=1e-8, rtol=1e-3 if kind == "scaled16" else 1e-5)


def run_of(kind, updates=200, beta=0.988):
    """Share of the first map left in E after updates towards one near it; that share in exact arithmetic, and E's error."""
    logits, near = tensors(1, 2, 2, 3, 20, 300), {"scaled16": 0.02, "float16": 0.02, "scaled8": 0.3}[kind]
    first, last = (torch.softmax(2 * logits[0] + x * logits[1], -1) for x in (0, near))
    held, exact = started(kind, first), beta**updates
    for _ in range(updates):
        follow(held, last, beta)
    expected, away = exact * first + (1 - exact) * last, (first - last).double()
    share = float(((held.value.double() - last) * away).sum() / away.square().sum())
    return share, exact, float((held.value - expected).norm() / expected.norm()), held.value.sum(-1)


@short
def test_small_updates_add_up(kind):
    share, exact, error, sums = run_of(kind)
    assert abs(share - exact) < 0.02
    assert error < {"scaled16": 1e-3, "scaled8": 1e-2}[kind]
    assert abs(float(sums.mean()) - 1) < {"scaled16": 1e-4, "scaled8": 2e-3}[kind]


@pytest.mark.parametrize("kind", [*SHORT, "float16"])
def test_rounded_to_the_nearest_code_they_do_not(monkeypatch, kind):
    monkeypatch.setattr(stored_map, "dither", lambda *_: torch.tensor(2 ** (FINE - 1), dtype=torch.int32))
    share, exact, error, _ = run_of(kind)
    assert share - exact > 0.2 and error > 0.01


def test_dither_is_the_fractional_part_of_irrational_multiples():
    found = dither(3, slice(5, 9), 7, 11, CPU).double() / 2**FINE
    head, row, column = (torch.arange(a, b).double() for a, b in ((0, 3), (5, 9), (0, 7)))
    exact = (head[:, None, None] * 7**0.5 + row[:, None] * 3**0.5 + column * 2**0.5 + 11 * (5**0.5 - 1) / 2) % 1
    assert ((found - exact + 0.5) % 1 - 0.5).abs().max() < 1e-6
    assert torch.equal(dither(3, slice(0, 9), 7, 11, CPU)[:, 5:], dither(3, slice(5, 9), 7, 11, CPU))


def test_dither_is_even_over_updates_and_over_entries():
    values = torch.stack([dither(4, slice(0, 30), 50, n, CPU) for n in range(1, 29)]).double() / 2**FINE
    for axes in (0, 1, 2, 3):
        ordered, count = values.sort(axes).values, values.shape[axes]
        even = ((torch.arange(count) + 0.5) / count).view([-1 if axis == axes else 1 for axis in range(4)])
        assert (ordered - even).abs().max() < {0: 0.08, 1: 0.35, 2: 0.1, 3: 0.07}[axes]


def average_of(kind, beta=0.988, **more):
    return MapAverage(beta, 1.0, "mae", "old", torch.float32, 0.0, "emag/1", Streams([b"a"] * 3), maps=kind, **more)


def calls(count, batch=3, image=12, text=5):
    base = tensors(3, 1, batch, 2, image + text, 8)[0]
    drift = tensors(4, count, batch, 2, image + text, 8)
    return [Attention(2 * base + 0.3 * d, base, base, slice(0, image)) for d in drift]


@every
def test_a_sample_is_rounded_as_alone_and_in_any_chunks(monkeypatch, kind):
    live, small = rows(batch=3), []
    together, alone = started(kind, live), started(kind, live[1:2])
    follow(together, rows(5, batch=3), 0.9), follow(alone, rows(5, batch=3)[1:2], 0.9)
    assert torch.equal(together.codes[1:2], alone.codes)
    for budget in (2**20, 1):
        monkeypatch.setattr(attention, "CHUNK_BYTES", budget)
        small.append(average_of(kind))
        for call in calls(4):
            small[-1].observe(call)
    share = (small[0].stored.codes != small[1].stored.codes).float().mean()
    assert share < 0.01 or kind == "float32"  # the products of one row round differently, and few codes with them
    close(small[0].value, small[1].value, atol=2e-4, rtol=2e-2)


@every
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.988, 1.0])
@pytest.mark.parametrize("image_keys", [False, True])
def test_a_constant_attention_never_counts_as_moved(kind, beta, image_keys):
    average, call = average_of(kind, beta, columns="image" if image_keys else "all"), calls(1)[0]
    for _ in range(60):
        statistic = average.observe(call)
    assert not average.moved.any() and (statistic < 1e-2 / 17).all()
    out, differs = average.output(call, lambda q: F.scaled_dot_product_attention(q, call.k, call.v), torch.ones(3).bool())
    assert not differs
    close(out, F.scaled_dot_product_attention(call.q, call.k, call.v), atol=3e-2, rtol=3e-2)


@every
def test_only_samples_that_moved_count(kind):
    first, second = calls(2)
    average, moved = average_of(kind), replace(first, q=torch.cat([first.q[:2], second.q[2:]]))
    average.observe(first)
    average.observe(moved)
    assert average.moved.tolist() == [False, False, True]


@short
def test_a_slow_drift_counts(kind):
    average, (first, second) = average_of(kind, 1.0), calls(2)
    for i in range(50):
        average.observe(replace(first, q=first.q.lerp(second.q, i / 50)))
    assert average.moved.all()


@every
@pytest.mark.parametrize("name", ["sd3", "dit"])
def test_no_effect_is_seen_through(name, kind):
    pipe = freeze(CASES[name].pipe())
    with pytest.raises(NoEffect), emag.guide(pipe, rule(CASES[name], variant="map", maps=kind)):
        CASES[name].run(pipe)


@pytest.mark.parametrize("variant", ["map", "image"])
def test_auto_is_float32_on_a_cpu(variant):
    images = []
    for maps in ("auto", "float32"):
        pipe = CASES["sd3"].pipe()
        with emag.guide(pipe, rule(CASES["sd3"], variant=variant, maps=maps)):
            images.append(CASES["sd3"].run(pipe))
    assert torch.equal(*images)


def test_auto_elsewhere():
    cuda = torch.device("cuda")
    assert format_of("auto", "float32", CPU) == "float32" and format_of("auto", "float32", cuda) == "scaled16"
    assert {format_of("auto", kind, device) for kind in ("float16",) for device in (CPU, cuda)} == {"float16"}
    assert format_of("scaled8", "float16", cuda) == "scaled8"


@pytest.mark.parametrize(("kind", "bits"), [("scaled16", 1e-3), ("scaled8", 1e-2)])
@pytest.mark.parametrize("variant", ["map", "image"])
def test_an_image_of_a_batch_is_the_image_alone(variant, kind, bits):
    case, emag_rule = CASES["sd3"], rule(CASES["sd3"], variant=variant, maps=kind)
    pipe = case.pipe()
    with emag.guide(pipe, emag_rule):
        together, alone = case.run(pipe), case.run(pipe, seeds=(9,))
    assert (together[1:] - alone).norm() / alone.norm() < bits / 10


def test_bytes():
    def held(**more):
        branch = emag.EMAG(1.5, layers=(6, 7, 8), window=EVERY, **{"variant": "map", **more}).perturbation
        return branch.state_bytes(1, 4096, 333, 24, 64)

    entries, lines = 3 * 24 * 4096 * 4429, 3 * 24 * 4096
    assert held() == held(maps="float32") == 4 * entries
    assert held(maps="scaled16") == held(compat=Compat(ema_dtype="float16")) == 2 * entries
    assert held(maps="scaled8") == entries + 4 * lines
    assert held(variant="query") == 3 * 24 * 4096 * 64 * 4
    for kind in SHORT:
        live = rows()
        stored = started(kind, live)
        parts = (stored.codes, stored.peaks) if kind == "scaled8" else (stored.codes,)
        assert sum(part.nbytes for part in parts) == size(kind, live[..., 0].numel(), live.shape[-1])


def test_what_is_refused():
    with pytest.raises(BadValue, match="averaged queries are small"):
        emag.EMAG(1.5, maps="scaled16")
    with pytest.raises(BadValue, match="maps must be one of"):
        emag.EMAG(1.5, variant="map", maps="float16")
    rules = [emag.EMAG(1.5, variant="image", maps="scaled8")]
    assert list(recipe.from_data(recipe.to_data(rules))) == rules


def picks_of(pipe, call, **settings):
    with emag.guide(pipe, emag.EMAG(1.5, window=emag.Window.progress(0, 0.2, 0.9), **settings)) as run:
        latents = pipe(**call(), num_inference_steps=28, output_type="latent").images
    return run.stats.picks, latents


@pytest.mark.parametrize("variant", [
    pytest.param("map", marks=pytest.mark.slow), pytest.param("image", marks=pytest.mark.long)])
def test_picks_of_the_embedded_model(variant):
    pipe = emag.load("tiny", device="cpu")
    prompts = [f"a photo of a {name}" for name in pipe.classes[:2]]
    found = [picks_of(pipe, lambda: {"prompt": prompts, "generator": generators((0, 1))}, variant=variant, maps=kind)
             for kind in ALL]
    assert found[0][0] == found[1][0] == found[2][0]
    assert all((x - found[0][1]).norm() / found[0][1].norm() < bound for (_, x), bound in zip(found, (1e-9, 2e-4, 2e-3)))


@pytest.mark.long
def test_picks_of_a_wider_network():
    pipe = sd3(layers=4, sample_size=32, attention_head_dim=64, num_attention_heads=4, caption_projection_dim=256,
               pos_embed_max_size=16)
    for name, parameter in pipe.transformer.named_parameters():
        if "norm_q." in name or "norm_k." in name or "norm_added" in name:
            torch.nn.init.constant_(parameter, 2.0)

    def call():
        return {"prompt_embeds": noise(1, 1, 77, 12), "negative_prompt_embeds": noise(2, 1, 77, 12),
                "pooled_prompt_embeds": noise(3, 1, 10), "negative_pooled_prompt_embeds": noise(4, 1, 10),
                "height": 32, "width": 32, "guidance_scale": 4.0, "generator": generators((0,))}

    found = [picks_of(pipe, call, variant="map", maps=kind, layers=(1, 2, 3)) for kind in ALL]
    assert found[0][0] == found[1][0] == found[2][0] and len({row for row in found[0][0] if row}) > 1
