"""Every family of the table, on a small random model of ComfyUI's own classes: effect proven, exact where it is off."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import emag
from emag.core import OnLayers, Rows, State
from emag.errors import NoEffect, Unsupported
from emag.families import BACKBONES
from emag.families.comfy import COMFY
from emag.hosts.comfy.networks import entry_of, like_of
from emag.hosts.comfy.patch import carried, patched
from emag.maths.attention import Attention
from smallcomfy import SMALL, Small, build, prompt, sample

WINDOW = emag.Window.progress(0, 0.2, 0.8)
STEPS = 5
CROSS = ("sdxl", "sd1.5", "wan2.1", "ltx")
SINGLE = {"flux": 3, "flux2": 3, "chroma": 3, "hunyuan-video": 3, "hidream": 3}  # a block of the merged stream
_MADE: dict[str, Any] = {}
CALLS: list[Attention] = []


def made(name: str) -> tuple[Small, Any, torch.Tensor]:
    """A model and its plain latents, made once."""
    if name not in _MADE:
        model = build(SMALL[name])
        _MADE[name] = model, sample(model, SMALL[name], steps=STEPS)
    return SMALL[name], *_MADE[name]


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def run(name: str, *rules: emag.Rule) -> tuple[torch.Tensor, Any]:
    """Guided latents and their report."""
    small, model, _ = made(name)
    guided = patched(model, rules)
    return sample(guided, small, steps=STEPS), carried(guided).latest.report


def rules(name: str) -> dict[str, emag.Rule]:
    layer = SINGLE.get(name, 2)
    layers = (1, layer)
    return {"emag": emag.EMAG(1.5, layers=layers, window=WINDOW, beta=0.7),
            "emag-map": emag.EMAG(1.5, "map", layers=layers, window=WINDOW, beta=0.7),
            "pag": emag.PAG(1.5, layers=(layer,)), "seg": emag.SEG(1.5, layers=(layer,)),
            "slg": emag.SLG(1.5, layers=(layer,))}


@pytest.mark.parametrize("method", ["emag", "emag-map", "pag", "seg", "slg"])
@pytest.mark.parametrize("name", SMALL)
def test_effect(name: str, method: str) -> None:
    _, _, plain = made(name)
    out, report = run(name, rules(name)[method])
    assert torch.isfinite(out).all()
    assert far(out, plain) > 1e-3
    assert report.stats.evaluations == report.stats.planned >= report.stats.clean  # equal where the last block is skipped


@pytest.mark.parametrize("name", SMALL)
def test_off_is_exact_and_leaves_nothing(name: str) -> None:
    small, model, plain = made(name)
    run(name, rules(name)["emag"])
    assert torch.equal(sample(model, small, steps=STEPS), plain)
    off = sample(patched(model, (emag.EMAG(1.0, layers=(1,), window=WINDOW),)), small, steps=STEPS)
    assert torch.equal(off, plain)


@pytest.mark.parametrize("name", SMALL)
def test_a_resumed_weak_pass_is_the_full_one(name: str) -> None:
    """Blocks write into their streams in place; what is handed on to a weak pass is what came in."""
    rule = rules(name)["emag"]
    out, short = run(name, rule)
    full, long = run(name, emag.EMAG(1.5, layers=rule.layers, window=WINDOW, beta=0.7, compat={"resume": False}))
    assert far(out, full) < 2e-4
    assert short.stats.evaluations < long.stats.evaluations


@dataclass(frozen=True)
class Looking(OnLayers):
    """Watches the attention of the clean pass, and is never evaluated."""

    across: bool = False
    observes = True

    @property
    def cross(self) -> bool:
        return self.across

    def start(self, sigmas: Any, streams: Any) -> "Seen":
        return Seen()


class Seen(State):
    """Keeps the calls it is shown, conditional rows, in CALLS."""

    watches = True

    def watch(self, block: int, call: Attention, rows: Rows) -> None:
        CALLS.append(call.rows(rows.cond))


@dataclass(frozen=True)
class Look(emag.Rule):
    """A rule that only looks."""

    layers: tuple[int, ...] = (0,)
    across: bool = False
    name = "look"
    kind = "weak"

    @property
    def weak(self) -> tuple[Looking, ...]:
        return (Looking(self.layers, self.across),)


def looked(name: str, rule: Look, seed: int) -> Attention:
    """The first call of a run's first step that a rule was shown."""
    small, model, _ = made(name)
    CALLS.clear()
    sample(patched(model, (rule,)), small, steps=1, seed=seed)
    return CALLS[0]


@pytest.mark.parametrize("name", SMALL)
def test_image_tokens_are_where_the_table_says(name: str) -> None:
    """In the first block the text does not know of the image yet: with another one, exactly its queries are others."""
    one, other = looked(name, Look(), 1), looked(name, Look(), 50)
    moved = (one.q != other.q).flatten(3).any(3).any(1)[0]
    known = torch.zeros_like(moved)
    known[one.pictures] = True
    assert moved[one.image].all()
    assert torch.equal(moved, known)


@pytest.mark.parametrize("name", CROSS)
def test_cross_attention(name: str) -> None:
    """Where the text has an attention of its own, it is told from the one to the image by its place."""
    _, _, plain = made(name)
    call = looked(name, Look((1,), across=True), 1)
    own = looked(name, Look((1,)), 1)
    assert call.q.shape == own.q.shape
    assert call.k.shape[2] in (6, 8) != own.k.shape[2]  # Wan pads its text to 8 tokens
    assert far(run(name, emag.PLADIS(layers=(1, 2), cross=True))[0], plain) > 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_the_table_names_defaults_that_are_there(name: str) -> None:
    network = build(SMALL[name]).model.diffusion_model
    assert like_of(network, entry_of(network)) in BACKBONES


def test_two_families_of_one_class_have_their_own_defaults() -> None:
    like = {name: like_of(net, entry_of(net)) for name in ("flux", "flux2", "lumina2", "z-image")
            for net in [build(SMALL[name]).model.diffusion_model]}
    assert like == {"flux": "FluxTransformer2DModel", "flux2": "Flux2Transformer2DModel",
                    "lumina2": "Lumina2Transformer2DModel", "z-image": "ZImageTransformer2DModel"}


def test_defaults_of_each_family_are_ready() -> None:
    """EMAG with nothing named works wherever the family has a window."""
    for name in ("sd3", "flux"):
        small, model, _ = made(name)
        plain = sample(model, small, steps=12)
        assert far(sample(patched(model, (emag.EMAG(1.5),)), small, steps=12), plain) > 1e-4


def test_other_networks_are_refused_by_name() -> None:
    with pytest.raises(Unsupported, match=r"Linear.*Known are: Stable Diffusion 3"):
        entry_of(torch.nn.Linear(1, 1))
    kind = type(build(SMALL["wan2.1"]).model.diffusion_model)

    class Vace(kind):  # type: ignore[misc, valid-type]
        """A subclass may call its blocks otherwise."""

    with pytest.raises(Unsupported, match="Vace"):
        entry_of(Vace.__new__(Vace))


@pytest.mark.parametrize("name", ["flux", "qwen-image"])
def test_reference_images_are_refused_in_words(name: str) -> None:
    small, model, _ = made(name)
    positive = [[text, {**more, "reference_latents": [torch.zeros(small.shape)]}] for text, more in prompt(small, 2)]
    with pytest.raises(Unsupported, match="reference images"):
        sample(patched(model, (rules(name)["emag"],)), small, positive=positive)


def test_a_network_that_passes_no_options_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.ldm.qwen_image import model as qwen

    original = qwen.optimized_attention_masked
    monkeypatch.setattr(qwen, "optimized_attention_masked",
                        lambda *args, transformer_options=None, **kwargs: original(*args, **kwargs))
    small, model, _ = made("qwen-image")
    with pytest.raises(NoEffect, match="transformer_options"):
        sample(patched(model, (rules("qwen-image")["pag"],)), small)


def test_every_entry_has_a_small_model() -> None:
    found = {entry_of(build(small).model.diffusion_model).at for small in SMALL.values()}
    assert found == set(COMFY)
