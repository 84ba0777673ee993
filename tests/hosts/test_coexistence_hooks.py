"""Guidance beside hooks of the user, offload and caches."""

import torch

import emag
from cases import ALL
from coexisting import EMAG, close, guided, rules_for
from emag.methods.emag.compat import Compat
from spy import attention_of, blocks_of

# Hooks of the user


@ALL
def test_hooks_see_true_evaluations_only(case):
    """Hooks and pre-hooks on blocks, and inside them, fire as often as a block is evaluated, on what it is given."""
    pipe, seen = case.pipe(), []
    expected = guided(case, pipe)[0]

    def pre(index):
        def hook(module, args, kwargs):
            seen.append(("pre", index, kwargs.get("hidden_states", args[0] if args else None).clone()))
        return hook

    def post(index):
        def hook(module, args, kwargs, output):
            seen.append(("post", index, kwargs.get("hidden_states", args[0] if args else None).clone()))
        return hook

    inside, handles = [], []
    for index, block in enumerate(blocks_of(pipe)):
        handles += [block.register_forward_pre_hook(pre(index), with_kwargs=True),
                    block.register_forward_hook(post(index), with_kwargs=True),
                    getattr(block, attention_of(case.name)).register_forward_hook(
                        lambda m, a, o, index=index: inside.append(index))]
    out, stats = guided(case, pipe)
    assert torch.equal(out, expected)
    images = 2
    for kind in ("pre", "post"):
        rows = sum(len(x) for k, _, x in seen if k == kind)
        assert rows == stats.evaluations * images
    assert len(inside) == len(seen) // 2
    assert [index for kind, index, _ in seen if kind == "post"] == inside
    before, after = ([x for k, _, x in seen if k == kind] for kind in ("pre", "post"))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    # a block's input is what the block before it gave: also at the block where a weak pass resumes
    at_resume = [x for k, index, x in seen if k == "pre" and index == 1]
    clean = {x.shape for x in at_resume}
    assert len(at_resume) == stats.steps * (2 if case.name == "true-cfg" else 1) + sum(e is not None for e in stats.effects)
    if case.name not in ("flux", "true-cfg"):
        assert len(clean) == 2
        big = None
        for x in at_resume:
            if x.shape[0] == 4:
                big = x
            else:
                assert any(torch.equal(x, half) for half in big.chunk(2))
    for handle in handles:
        handle.remove()


@ALL
def test_a_hook_that_changes_a_blocks_input_counts_once(case):
    """A steering pre-hook on the block where weak passes resume acts as it does in a full weak pass."""
    pipe, outs = case.pipe(), []

    def steer(module, args, kwargs):
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * 1.1 + 0.05}
        return (args[0] * 1.1 + 0.05, *args[1:]), kwargs

    unsteered = guided(case, pipe)[0]
    for block in blocks_of(pipe)[:3]:
        block.register_forward_pre_hook(steer, with_kwargs=True)
    for resume in (True, False):
        outs.append(guided(case, pipe, EMAG(compat=Compat(resume=resume)))[0])
    assert close(outs[0], outs[1], 5e-4 if case.name in ("pixart", "sigma") else 1e-4)
    assert not close(outs[0], unsteered, 1e-2)


@ALL
def test_hooks_added_between_calls_survive(case):
    pipe, fired = case.pipe(), []
    with emag.guide(pipe, *rules_for(case)):
        expected = case.run(pipe)
        handle = blocks_of(pipe)[1].register_forward_hook(lambda *args: fired.append(1))
        inner = getattr(blocks_of(pipe)[1], attention_of(case.name)).register_forward_pre_hook(lambda *a: fired.append(2))
        assert torch.equal(case.run(pipe), expected)
        during = len(fired)
    assert during > 0
    case.run(pipe)
    assert len(fired) > during
    assert fired.count(1) == fired.count(2)
    handle.remove()
    inner.remove()
    fired.clear()
    case.run(pipe)
    assert fired == []


@ALL
def test_a_hook_on_the_network_sees_the_hosts_calls(case):
    pipe, outputs = case.pipe(), []
    pipe.transformer.register_forward_hook(lambda m, a, out: outputs.append(out[0].shape[0]))
    guided(case, pipe)
    calls = 16 if case.name == "true-cfg" else 8
    assert len(outputs) == calls and len(set(outputs)) == 1
