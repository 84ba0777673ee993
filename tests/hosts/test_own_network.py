"""A network and a loop of one's own: EDM preconditioning, noise levels, Heun."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path as File

import pytest
import torch
import torch.nn.functional as F

import emag
from emag.errors import Unsupported
from emag.families import Backbone, Stack
from emag.methods import METHODS
from emag.methods.emag.compat import Compat
from emag.samplers import Path
from own_function import EMAG, conditions, denoiser_of, euler, first, guided, sigmas_of
from tiny import awaken, noise, sd3

EXAMPLES = File(__file__).parents[2] / "examples"


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


@pytest.mark.slow
@pytest.mark.parametrize("script", ["autoguidance", "edm_loop", "euler_loop"])  # that of a training: test_hooks.py
def test_an_example_runs(script, tmp_path):
    path, target = EXAMPLES / f"{script}.py", tmp_path / "out.png"
    assert len(path.read_text().splitlines()) <= 45  # short enough to be read
    done = subprocess.run([sys.executable, str(path), "--steps", "6", "--out", str(target)], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes().startswith(b"\x89PNG")
