"""Denoiser functions around small networks, and loops over them."""

import torch

import emag
from emag.lab.doctor.diagnose import _other
from tiny import CASES, noise, sd3_call

STEPS = 8


def EMAG(scale=1.5, **more):
    return emag.EMAG(scale, **{"layers": (1, 2), "window": emag.Window.progress(0, 0.2, 0.9), **more})


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
