"""What a weak pass leaves as it is, and that nothing depends on hash order."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import emag
from cases import ALL, EMAG, WITH_UNCOND
from emag.core import Rows
from spy import attention_of, blocks_of, network_outputs
from tiny import noise

# 7: what must stay untouched


def attention_outputs(pipe, case, store):
    """Record the output of every tapped attention module of every block call."""
    handles = []
    for index, block in enumerate(blocks_of(pipe)):
        def hook(module, args, kwargs, output, index=index):
            outs = output if isinstance(output, tuple) else (output,)
            store.append((index, [o.clone() for o in outs]))
        handles.append(getattr(block, attention_of(case.name)).register_forward_hook(hook, with_kwargs=True))
    return handles


class Sdpa(torch.overrides.TorchFunctionMode):
    """Outputs of every `scaled_dot_product_attention`, inside which it sits."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.calls.append(((kwargs or {}).get("query", args[0] if args else None).clone(), out.clone()))
        return out


@pytest.mark.parametrize("variant", ["query", "map", "image"])
@pytest.mark.parametrize("tokens", [slice(0, 6), slice(4, 10)], ids=["image first", "text first"])
def test_text_rows_of_a_replaced_attention_are_untouched(variant, tokens):
    from emag.maths.attention import Attention
    from emag.maths.streams import Streams

    def call(seed):
        q, k, v = (noise(seed + i, 2, 2, 10, 4) for i in range(3))
        return Attention(q, k, v, tokens)

    rule = EMAG(variant=variant)
    sigmas = tuple(1 - i / 8 for i in range(8))
    state = rule.perturbation.start(sigmas, Streams([b"a", b"b"]))
    rows = Rows(slice(0, 2), None, 2)
    for step in range(2):
        state.begin(step)
        for block in (1, 2):
            state.watch(block, call(10 * step + block), rows)
    state.begin(4)
    state.choose()
    live = call(77)
    sdpa = lambda q: torch.nn.functional.scaled_dot_product_attention(q, live.k, live.v)  # noqa: E731
    plain, text = sdpa(live.q), [i for i in range(10) if not tokens.start <= i < tokens.stop]
    for block in (1, 2):
        out = state.perturb(block, live, sdpa)
        changed = (out != plain).any(-1).any(1)
        assert not changed[:, text].any()
        picked = state.pick == (1, 2).index(block)
        assert torch.equal(changed[:, tokens].all(1), picked)
        assert torch.equal(changed[:, tokens].any(1), picked)


@ALL
@pytest.mark.parametrize("variant", ["query", "map", "image"])
def test_a_weak_pass_changes_the_image_rows_of_the_picked_block_only(case, variant):
    """The first attention of a weak pass sees the clean streams: its text rows and unpicked samples stay as they were."""
    pipe, store = case.pipe(), []
    handles = attention_outputs(pipe, case, store)
    with emag.guide(pipe, EMAG(layers=(1, 2), variant=variant)) as run:
        case.run(pipe, (1, 2, 3))
    for handle in handles:
        handle.remove()
    ones = [outs for index, outs in store if index == 1]
    half = {"neg-pos": slice(3, 6), "pos-neg": slice(0, 3), "calls": slice(0, 3)}[run.host.layout]
    at, compared = 0, 0
    for pick in run.stats.picks:
        clean, at = [o[half] for o in ones[at]], at + 1
        if pick is None:
            at += case.name == "true-cfg"
            continue
        weak, at = ones[at], at + 1 + (case.name == "true-cfg")
        picked = torch.tensor([p == 1 for p in pick])
        image = (weak[0] - clean[0]).abs().flatten(1).amax(1)
        assert (image[~picked] < 1e-4).all() and (image[picked] > 1e-6).all()
        assert all((w - c).abs().max() < 1e-4 for w, c in zip(weak[1:], clean[1:]))
        compared += 1
    assert compared == sum(effect is not None for effect in run.stats.effects) > 2


@WITH_UNCOND
def test_unconditional_rows_are_untouched(case):
    """What the host gets for its unconditional rows is what the network said, bit for bit."""
    pipe, given = case.pipe(), []
    handle = pipe.transformer.register_forward_hook(lambda m, a, out: given.append(out[0].clone()))
    with network_outputs(pipe) as raw, emag.guide(pipe, EMAG(3.0)) as run:
        case.run(pipe)
    handle.remove()
    rows = given[0].shape[0]
    if run.host.layout == "calls":
        weak_after_cond = [effect is not None for effect in run.stats.effects]
        order = [kind for weak in weak_after_cond for kind in (["cond", "weak", "uncond"] if weak else ["cond", "uncond"])]
        own = [out for out, kind in zip(raw, order, strict=True) if kind == "uncond"]
        assert all(torch.equal(a, b) for a, b in zip(own, given[1::2], strict=True))
        return
    clean = [out for out in raw if out.shape[0] == rows]
    half = slice(0, rows // 2) if run.host.layout == "neg-pos" else slice(rows // 2, rows)
    assert len(clean) == len(given)
    assert all(torch.equal(a[half], b[half]) for a, b in zip(clean, given))
    assert any(not torch.equal(a, b) for a, b in zip(clean, given))
    extra = slice(4, None) if clean[0].shape[1] == 8 else slice(4, 4)
    assert all(torch.equal(a[:, extra], b[:, extra]) for a, b in zip(clean, given))


# 8: no hash order


SCRIPT = """
import hashlib, sys
import emag
from tiny import CASES
for name in ("flux", "sd3"):
    pipe = CASES[name].pipe()
    with emag.guide(pipe, emag.CADS(0.3, psi=0.5), emag.EMAG(1.5, jitter=0.1), emag.EMAG(1.2, variant="map")) as run:
        out = CASES[name].run(pipe)
    print(name, run.resolved, run.stats.picks, hashlib.sha256(out.numpy().tobytes()).hexdigest())
"""


@pytest.mark.long
def test_nothing_depends_on_hash_order():
    here = Path(__file__).parents[1] / "helpers"
    runs = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", SCRIPT], cwd=here, text=True, stdout=subprocess.PIPE,
                             env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"})
            for seed in ("0", "1", "2")]
    outputs = [run.communicate()[0] for run in runs]
    assert all(run.returncode == 0 for run in runs)
    assert len(set(outputs)) == 1 and "flux" in outputs[0]
