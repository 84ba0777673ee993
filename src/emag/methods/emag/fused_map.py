# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""The update of an averaged attention map as one Triton kernel: the live map is never held, the host's attention goes on.

A tile of image queries meets the keys twice: first for the maximum m and the sum l of each row, then for
p = exp(s - m) / l, the statistic sum |E - p|, and E <- beta E + (1 - beta) p, read and written in its own format. What the
chunks of `MapAverage` do with PyTorch is its reference. Sums are per tile, added up by PyTorch: no atomics, one result.

Not yet run on a GPU. In Triton's interpreter E in float32 is 4.3e-7 from exact arithmetic (relative L2; the chunks: 4.4e-7),
the statistic 2.8e-7; of the codes of scaled16 and scaled8 at most 0.05 % fall on the other side than in the chunks.
"""

import torch
import triton
import triton.language as tl

from ...maths.attention import Attention
from . import stored_map
from .stored_map import Scaled8, Scaled16, StoredMap

ROWS, KEYS, WARPS = 64, 64, 4  # a tile of the map
FULL, SCALED16, SCALED8 = (tl.constexpr(i) for i in range(3))
NO_MASK, BOOL, ADDED = (tl.constexpr(i) for i in range(3))
HEAD, ROW, COLUMN, UPDATE = (tl.constexpr(getattr(stored_map, name)) for name in ("HEAD", "ROW", "COLUMN", "UPDATE"))


@triton.jit
def _logits(q, k, mask, rows, columns, dims, count, keys, width, k_s, k_d, m_l, m_s, scale, kind: tl.constexpr):
    """Logits of a tile in fp32, -inf where a key is masked or none."""
    inside = columns[None, :] < keys
    there = tl.load(k + columns[None, :] * k_s + dims[:, None] * k_d, mask=inside & (dims[:, None] < width), other=0.0)
    s = tl.dot(q, there, input_precision="ieee") * scale
    at, seen = mask + rows[:, None] * m_l + columns[None, :] * m_s, inside & (rows[:, None] < count)
    if kind == ADDED:
        s += tl.load(at, mask=seen, other=0.0).to(tl.float32)
    if kind == BOOL:
        inside &= tl.load(at, mask=seen, other=1) != 0
    return tl.where(inside, s, float("-inf"))


@triton.jit
def _cut(x, add):
    """x >= 0 with `add` on its bits, the bits that float16 has not cut off."""
    return ((x.to(tl.int32, bitcast=True) + add) & -8192).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["update"])
def _kernel(q, k, mask, codes, peaks, totals, differ, heads, share, count, keys, width, first, stop,
            q_b, q_h, q_l, q_d, k_b, k_h, k_s, k_d, m_b, m_h, m_l, m_s, scale, unit, weight, update,
            FORMAT: tl.constexpr, MASK: tl.constexpr, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    tile, pair = tl.program_id(0), tl.program_id(1)
    b, h = (pair // heads).to(tl.int64), (pair % heads).to(tl.int64)
    rows, dims = tile * M + tl.arange(0, M), tl.arange(0, D)
    real = rows < count
    q += b * q_b + h * q_h
    queries = tl.load(q + rows[:, None] * q_l + dims[None, :] * q_d, mask=real[:, None] & (dims[None, :] < width), other=0.0)
    k += b * k_b + h // share * k_h
    mask += b * m_b + h * m_h
    top, peak = tl.full([M], float("-inf"), tl.float32), tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    # first time over the keys: the largest logit and the softmax sum of each row, as they come (online softmax)
    for start in range(0, keys, N):
        columns = start + tl.arange(0, N)
        s = _logits(queries, k, mask, rows, columns, dims, count, keys, width, k_s, k_d, m_l, m_s, scale, MASK)
        higher = tl.maximum(top, tl.max(s, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(s - base[:, None]), 1)
        kept = (columns >= first) & (columns < stop)
        top, peak = higher, tl.maximum(peak, tl.max(tl.where(kept[None, :], s, float("-inf")), 1))
    line = pair.to(tl.int64) * count + rows
    if FORMAT == SCALED8:
        old_peak = tl.load(peaks + line, mask=real, other=1.0)
        new_peak = old_peak + weight * (tl.exp(peak - top) / total - old_peak)
        tl.store(peaks + line, new_peak, mask=real)
        old_squares, squares = 65025.0 / tl.maximum(old_peak, 1e-30), 65025.0 / tl.maximum(new_peak, 1e-30)
    # the dither of `stored_map.dither`, in the integers of the device
    row_word = (h.to(tl.uint32) * HEAD + rows.to(tl.uint32) * ROW + update.to(tl.uint32) * UPDATE) >> 8
    codes += line[:, None] * (stop - first)
    gap, apart = tl.zeros([M], tl.float32), tl.zeros([M], tl.int32)
    # second time, over the kept columns alone: each entry of the map is made, compared with E and taken in, and never stored
    for start in range(first, stop, N):
        columns = start + tl.arange(0, N)
        s = _logits(queries, k, mask, rows, columns, dims, count, keys, width, k_s, k_d, m_l, m_s, scale, MASK)
        p = tl.exp(s - top[:, None]) / total[:, None]
        inside = real[:, None] & (columns < stop)[None, :]
        at = codes + (columns - first)[None, :]
        held = tl.load(at, mask=inside, other=0)
        column_word = ((columns - first).to(tl.uint32) * COLUMN) >> 8
        u = ((row_word[:, None] + column_word[None, :]) & 16777215).to(tl.int32)
        if FORMAT == FULL:
            old, away = held, held != p
            code = old + weight * (p - old)
        elif FORMAT == SCALED16:
            old = held.to(tl.float32) / unit
            down = _cut(p * unit, 0).to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32)
            away = tl.abs(held.to(tl.int16, bitcast=True).to(tl.int32) - down) > 1
            code = _cut((old + weight * (p - old)) * unit, u >> 11).to(tl.float16)
        else:
            level = held.to(tl.float32)
            old = level * level * (old_peak / 65025.0)[:, None]
            away = tl.abs(level - tl.floor(tl.sqrt(p * old_squares[:, None]))) > 1
            y = (old + weight * (p - old)) * squares[:, None]
            low = tl.floor(tl.sqrt(y))
            up = (y - low * low) > (2 * low + 1) * (u.to(tl.float32) * 5.9604644775390625e-08)
            code = tl.minimum(low + up.to(tl.float32), 255.0).to(tl.uint8)
        gap += tl.sum(tl.where(inside, tl.abs(old - p), 0.0), 1)
        apart = tl.maximum(apart, tl.max((inside & away).to(tl.int32), 1))
        tl.store(at, code, mask=inside)
    tl.store(totals + pair * tl.num_programs(0) + tile, tl.sum(tl.where(real, gap, 0.0), 0))
    tl.store(differ + pair * tl.num_programs(0) + tile, tl.max(apart, 0))


def observe(call: Attention, kept: slice, stored: StoredMap, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Let E take in the live map of the image queries, its columns `kept` of all keys.

    Returns the sum over rows of mean |E - A| [B], and the samples [B] where A was not E, rounding apart. Nothing waits for
    the device. E must be float32, scaled16 or scaled8.
    """
    q, k, codes = call.image_queries(), call.k, stored.codes
    batch, heads, count, width = q.shape
    grid = triton.cdiv(count, ROWS), batch * heads
    totals = torch.empty(batch, heads * grid[0], device=q.device)
    differ = torch.empty(batch, heads * grid[0], dtype=torch.int32, device=q.device)
    mask, kind = _mask(call)
    unit, peaks, form = 1.0, codes, FULL
    if isinstance(stored, Scaled16):
        unit, form = stored.unit, SCALED16
    if isinstance(stored, Scaled8):
        peaks, form = stored.peaks, SCALED8
    scale = width**-0.5 if call.scale is None else call.scale
    with torch.cuda.device_of(q):
        _kernel[grid](
            q, k, mask, codes, peaks, totals, differ, heads, heads // k.shape[1], count, k.shape[2], width, kept.start,
            kept.stop, *q.stride(), *k.stride(), *mask.stride(), scale, unit, 1.0 - beta, stored.updates, FORMAT=form,
            MASK=kind, M=ROWS, N=KEYS, D=max(16, triton.next_power_of_2(width)), num_warps=WARPS)
    return totals.sum(1) / codes.shape[3], differ.any(1)


def _mask(call: Attention) -> tuple[torch.Tensor, tl.constexpr]:
    """The mask of the image queries over [B, H, image tokens, S], bool as bytes, and its kind."""
    if call.mask is None:
        return call.q[:, :, call.image], NO_MASK  # not read
    mask = call.mask.expand(*call.q.shape[:3], call.k.shape[2])[:, :, call.image]
    return (mask.view(torch.uint8), BOOL) if mask.dtype == torch.bool else (mask, ADDED)
