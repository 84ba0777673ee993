"""Second networks and LoRA scales, and what their tests share."""

from copy import deepcopy

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

import emag
from emag.core import COND, UNCOND, combine, with_null
from reference import tensors
from tiny import CASES, sd3

close = torch.testing.assert_close
FEW = {"num_inference_steps": 3}
CFG = emag.CFG


def with_lora(pipe, seed=3, zero=False):
    torch.manual_seed(seed)
    targets = ["to_q", "to_k", "to_v"]
    pipe.transformer.add_adapter(LoraConfig(r=4, lora_alpha=8, init_lora_weights=zero, target_modules=targets))
    return pipe


def without_lora(pipe):
    """The same network, its LoRA off."""
    net = deepcopy(pipe.transformer)
    for layer in net.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.enable_adapters(False)
    return net


def draw(pipe, *rules, models=None, case="sd3", conditions=None, **call):
    with emag.guide(pipe, *rules, models=models, conditions=conditions) as run:
        made = CASES[case].run(pipe, **{**FEW, **call})
    return made, run.latest


def plain(pipe, case="sd3", **call):
    return CASES[case].run(pipe, **{**FEW, **call})


def same(a, b, tolerance=3e-4):
    close(a, b, atol=tolerance * max(1.0, float(b.abs().max())), rtol=1e-4)


def never(**_):
    raise AssertionError("evaluated")


def tuned():
    return sd3(seed=1)


def evaluate(rules, branches, step):
    states = [{} for _ in rules]
    after = with_null(rules, branches, step, states)
    return combine(rules, after[COND], after, step, states)


def made_up(*rules, seed=1):
    """Predictions in fp64 for every branch that rules name."""
    names = [COND, UNCOND, *dict.fromkeys(branch for rule in rules for branch in rule.weak)]
    return dict(zip(names, (t.double() for t in tensors(seed, len(names)))))
