"""A denoiser function whose network is known: weak branches inside it, in somebody's own loop."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path as File

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.errors import BadValue, Busy, NoEffect, Unsupported
from emag.families import Backbone, Stack
from emag.lab.doctor.diagnose import _other, _sure, tried
from emag.methods import METHODS
from emag.methods.emag.compat import Compat
from emag.samplers import Path
from spy import changes, snapshot
from tiny import CASES, awaken, noise, sd3, sd3_call

EXAMPLES = File(__file__).parents[1] / "examples"
COLUMNS = {column.label: _sure(column) for column in tried()}
ALONE = {"nag", "vsf", "autoguidance", "sine", "domain", "priors", "personalization", "rlg", "unguide", "hm-cfg"}
STEPS = 8


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": emag.Window.progress(0, 0.2, 0.9), **more})


def rules_of(label):
    """The rules of a column, with a combining one where it has none: in a pipeline the host's own would combine."""
    rules = COLUMNS[label].rules
    if any(rule.kind == "combining" for rule in rules):
        return rules
    return (emag.CFG(4.0), *rules) if rules[0].kind == "after" else (*rules, emag.CFG(4.0))


def conditions(seeds=(8, 9)):
    call, count = sd3_call(seeds), len(seeds)
    found = {name: {"encoder_hidden_states": call[f"{prefix}prompt_embeds"],
                    "pooled_projections": call[f"{prefix}pooled_prompt_embeds"]}
             for name, prefix in (("cond", ""), ("uncond", "negative_"))}
    return found | {name: {key: value.expand(count, *value.shape[1:]) for key, value in given.items()}
                    for name, given in _other(CASES["sd3"]).items()}


def first(seeds=(8, 9)):
    return torch.cat([noise(seed, 1, 4, 8, 8) for seed in seeds])


def denoiser_of(net, calls=None):
    def denoiser(x, t, condition):
        if calls is not None:
            calls.append(condition)
        return net(x, timestep=torch.full((len(x),), 1000 * t), **condition, return_dict=False)[0]

    return denoiser


def sigmas_of(pipe, steps=STEPS):
    pipe.scheduler.set_timesteps(steps)
    return tuple(pipe.scheduler.sigmas.tolist())


def euler(model, x, sigmas):
    for i in range(len(sigmas) - 1):
        x = x + (sigmas[i + 1] - sigmas[i]) * model(x, i)
    return x


def guided(pipe, *rules, backbone=None, **more):
    net = backbone if backbone is not None else pipe.transformer
    return emag.guided(denoiser_of(pipe.transformer), *rules, path=sigmas_of(pipe), backbone=net,
                       **{"conditions": conditions(), **more})


# The pipeline's images, from a loop of one's own


@pytest.mark.parametrize("label", [label for label in COLUMNS if label not in (*ALONE, "tpg")])
def test_a_loop_makes_what_the_pipeline_makes(label):
    rules, pipe = rules_of(label), sd3()
    with emag.guide(pipe, *rules, conditions=_other(CASES["sd3"])) as run:
        expected = pipe(**sd3_call()).images
    model = guided(pipe, *rules)
    made = euler(model, first(), sigmas_of(pipe))
    assert (made - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert model.block_evaluations == run.stats.evaluations
    assert model.plan.total == run.stats.planned


@pytest.mark.parametrize("rules", [(), (EMAG(1.0),), (emag.CFG(3.0),), (emag.CADS(0.5, 0.1, 0.9, 0.5),
                                                                       emag.APG(3.0, 0.0, 5.0, 0.7))])
def test_without_a_weak_branch_it_is_the_plain_function_bit_for_bit(rules):
    pipe = sd3()
    inside = guided(pipe, *rules)
    plain = emag.guided(denoiser_of(pipe.transformer), *[rule for rule in rules if not rule.neutral], path=sigmas_of(pipe),
                        conditions=conditions())
    assert torch.equal(euler(inside, first(), sigmas_of(pipe)), euler(plain, first(), sigmas_of(pipe)))
    assert inside.evaluations == plain.evaluations


def test_rows_are_independent():
    pipe = sd3()
    rules, sigmas = (EMAG(jitter=0.1), emag.CFG(3.0)), sigmas_of(pipe)
    together = euler(guided(pipe, *rules), first(), sigmas)
    for at, seed in enumerate((8, 9)):
        alone = euler(guided(pipe, *rules, conditions=conditions((seed,))), first((seed,)), sigmas)
        assert (alone - together[at:at + 1]).abs().max() <= 1e-4


def test_a_run_begins_anew_at_level_0_and_also_after_one_that_was_left():
    pipe = sd3()
    model, sigmas = guided(pipe, EMAG(), emag.CFG(3.0)), sigmas_of(pipe)
    expected = euler(model, first(), sigmas)
    for i in range(4):
        model(noise(5, 2, 4, 8, 8), i)
    assert torch.equal(euler(model, first(), sigmas), expected)
    assert model.block_evaluations == model.plan.total


def test_nothing_stays_in_the_network_between_calls():
    pipe = sd3()
    plain = denoiser_of(pipe.transformer)(first(), 0.5, conditions()["cond"])
    x = first()
    model = guided(pipe, EMAG(), METHODS["tsg"](1.5), METHODS["pladis"](2.0), emag.CFG(3.0))
    before = snapshot(pipe)
    for i in range(STEPS):
        x = model(x, i)
        assert changes(before, snapshot(pipe), own=False) == []
        assert torch.equal(denoiser_of(pipe.transformer)(first(), 0.5, conditions()["cond"]), plain)


def test_an_error_inside_a_step_leaves_nothing_behind():
    pipe, calls = sd3(), []

    def denoiser(x, t, condition):
        calls.append(1)
        out = denoiser_of(pipe.transformer)(x, t, condition)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return out

    model = emag.guided(denoiser, EMAG(), emag.CFG(3.0), path=sigmas_of(pipe), conditions=conditions(),
                        backbone=pipe.transformer)
    before = snapshot(pipe)
    with pytest.raises(KeyboardInterrupt):
        euler(model, first(), sigmas_of(pipe))
    assert changes(before, snapshot(pipe), own=False) == []
    calls.extend([0] * 10)
    assert torch.equal(euler(model, first(), sigmas_of(pipe)), euler(guided(pipe, EMAG(), emag.CFG(3.0)), first(),
                                                                    sigmas_of(pipe)))


@pytest.mark.parametrize("how", ["whole", "in place"])
def test_a_compiled_network(how):
    torch._dynamo.reset()
    pipe = sd3(layers=3)
    expected = euler(guided(pipe, EMAG()), first(), sigmas_of(pipe))
    net = pipe.transformer
    if how == "whole":
        net = torch.compile(net, backend="eager")
    else:
        net.compile(backend="eager")
    model = emag.guided(denoiser_of(net), EMAG(), path=sigmas_of(pipe), conditions=conditions(), backbone=net)
    made = euler(model, first(), sigmas_of(pipe))
    torch._dynamo.reset()
    assert (made - expected).abs().max() <= 1e-4 and model.block_evaluations == model.plan.total


# What is refused


def by_hand(net):
    """A denoiser that combines by itself, in one call."""
    def denoiser(x, t, condition):
        both = {key: torch.cat([conditions()["uncond"][key], value]) for key, value in condition.items()}
        u, c = denoiser_of(net)(torch.cat([x, x]), t, both).chunk(2)
        return u + 3 * (c - u)

    return denoiser


@pytest.mark.parametrize(("denoiser", "words"), [
    (lambda net: lambda *args: denoiser_of(net)(*args) + denoiser_of(net)(*args), "more than once"),
    (lambda net: lambda x, t, condition: x, "did not call"),
    (by_hand, "4 rows for a batch of 2"),
])
def test_a_denoiser_calls_its_network_once_for_one_condition(denoiser, words):
    pipe = sd3()
    model = emag.guided(denoiser(pipe.transformer), EMAG(), path=sigmas_of(pipe), conditions=conditions(),
                        backbone=pipe.transformer)
    before = snapshot(pipe)
    with pytest.raises(Unsupported, match=words):
        model(first(), 0)
    assert changes(before, snapshot(pipe), own=False) == []


@pytest.mark.parametrize(("make", "kind", "words"), [
    (lambda pipe: guided(pipe, EMAG(layers=(9,))), BadValue, "blocks 0 to 3"),
    (lambda pipe: guided(pipe, EMAG(window=emag.Window.progress(0, 0.99, 1))), BadValue, "window"),
    (lambda pipe: guided(pipe, METHODS["nag"](2.0)), Unsupported, "one condition at a time"),
    (lambda pipe: guided(pipe, *COLUMNS["autoguidance"].rules), Unsupported, "another network"),
    (lambda pipe: guided(pipe, backbone=torch.nn.Linear(2, 2)), Unsupported, r"Backbone\('Linear'"),
    (lambda pipe: guided(pipe, backbone="SD3Transformer2DModel"), BadValue, "names 0 parts"),
])
def test_what_cannot_work_is_refused_before_any_evaluation(make, kind, words):
    with pytest.raises(kind, match=words):
        make(sd3())


def test_a_branch_that_changes_nothing_is_an_error_at_the_last_level():
    """Skipped where the blocks add nothing: the weak branch is the clean one."""
    pipe = sd3()
    for part in (pipe.transformer.transformer_blocks[2].norm1, pipe.transformer.transformer_blocks[2].norm1_context):
        torch.nn.init.zeros_(part.linear.weight)
        torch.nn.init.zeros_(part.linear.bias)
    model, x = guided(pipe, METHODS["slg"](2.0, layers=(2,))), first()
    for i in range(STEPS - 1):
        x = model(x, i)
    with pytest.raises(NoEffect, match=r"blocks \[2\]"):
        model.check()
    with pytest.raises(NoEffect, match=r"blocks \[2\]"):
        model(x, STEPS - 1)


def test_a_change_of_batch_in_the_middle_of_a_run_is_refused():
    pipe = sd3()
    model = guided(pipe, EMAG(), conditions=conditions((8,)))
    model(first((8,)), 0)
    model.conditions = conditions()
    with pytest.raises(BadValue, match="1 rows at the start"):
        model(first(), 1)


def test_a_network_serves_one_at_a_time():
    pipe, errors = sd3(), []

    def denoiser(x, t, condition):
        with pytest.raises(Busy), emag.guide(pipe, EMAG()):
            pipe(**sd3_call())
        errors.append(1)
        return denoiser_of(pipe.transformer)(x, t, condition)

    emag.guided(denoiser, EMAG(), path=sigmas_of(pipe), conditions=conditions(), backbone=pipe.transformer)(first(), 0)
    assert errors


# A network and a loop of one's own: EDM preconditioning, noise levels, Heun


class Attention(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn, self.mlp = Attention(width), torch.nn.Linear(width, width)

    def forward(self, emb, x):
        x = x + self.attn(F.layer_norm(x + emb, x.shape[-1:]))
        return x + self.mlp(x).tanh()


class Pixels(torch.nn.Module):
    """A transformer of nobody's library, on 2x2 patches of [batch, 3, 8, 8]."""

    def __init__(self, width=16, depth=3):
        super().__init__()
        self.read, self.write = torch.nn.Conv2d(3, width, 2, 2), torch.nn.ConvTranspose2d(width, 3, 2, 2)
        self.labels, self.time = torch.nn.Embedding(4, width), torch.nn.Linear(1, width)
        self.layers = torch.nn.ModuleList(Layer(width) for _ in range(depth))

    def forward(self, noisy, t, label):
        x = self.read(noisy)
        emb, tokens = (self.labels(label) + self.time(t[:, None]))[:, None], x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(emb, tokens)
        return self.write(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))


class Preconditioned(torch.nn.Module):
    """D(x, sigma) = c_skip x + c_out F(c_in x, ln(sigma) / 4), arXiv 2206.00364, Eq. 7, with sigma_data 0.5."""

    def __init__(self):
        super().__init__()
        self.model = awaken(Pixels())

    def forward(self, x, sigma, label):
        total = (sigma**2 + 0.25) ** 0.5
        t = torch.full((len(x),), sigma).log() / 4
        return 0.25 / total**2 * x + sigma * 0.5 / total * self.model(x / total, t, label)


ENTRY = Backbone("Pixels", (Stack("layers", "attn", ("x",), ("x",), ("image",)),), per_row=("noisy", "t", "label"),
                 sample="noisy", timestep="t", text=None)
LEVELS = tuple((80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(10)) + (0.0,)
LABELS = {"cond": torch.tensor([1, 2]), "uncond": torch.tensor([0, 0])}


def edm(denoiser, *rules, backbone=ENTRY):
    return emag.guided(denoiser, *rules, path=Path.edm(LEVELS), prediction="x0", conditions=LABELS, backbone=backbone)


def karras(model, x):
    """Euler with Heun's second evaluation, on sigma: dx = (x - D) / sigma d sigma."""
    for i in range(len(LEVELS) - 1):
        slope = (x - model(x, i)) / LEVELS[i]
        step = LEVELS[i + 1] - LEVELS[i]
        after = x + step * slope
        if i < len(LEVELS) - 2:
            after = x + step / 2 * (slope + (after - model(after, i + 1)) / LEVELS[i + 1])
        x = after
    return x


def x_T():
    return 80 * noise(3, 2, 3, 8, 8)


@pytest.mark.parametrize("rule", [EMAG(2.0), METHODS["pag"](2.0, layers=(1,)), METHODS["slg"](2.0, layers=(1,)),
                                  METHODS["seg"](2.0, layers=(2,))], ids=lambda rule: rule.name)
def test_an_edm_loop(rule):
    """Network evaluations as counted by hand: two a step with CFG, and a weak one from the resume block on."""
    denoiser = Preconditioned()
    plain = karras(edm(denoiser, emag.CFG(2.0)), x_T())
    layers = []
    for layer in denoiser.model.layers:
        layer.register_forward_hook(lambda *args: layers.append(1))
    model = edm(denoiser, rule, emag.CFG(2.0))
    made = karras(model, x_T())
    assert made.isfinite().all() and not torch.allclose(made, plain, atol=1e-3)
    weak, resume = model.evaluations - 2 * 19, {"seg": 2}.get(rule.name, 1)
    cost = 3 - resume - (rule.name == "slg")
    assert weak == 19 or (rule.name == "emag" and 0 < weak < 19)
    assert model.block_evaluations == 2 * 3 * 19 + weak * cost
    assert len(layers) == model.block_evaluations + 3 - resume  # the entry was tried once


def test_neutral_rules_leave_an_edm_loop_bit_for_bit():
    denoiser = Preconditioned()
    plain = emag.guided(denoiser, emag.CFG(2.0), path=Path.edm(LEVELS), prediction="x0", conditions=LABELS)
    made = karras(edm(denoiser, EMAG(1.0), METHODS["pag"](1.0), emag.CFG(2.0)), x_T())
    assert torch.equal(made, karras(plain, x_T()))


def test_resumed_is_whole_around_a_preconditioned_network():
    outs = [karras(edm(Preconditioned(), EMAG(2.0, compat=Compat(resume=resume))), x_T()) for resume in (True, False)]
    assert (outs[0] - outs[1]).abs().max() <= 1e-4 * outs[1].abs().max()


@pytest.mark.parametrize("backbone", [lambda d: (d.model, ENTRY), lambda d: ENTRY], ids=["module and entry", "entry"])
def test_ways_to_name_a_network(backbone):
    denoiser = Preconditioned()
    expected = karras(edm(denoiser, EMAG(2.0)), x_T())
    assert torch.equal(karras(edm(denoiser, EMAG(2.0), backbone=backbone(denoiser)), x_T()), expected)


def test_a_known_class_inside_a_module_goes_by_its_name():
    class Wrapped(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x, t, condition):
            return denoiser_of(self.net)(x, t, condition)

    pipe = sd3()
    model = emag.guided(Wrapped(pipe.transformer), EMAG(), path=sigmas_of(pipe), conditions=conditions(),
                        backbone="SD3Transformer2DModel")
    expected = euler(guided(pipe, EMAG()), first(), sigmas_of(pipe))
    assert torch.equal(euler(model, first(), sigmas_of(pipe)), expected)


def test_an_unknown_class_by_name_is_refused_with_a_template():
    with pytest.raises(Unsupported, match=r"not a known network.*Backbone\('Pixels'"):
        edm(Preconditioned(), EMAG(2.0), backbone="Pixels")


class Carrying(Pixels):
    """What the first block gives is used again behind the last one."""

    def forward(self, noisy, t, label):
        x = self.read(noisy)
        emb, tokens = (self.labels(label) + self.time(t[:, None]))[:, None], x.flatten(2).transpose(1, 2)
        early = tokens = self.layers[0](emb, tokens)
        tokens = self.layers[2](emb, self.layers[1](emb, tokens)) + 2 * early
        return self.write(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))


def around(network):
    denoiser = Preconditioned()
    denoiser.model = awaken(network)
    return denoiser


WRONG_STREAM = replace(ENTRY, stacks=(Stack("layers", "attn", ("emb",), ("emb",), ("image",)),))


@pytest.mark.parametrize(("network", "entry"), [(Carrying, ENTRY), (Pixels, WRONG_STREAM)])
def test_a_wrong_entry_is_found_out_at_the_first_step(network, entry):
    denoiser = around(network())
    model = edm(denoiser, METHODS["pag"](2.0, layers=(2,)), backbone=(denoiser.model, entry))
    with pytest.raises(Unsupported, match=r"does not fit.*streams"):
        model(x_T(), 0)


def test_an_entry_may_say_that_something_reads_earlier_blocks():
    denoiser, outs = around(Carrying()), []
    for resume in (True, False):
        rule = EMAG(2.0, layers=(2,), compat=Compat(resume=resume))
        outs.append(karras(edm(denoiser, rule, backbone=replace(ENTRY, name="Carrying", skips=True)), x_T()))
    assert (outs[0] - outs[1]).abs().max() <= 1e-4 * outs[1].abs().max()


def test_a_branch_at_another_x_is_refused_where_the_network_gets_a_scaled_one():
    with pytest.raises(Unsupported, match="another x_t"):
        edm(Preconditioned(), METHODS["sag"](2.0, layers=(1,)))(x_T(), 0)


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs(script, tmp_path):
    assert len(script.read_text().splitlines()) <= 45  # short enough to be read
    target = tmp_path / "out.png"
    done = subprocess.run([sys.executable, str(script), "--steps", "6", "--out", str(target)], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes().startswith(b"\x89PNG")
