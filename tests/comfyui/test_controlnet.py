"""Beside a ControlNet of ComfyUI's own classes: both have their effect, and weak passes are controlled as clean ones are."""

from typing import Any

import comfy.controlnet as controlnet
import pytest
import torch

import emag
from emag.hosts.comfy.patch import carried, patched
from smallcomfy import FLUX, SD3, SD15, SMALL, Small, build, conditioning, draw_weights, sample

WINDOW = emag.Window.progress(0, 0.2, 0.8)
FAMILIES = ("sd3", "flux", "sd1.5")
SAME = 2e-3  # see test_laws
_MADE: dict[str, tuple[Any, Any]] = {}


def network(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A small control network, and how ComfyUI's loader wraps one of this kind."""
    import comfy.cldm.cldm
    import comfy.cldm.mmdit
    import comfy.ldm.flux.controlnet
    import comfy.ops

    common = {"operations": comfy.ops.disable_weight_init, "device": torch.device("cpu"), "dtype": torch.float32}
    if name == "sd3":
        settings = SD3 | dict(num_blocks=3, control_latent_channels=3)
        return comfy.cldm.mmdit.ControlNet(**settings, **common), dict(compression_ratio=1)
    if name == "flux":
        return comfy.ldm.flux.controlnet.ControlNetFlux(**FLUX, **common), dict(extra_conds=["y", "guidance"])
    settings = {key: value for key, value in SD15.items() if key not in ("out_channels", "use_temporal_attention")}
    return comfy.cldm.cldm.ControlNet(hint_channels=3, **settings, **common), {}


def made(name: str) -> tuple[Any, Any]:
    """A model and a ControlNet for it, made once."""
    if name not in _MADE:
        module, more = network(name)
        control = controlnet.ControlNet(draw_weights(module, 7), load_device=torch.device("cpu"), **more)
        _MADE[name] = build(SMALL[name]), control
    return _MADE[name]


def controlled(name: str, strength: float = 0.3, part: tuple[float, float] = (0.0, 1.0)) -> dict[str, Any]:
    """A positive and a negative prompt under one ControlNet, as ComfyUI's node leaves them."""
    small, control = SMALL[name], made(name)[1]
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    one = control.copy().set_cond_hint(hint, strength, part)
    return {role: conditioning(seed, small.text, control=one, control_apply_to_uncond=False)
            for role, seed in (("positive", 2), ("negative", 3))}


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def rule(name: str, **more: Any) -> emag.Rule:
    return emag.EMAG(1.5, layers=(1, 3 if name == "flux" else 2), window=WINDOW, beta=0.7, **more)


def drawn(name: str, *rules: emag.Rule, **conds: Any) -> tuple[torch.Tensor, Any]:
    small: Small = SMALL[name]
    model = patched(made(name)[0], rules) if rules else made(name)[0]
    out = sample(model, small, **conds)
    return out, carried(model).latest.report if rules else None


@pytest.mark.parametrize("name", FAMILIES)
def test_both_have_their_effect(name: str) -> None:
    plain, guided = drawn(name, **controlled(name))[0], drawn(name, rule(name))[0]
    both, _ = drawn(name, rule(name), **controlled(name))
    assert torch.isfinite(both).all()
    assert far(both, plain) > 1e-2
    assert far(both, guided) > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_off_is_exact(name: str) -> None:
    off = emag.EMAG(1.0, layers=(1,), window=WINDOW)
    assert torch.equal(drawn(name, off, **controlled(name))[0], drawn(name, **controlled(name))[0])


@pytest.mark.parametrize("part", [(0.0, 1.0), (0.0, 0.5)], ids=["throughout", "half the steps"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_resumed_weak_pass_is_the_full_one(name: str, part: tuple[float, float]) -> None:
    """What is recorded has the control of the blocks before in it; a full weak pass is given it anew."""
    conds = controlled(name, part=part)
    out, short = drawn(name, rule(name), **conds)
    full, long = drawn(name, rule(name, compat={"resume": False}), **conds)
    assert far(out, full) < SAME
    assert short.stats.evaluations < long.stats.evaluations


def test_a_weak_pass_is_controlled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control network is asked once for every pass, for the rows of that pass."""
    calls: list[int] = []
    asked = controlnet.ControlNet.get_control
    monkeypatch.setattr(controlnet.ControlNet, "get_control",
                        lambda self, x, *args: (calls.append(len(x)), asked(self, x, *args))[1])
    drawn("sd3", rule("sd3"), steps=10, **controlled("sd3"))
    assert (calls.count(2), calls.count(1)) == (10, 6)  # 10 clean passes of both prompts, 6 weak ones of the positive


def test_split_batches_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    joint = drawn("sd3", rule("sd3"), **controlled("sd3"))[0]
    monkeypatch.setattr(type(made("sd3")[0].model), "memory_required", lambda *args, **kwargs: 1e30)
    assert far(drawn("sd3", rule("sd3"), **controlled("sd3"))[0], joint) < SAME
