"""S-CFG written as plain loops."""

import math

import torch
import torch.nn.functional as F

from emag.core import Rows
from emag.maths.attention import Attention
from reference import at_step, softmax_map, tensors

close = torch.testing.assert_close
TEXT = 5


def call(rows, columns, batch=2, first=0, seed=0, text=TEXT):
    """One joint attention call of `rows` x `columns` image tokens that start at token `first` of the sequence."""
    length = rows * columns + text
    q, k, v = (2 * t for t in tensors(seed, 3, batch, 3, length, 8))
    return Attention(q, k, v, slice(first, first + rows * columns))


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
