"""Several conditions: with areas, masks, strengths and times of their own, in joint and split batches."""

from typing import Any

import pytest
import torch

import emag
from emag.errors import BadValue
from emag.hosts.comfy.patch import carried, patched
from emag.methods import METHODS
from smallcomfy import SMALL, build, conditioning, sample

WINDOW = emag.Window.progress(0, 0.2, 0.8)
EMAG = emag.EMAG(1.5, layers=(1, 2), window=WINDOW, beta=0.7)
FULL = emag.EMAG(1.5, layers=(1, 2), window=WINDOW, beta=0.7, compat={"resume": False})
SMALLEST = SMALL["sd3"]
SAME = 2e-3  # see test_laws
LEFT = torch.zeros(1, 8, 8)
LEFT[..., :4] = 1
HALVES = [{"mask": LEFT, "mask_strength": 1.0}, {"mask": 1 - LEFT, "mask_strength": 1.0}]


def timed(seed: int, start: float, end: float) -> list[Any]:
    return conditioning(seed, start_percent=start, end_percent=end)


CONDS = {
    "two": conditioning(2) + conditioning(4),
    "lengths": conditioning(2) + conditioning(4, length=9),
    "area": conditioning(2) + conditioning(4, area=(8, 4, 0, 0), strength=1.5),
    "masks": conditioning(2, **HALVES[0]) + conditioning(4, **HALVES[1]),
    "bounds": conditioning(2) + conditioning(4, **HALVES[0], set_area_to_bounds=True),
    "times": timed(2, 0.0, 0.4) + timed(4, 0.4, 1.0),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return build(SMALLEST)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def drawn(model: Any, *rules: emag.Rule, **more: Any) -> torch.Tensor:
    return sample(patched(model, rules) if rules else model, SMALLEST, cfg=2.0, **more)


@pytest.mark.parametrize("name", CONDS)
def test_several_conditions(model: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An effect; resumed as in full; and the same where memory is short and each condition is evaluated alone."""
    conds = CONDS[name]
    guided = drawn(model, EMAG, positive=conds)
    assert far(guided, drawn(model, positive=conds)) > 1e-2
    assert far(guided, drawn(model, FULL, positive=conds)) < SAME
    monkeypatch.setattr(type(model.model), "memory_required", lambda *args, **kwargs: 1e30)
    assert far(drawn(model, EMAG, positive=conds), guided) < SAME


@pytest.mark.parametrize("rule", [EMAG, emag.PAG(1.5, layers=(1,)), emag.SLG(1.5, layers=(2,))])
@pytest.mark.parametrize("parts", [[{}, {}], HALVES], ids=["twice", "halves"])
def test_a_prompt_in_parts_is_the_prompt(model: Any, rule: emag.Rule, parts: list[dict[str, Any]]) -> None:
    """The same prompt twice, or once for each half of the picture, means what it means once."""
    conds = [one for part in parts for one in conditioning(2, **part)]
    assert far(drawn(model, rule, positive=conds, steps=4), drawn(model, rule, positive=conditioning(2), steps=4)) < 1e-2


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_times_in_any_order(model: Any, cfg: float) -> None:
    """A prompt that comes on later may stand first: what leads is what is on as the run begins."""
    late, early = timed(4, 0.4, 1.0), timed(2, 0.0, 0.4)
    guided = [sample(patched(model, (EMAG,)), SMALLEST, cfg=cfg, positive=conds) for conds in (early + late, late + early)]
    assert torch.equal(*guided)
    assert far(guided[0], sample(model, SMALLEST, cfg=cfg, positive=early + late)) > 1e-2


def turned(apply: Any, call: dict[str, Any]) -> torch.Tensor:
    """A node's wrapper that gives the rows of a batch to the network in the opposite order."""
    count, options = len(call["cond_or_uncond"]), dict(call["c"]["transformer_options"])

    def other(value: Any) -> Any:
        return torch.cat(value.chunk(count)[::-1]) if torch.is_tensor(value) and len(value) == len(call["input"]) else value

    options |= {name: options[name][::-1] for name in ("cond_or_uncond", "uuids")}
    conds = {name: other(value) for name, value in call["c"].items()} | {"transformer_options": options}
    return other(apply(other(call["input"]), other(call["timestep"]), **conds))


@pytest.mark.parametrize("rule", [EMAG, emag.PAG(1.5, layers=(1,)), emag.SLG(1.5, layers=(2,)), emag.PLADIS(),
                                  emag.APG(4.0)])
@pytest.mark.parametrize("name", ["two", "masks"])
def test_rows_in_any_order(model: Any, rule: emag.Rule, name: str) -> None:
    """Whose rows are whose is read from cond_or_uncond and uuids, not from their places."""
    other = model.clone()
    other.set_model_unet_function_wrapper(turned)
    conds = CONDS[name]
    assert far(drawn(other, rule, positive=conds), drawn(model, rule, positive=conds)) < SAME


def test_several_negative_conditions(model: Any) -> None:
    conds = {"positive": conditioning(2), "negative": conditioning(3) + conditioning(5)}
    assert far(drawn(model, EMAG, **conds), drawn(model, **conds)) > 1e-2


def test_ours_that_combines_reads_what_comfy_joined(model: Any) -> None:
    conds = CONDS["masks"]
    assert far(drawn(model, emag.CFG(2.0), positive=conds), drawn(model, positive=conds)) < SAME


def test_weak_passes_of_several_conditions_are_of_conditional_rows(model: Any) -> None:
    rows: list[int] = []
    block = model.model.diffusion_model.joint_blocks[3]
    hook = block.register_forward_pre_hook(lambda _, args: rows.append(len(args[1])))
    guided = patched(model, (emag.EMAG(1.5, layers=(2, 3), window=WINDOW),))
    sample(guided, SMALLEST, steps=10, positive=CONDS["two"])
    hook.remove()
    assert rows.count(3) == 10
    assert rows.count(2) == 6
    assert carried(guided).latest.report.stats.evaluations == 10 * 3 * 4 + 6 * 2 * 2


def test_a_further_condition(model: Any) -> None:
    """A rule may push away from a condition of its own, given by name."""
    rule = METHODS["negative"](1.5, negative="other")
    plain = drawn(model)
    guided = sample(patched(model, (rule,), {"other": conditioning(9)}), SMALLEST, cfg=2.0)
    assert far(guided, plain) > 1e-2
    with pytest.raises(BadValue, match="connect one"):
        sample(patched(model, (rule,)), SMALLEST)


def test_previews_are_of_the_guided_sample(model: Any) -> None:
    seen: list[torch.Tensor] = []
    out = sample(patched(model, (EMAG,)), SMALLEST, callback=lambda step, x0, x, total: seen.append(x0.clone()))
    assert len(seen) == 6
    assert far(model.model.process_latent_out(seen[-1]), out) < 1e-4


def test_a_part_of_the_steps(model: Any) -> None:
    """Image to image, and a sampler that begins late or leaves noise: levels are those of its own run."""
    for more in ({"denoise": 0.6}, {"start_step": 2}, {"last_step": 5}):
        assert far(drawn(model, EMAG, steps=10, **more), drawn(model, steps=10, **more)) > 1e-3


def test_inpainting(model: Any) -> None:
    more = {"noise_mask": LEFT[None]}
    guided = drawn(model, EMAG, **more)
    assert far(guided, drawn(model, **more)) > 1e-3
    assert torch.allclose(guided[..., 4:], drawn(model, **more)[..., 4:], atol=1e-4)
