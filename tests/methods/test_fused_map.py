"""The Triton kernel of averaged maps against brute force in fp64, and against the chunks it stands in for.

Where there is no GPU it runs in Triton's interpreter, in a process of its own, as that is chosen before Triton is imported.
"""

import os
import subprocess
import sys

import pytest
import torch

from emag.maths.attention import Attention
from emag.maths.streams import Streams
from emag.methods.emag.map_average import MapAverage
from reference import softmax_map, tensors

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = INTERPRETED or torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED or not HERE else "cuda"
HALF = torch.float16 if INTERPRETED else torch.bfloat16  # the interpreter multiplies the bits of bfloat16 as integers
FORMATS = ("float32", "scaled16", "scaled8")
B, H = 2, 2
close = torch.testing.assert_close
here = pytest.mark.skipif(not HERE, reason="runs in a process of its own")


@pytest.mark.slow
@pytest.mark.skipif(HERE, reason="this is that process, or there is a GPU")
def test_in_the_interpreter():
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__], capture_output=True,
                          text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("form", "codes"), enumerate(("fp32", "fp16", "u8")))
@pytest.mark.parametrize("capability", [80, 90])
def test_it_compiles_for_a_gpu(form, codes, capability):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from emag.methods.emag import fused_map

    types = {"q": "*bf16", "k": "*bf16", "mask": "*u8", "codes": f"*{codes}", "peaks": "*fp32", "totals": "*fp32",
             "differ": "*i32", "scale": "fp32", "unit": "fp32", "weight": "fp32"}
    fixed = {"FORMAT": form, "MASK": 1, "M": fused_map.ROWS, "N": fused_map.KEYS, "D": 64}
    types = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in fused_map._kernel.arg_names}
    made = compile(ASTSource(fused_map._kernel, types, fixed), target=GPUTarget("cuda", capability, 32))
    assert made.asm["cubin"] and made.metadata.shared < 100_000


def mask_of(kind, length):
    keep = torch.rand(B, H, length, length, generator=torch.Generator().manual_seed(5)) < 0.7
    keep[..., 2] = True
    keep[:, :, :, -3:] = False
    additive = tensors(6, 1, B, H, length, length)[0]
    none = {"none": None, "bool": keep, "additive": additive, "keys": keep[:, :1, :1], "plain": additive[0, 0]}[kind]
    return none if none is None else none.to(DEVICE)


def calls(count=3, image=70, text=13, width=24, groups=H, mask="none", first=0, dtype=torch.float32):
    """Calls that drift; `first` of the text stands before the image."""
    length = image + text
    q, k, v = (x.to(DEVICE, dtype) for x in tensors(1, 3, B, H, length, width))
    drift = [x.to(DEVICE, dtype) for x in tensors(2, count, B, H, length, width)]
    return [Attention(1.5 * q + 0.3 * d, k[:, :groups], v[:, :groups], slice(first, first + image), mask_of(mask, length))
            for d in drift]


def averages(kind="float32", beta=0.9, image_keys=False):
    """An average by chunks and one by the kernel."""
    made = [MapAverage(beta, 1.0, "mae", "old", torch.float32, 0.0, "emag/1", Streams([b"a"]),
                       columns="image" if image_keys else "all", maps=kind) for _ in range(2)]
    made[0]._fits, made[1]._fits = lambda call: False, lambda call: True
    return made


def exact(run, beta, image_keys):
    """E, and the statistic before each update, in fp64."""
    average, found = None, []
    for call in run:
        kept = call.image if image_keys else slice(None)
        k = call.k.double().repeat_interleave(H // call.k.shape[1], 1)
        live = softmax_map(call.q.double(), k, call.mask, call.scale)[:, :, call.image, kept]
        old, average = average, live if average is None else beta * average + (1 - beta) * live
        found.append(torch.zeros(B, device=DEVICE).double() if old is None else (old - live).abs().flatten(1).mean(1))
    return average, found


SHAPES = [{}, {"width": 16}, {"width": 40}, {"width": 64}, {"width": 128, "groups": 1},
          {"image": 64, "text": 64}, {"image": 3, "text": 0}, {"image": 131, "text": 1}, {"first": 5}, {"first": 13},
          *({"mask": mask, "first": 4} for mask in ("bool", "additive", "keys", "plain"))]


@here
@pytest.mark.parametrize("image_keys", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_in_float32_it_is_the_exact_average(shape, image_keys):
    run, (_, fused) = calls(**shape), averages(image_keys=image_keys)
    kept = image_keys and run[0].has_text
    found = [fused.observe(call) for call in run]
    average, statistics = exact(run, 0.9, kept)
    close(fused.value.double(), average, atol=2e-6, rtol=2e-5)
    for one, true in zip(found, statistics):
        close(one.double(), true, atol=1e-8, rtol=1e-4)


@here
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("image_keys", [False, True])
@pytest.mark.parametrize("shape", [{}, {"image": 131, "text": 1}, {"mask": "bool", "first": 4}, {"dtype": HALF}],
                         ids=str)
def test_it_is_the_chunks(shape, image_keys, kind):
    chunked, fused = averages(kind, image_keys=image_keys)
    for call in calls(**shape):
        close(fused.observe(call), chunked.observe(call), atol=1e-8, rtol=1e-4)
        assert torch.equal(fused.moved, chunked.moved) if fused.moved is not None else chunked.moved is None
    if kind == "float32":
        return close(fused.value, chunked.value, atol=2e-6, rtol=2e-5)
    codes = [x.stored.codes.view({"scaled16": torch.int16, "scaled8": torch.uint8}[kind]).int() for x in (fused, chunked)]
    apart = (codes[0] - codes[1]).abs()
    # where a number is a rounding error away from its dither, the two fall on either side
    assert apart.max() <= 2 and (apart > 0).float().mean() < 0.005


@here
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_ends_of_beta(kind, beta):
    run, (_, fused) = calls(3), averages(kind, beta)
    for call in run:
        fused.observe(call)
    bound = {"float32": 1e-6, "scaled16": 1e-3, "scaled8": 2e-2}[kind]
    live, _ = exact([run[0 if beta else -1]], beta, False)
    assert (fused.value - live).norm() / live.norm() < bound


@here
@pytest.mark.parametrize("kind", FORMATS)
def test_a_constant_attention_never_counts_as_moved(kind):
    (first, second), (_, fused) = calls(2, image=20), averages(kind, 0.988)
    for _ in range(30):
        statistic = fused.observe(first)
    assert not fused.moved.any() and (statistic < 1e-3).all()
    fused.observe(Attention(torch.cat([first.q[:1], second.q[1:]]), first.k, first.v, first.image))
    assert fused.moved.tolist() == [False, True]


@here
@pytest.mark.parametrize("kind", FORMATS)
def test_a_sample_is_what_it_is_alone(kind):
    (_, both), (_, alone) = averages(kind), averages(kind)
    for call in calls(image=20):
        found = both.observe(call)[1:], alone.observe(call.rows(slice(1, 2)))
        assert torch.equal(*found)
    assert torch.equal(both.stored.codes[1:], alone.stored.codes)


@here
def test_strides_are_the_callers():
    run, (_, plain), (_, strided) = calls(3), averages(), averages()
    for call in run:
        plain.observe(call)
        q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (call.q, call.k))
        strided.observe(Attention(q, k, call.v, call.image))
    assert torch.equal(plain.value, strided.value)
