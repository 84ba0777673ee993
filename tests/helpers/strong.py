"""NAG, VSF and PLADIS written out."""

import torch
import torch.nn.functional as F

from emag.core import Rows
from emag.maths.entmax import entmax
from emag.maths.streams import Streams
from emag.methods.attention.nag import NormalizedAttention
from emag.methods.attention.pladis import SparseText
from emag.methods.attention.vsf import FlippedText
from reference import softmax_map

B, H, IMAGE, TEXT, D = 2, 4, 6, 5, 8
close = torch.testing.assert_close
BOTH = Rows(slice(B, 2 * B), slice(0, B), 2 * B)  # [negative, positive]
STREAMS = Streams([])


def live_of(call):
    return lambda q: F.scaled_dot_product_attention(q, call.k, call.v, call.mask, scale=call.scale,
                                                    enable_gqa=call.k.shape[1] != call.q.shape[1])


def made(spec, call, rows=BOTH, index=0, state=None, sigmas=(0.9, 0.5)):
    if state is None:
        state = spec.start(sigmas, STREAMS)
        state.begin(index)
    return state.strengthen(3, call, live_of(call), rows), state


def nag(**more):
    values = {"layers": (3,), "across": False, "scale": 4.0, "tau": 1.2, "alpha": 0.6, "norm": "l1", "eps": 1e-6,
              "sigma_end": 0.0, **more}
    return NormalizedAttention(**values)


def vsf(flip=2.0, offset=0.3):
    return FlippedText((3,), False, flip, offset)


def pladis(weight=2.0, alpha=1.5):
    return SparseText((3,), False, weight, alpha)


def by_hand(name, q, k, v, image):
    """Attention of a doubled call [negative, positive] of `reference.Model`, image tokens first."""
    out = softmax_map(q, k) @ v
    text, rows = slice(image.stop, q.shape[2]), len(q) // 2
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    crossed = q[rows:] @ k[:rows, :, text].transpose(-1, -2) * q.shape[-1] ** -0.5
    if name == "pladis":
        weights = logits.softmax(-1)
        share, sparse = weights[..., text].sum(-1, keepdim=True), entmax(logits[..., text], 1.5)
        weights[..., text] += 2.0 * (share * sparse - weights[..., text])
        out[:, :, image] = (weights @ v)[:, :, image]
        return out
    if name == "vsf":
        weights = torch.cat([logits[rows:], crossed - 0.2], -1).softmax(-1)
        new = weights @ torch.cat([v[rows:], -1.5 * v[:rows, :, text]], 2)
    else:
        weights = torch.cat([logits[rows:][..., image], crossed], -1).softmax(-1)
        minus, plus = weights @ torch.cat([v[rows:, :, image], v[:rows, :, text]], 2), out[rows:]
        far = 3 * plus - 2 * minus
        ratio = far.abs().sum((1, 3), keepdim=True) / plus.abs().sum((1, 3), keepdim=True)
        new = 0.7 * far * ratio.clamp(max=1.5) / ratio + 0.3 * plus
    out[rows:, :, image] = new[:, :, image]
    return out
