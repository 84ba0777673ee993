"""What a guided ComfyUI model must hold, on a small random SD3: exact where it is off, and nothing left behind."""

import gc
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch

import emag
from emag.engine.lock import _owners
from emag.errors import BadValue, NoEffect, Unsupported
from emag.hosts.comfy.patch import carried, patched
from emag.methods.emag.map_average import MapAverage
from emag.methods.emag.query_average import QueryAverage
from emag.records.graph import guidance_rules
from smallcomfy import SMALL, build, conditioning, sample

WINDOW = emag.Window.progress(0, 0.2, 0.8)
EMAG = emag.EMAG(1.5, layers=(1, 2), window=WINDOW, beta=0.7)
SMALLEST = SMALL["sd3"]
SAME = 2e-3  # other batches round otherwise, and a small random network amplifies that; an effect here is above 0.1


@pytest.fixture(scope="module")
def model() -> Any:
    return build(SMALLEST)


@pytest.fixture(scope="module")
def plain(model: Any) -> torch.Tensor:
    return sample(model, SMALLEST)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def snapshot(model: Any) -> list[Any]:
    """What a run might leave: attributes of modules, options, wrappers, locks."""
    modules = [(name, sorted(part.__dict__)) for name, part in model.model.diffusion_model.named_modules()]
    return [modules, repr(model.model_options), repr(model.wrappers), repr(model.object_patches), len(_owners)]


def test_it_has_an_effect(model: Any, plain: torch.Tensor) -> None:
    guided = sample(patched(model, (EMAG,)), SMALLEST)
    assert far(guided, plain) > 1e-3
    assert torch.equal(guided, sample(patched(model, (EMAG,)), SMALLEST))


@pytest.mark.parametrize("rule", [emag.EMAG(1.0, layers=(1,), window=WINDOW), emag.PAG(1.0, layers=(1,)),
                                  emag.EMAG(1.5, layers=(1,), window=WINDOW, strength=0.0)])
def test_off_is_exact(model: Any, plain: torch.Tensor, rule: emag.Rule) -> None:
    assert torch.equal(sample(patched(model, (rule,)), SMALLEST), plain)


def test_the_source_model_is_untouched(model: Any, plain: torch.Tensor) -> None:
    before = snapshot(model)
    guided = patched(model, (EMAG,))
    sample(guided, SMALLEST)
    assert snapshot(model) == before
    assert torch.equal(sample(model, SMALLEST), plain)


@pytest.mark.parametrize("error", [KeyboardInterrupt, comfy.model_management.InterruptProcessingException, RuntimeError])
def test_nothing_stays_after_an_interrupt(model: Any, plain: torch.Tensor, error: type[BaseException]) -> None:
    before = snapshot(model)
    guided = patched(model, (EMAG,))
    expected = sample(guided, SMALLEST)

    def strike(step: int, *rest: Any) -> None:
        if step == 3:
            raise error

    with pytest.raises(error):
        sample(guided, SMALLEST, callback=strike)
    assert snapshot(model) == before
    assert torch.equal(sample(model, SMALLEST), plain)
    assert torch.equal(sample(guided, SMALLEST), expected)


def test_memory_goes_with_the_run(model: Any) -> None:
    guided = patched(model, (emag.EMAG(1.5, "map", layers=(1, 2), window=WINDOW),))
    sample(guided, SMALLEST)
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, MapAverage)]


def blocks_run(model: Any, make: Any) -> list[tuple[int, int]]:
    """(block, rows) of every evaluation while `make` runs, seen by hooks from outside."""
    seen: list[tuple[int, int]] = []
    blocks = model.model.diffusion_model.joint_blocks
    hooks = [block.register_forward_pre_hook(lambda _, args, at=at: seen.append((at, len(args[1]))))
             for at, block in enumerate(blocks)]
    try:
        make()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def test_weak_passes_are_few_and_short(model: Any) -> None:
    """Conditional rows only, in the window only, from the first candidate on: 10 steps of which 6 apply, 4 blocks."""
    rule = emag.EMAG(1.5, layers=(2, 3), window=WINDOW)
    guided = patched(model, (rule,))
    seen = blocks_run(model, lambda: sample(guided, SMALLEST, steps=10))
    assert seen.count((0, 2)) == seen.count((3, 2)) == 10
    assert seen.count((0, 1)) == seen.count((1, 1)) == 0
    assert seen.count((2, 1)) == seen.count((3, 1)) == 6
    report = carried(guided).latest.report
    assert report.stats.evaluations == report.stats.planned == 10 * 2 * 4 + 6 * 2
    assert report.stats.clean == 80
    assert sum(effect is not None for effect in report.stats.effects) == 6
    assert all(pick is None or pick[0] in (2, 3) for pick in report.stats.picks)
    assert far(report.weak, report.clean) > 1e-4


@pytest.mark.parametrize("text", ["ag=-0.5", "linear-ag", "cfg-cache=2,below=1", "rcfg", "erg=1", "tcfg", "zero-star",
                                  "cfg-oec"])
def test_comfyuis_cfg_reads_what_a_rule_puts_in_the_nulls_place(model: Any, plain: torch.Tensor, text: str) -> None:
    """Rows that a rule spares or rewrites: ComfyUI's own cfg 4 makes of them what our cfg=4 makes, for the same price."""
    alone, ours = patched(model, guidance_rules(text)), patched(model, guidance_rules(f"cfg=4 {text}"))
    theirs = sample(alone, SMALLEST)
    assert far(theirs, plain) > 1e-3
    assert far(theirs, sample(ours, SMALLEST)) < SAME
    stats = carried(alone).latest.report.stats
    assert stats.evaluations == carried(ours).latest.report.stats.evaluations
    assert (stats.evaluations < 6 * 2 * 4) == (text.split("=")[0] not in ("tcfg", "zero-star", "cfg-oec"))


@pytest.mark.parametrize("text", ["ag=-0.5", "tcfg"])
@pytest.mark.parametrize("sampler", [one for one in comfy.samplers.SAMPLER_NAMES if "cfg_pp" in one])
def test_samplers_that_read_the_null(model: Any, sampler: str, text: str) -> None:
    """CFG++ goes on from the unconditional prediction: none is spared, and both ways of combining leave the same there."""
    alone = patched(model, guidance_rules(text))
    theirs = sample(alone, SMALLEST, sampler=sampler)
    assert far(theirs, sample(model, SMALLEST, sampler=sampler)) > 1e-3
    assert far(theirs, sample(patched(model, guidance_rules(f"cfg=4 {text}")), SMALLEST, sampler=sampler)) < SAME
    stats = carried(alone).latest.report.stats
    assert stats.evaluations == stats.clean


def test_a_run_without_cfg(model: Any) -> None:
    """ComfyUI evaluates the positive alone there, and what a weak pass costs is told over that."""
    guided = patched(model, (emag.PAG(1.5, layers=(1,)),))
    assert far(sample(guided, SMALLEST, cfg=1.0), sample(model, SMALLEST, cfg=1.0)) > 1e-3
    stats = carried(guided).latest.report.stats
    assert stats.evaluations == stats.planned == 6 * (4 + 3)
    assert stats.clean == 6 * 4


@pytest.mark.parametrize("text", ["tcfg", "phase-negative"])
def test_cfg_1_reads_no_null(model: Any, text: str) -> None:
    """A rule about it would change nothing."""
    with pytest.raises(BadValue, match=f"{text} is about the unconditional prediction, which the sampler does not read"):
        sample(patched(model, guidance_rules(text)), SMALLEST, cfg=1.0)
    assert far(sample(patched(model, guidance_rules(f"cfg=4 {text}")), SMALLEST, cfg=1.0), sample(model, SMALLEST)) > 1e-3


def test_what_is_saved_is_told_over_plain_sampling(model: Any) -> None:
    """Also of a sampler that evaluates some levels twice, and of several negative conditions: 11 evaluations, the first of
    which saves none."""
    guided = patched(model, guidance_rules("ag=-0.5"))
    sample(guided, SMALLEST, sampler="heun", negative=conditioning(3) + conditioning(5))
    stats = carried(guided).latest.report.stats
    assert (stats.evaluations, stats.clean) == ((11 + 2) * 4, 11 * 3 * 4)


def test_the_report_tells_where_each_rule_worked(model: Any) -> None:
    """EMAG in the block that each image picked, in its window; SEG in its own at every step; NAG's kind in every pass."""
    guided = patched(model, (EMAG, emag.SEG(1.5, layers=(3,)), emag.PLADIS(layers=(0,))))
    sample(guided, SMALLEST, steps=10, rows=3)
    report = carried(guided).latest.report
    assert report.blocks == (0, 1, 2, 3)
    assert all(step[0] == step[3] == 1 for step in report.worked)
    sums = [step.get(1, 0.0) + step.get(2, 0.0) for step in report.worked]
    assert sums == pytest.approx([0.0] * 2 + [1.0] * 6 + [0.0] * 2)
    picked = [step[1] for step, own in zip(report.worked, sums, strict=True) if own]
    assert picked == pytest.approx([one.count(1) / 3 for one in report.stats.picks if one])


def test_split_batches_give_the_same(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is short ComfyUI evaluates the two branches apart."""
    joint = sample(patched(model, (EMAG,)), SMALLEST)
    monkeypatch.setattr(type(model.model), "memory_required", lambda *args, **kwargs: 1e30)
    split: list[torch.Tensor] = []
    seen = blocks_run(model, lambda: split.append(sample(patched(model, (EMAG,)), SMALLEST)))
    assert {rows for _, rows in seen} == {1}
    assert far(split[0], joint) < SAME


@pytest.mark.parametrize("lengths", [(6, 12), (12, 6)])
def test_texts_of_two_lengths(model: Any, lengths: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such prompts do not share a batch, or are repeated in it until they are as long."""
    conds = {"positive": conditioning(2, length=lengths[0]), "negative": conditioning(3, length=lengths[1])}
    guided = sample(patched(model, (EMAG,)), SMALLEST, **conds)
    assert far(guided, sample(model, SMALLEST, **conds)) > 1e-3
    whole = emag.EMAG(1.5, layers=(1, 2), window=WINDOW, beta=0.7, compat={"resume": False})
    full = sample(patched(model, (whole,)), SMALLEST, **conds)
    assert far(guided, full) < SAME


def test_each_image_is_its_own(model: Any) -> None:
    """A batch of two gives what two runs of one give."""
    guided = patched(model, (EMAG,))
    both = sample(guided, SMALLEST, rows=2)
    alone = [sample(guided, SMALLEST, seed=seed) for seed in (1, 2)]
    assert far(both, torch.cat(alone)) < SAME


@pytest.mark.parametrize("sampler", [one for one in comfy.samplers.SAMPLER_NAMES if not one.endswith("_gpu")])
def test_samplers(model: Any, sampler: str) -> None:
    """Those that call the model more than once a step find the step by its sigma; dpm_fast and dpm_adaptive go from the
    first level to the last in steps of their own, each of the level last passed."""
    guided = patched(model, (EMAG,))
    out = sample(guided, SMALLEST, sampler=sampler)
    assert far(out, sample(model, SMALLEST, sampler=sampler)) > 1e-3
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_schedulers(model: Any, scheduler: str) -> None:
    more = {"scheduler": scheduler, "steps": 10}
    assert far(sample(patched(model, (EMAG,)), SMALLEST, **more), sample(model, SMALLEST, **more)) > 1e-3


def test_a_step_that_another_node_answers_is_told(model: Any) -> None:
    """A cache that we do not know by name."""
    from comfy.patcher_extension import WrappersMP

    kept: list[torch.Tensor] = []

    def answer(executor: Any, *args: Any, **kwargs: Any) -> Any:
        kept.append(executor(*args, **kwargs) if len(kept) != 3 else kept[-1])
        return kept[-1]

    guided = patched(model, (EMAG,))
    guided.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "memory", answer)
    with pytest.raises(Unsupported, match="6 steps were planned and 5 came"):
        sample(guided, SMALLEST)


def test_a_run_without_a_step_is_what_it_is(model: Any) -> None:
    """Levels split behind the last one: nothing is evaluated, and there is nothing to guide."""
    x = torch.ones(SMALLEST.shape)

    def end(one: Any) -> torch.Tensor:
        prompts = conditioning(2), conditioning(3)
        return comfy.sample.sample_custom(one, x, 4.0, comfy.samplers.sampler_object("euler"), torch.tensor([0.0]), *prompts,
                                          x, disable_pbar=True, seed=0)

    assert torch.equal(end(patched(model, (EMAG,))), end(model))
    assert blocks_run(model, lambda: end(patched(model, (EMAG,)))) == []


def test_heun_averages_once_a_level(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 evaluations of 4 levels: each of two blocks is averaged 4 times, as with Euler's 4 evaluations."""
    seen: list[int] = []
    observe = QueryAverage.observe
    monkeypatch.setattr(QueryAverage, "observe", lambda self, call: (seen.append(1), observe(self, call))[1])
    guided = patched(model, (EMAG,))
    sample(guided, SMALLEST, steps=4, sampler="heun")
    assert len(seen) == 4 * 2
    stats = carried(guided).latest.report.stats
    assert stats.steps == 7
    assert [effect is not None for effect in stats.effects] == [False, True, True, True, True, True, True]


def test_a_window_without_a_step_is_refused_before_anything_runs(model: Any) -> None:
    guided = patched(model, (emag.EMAG(1.5, layers=(1,), window=emag.Window.progress(0, 0.98, 1)),))
    with pytest.raises(BadValue, match=r"window|step"):
        assert not blocks_run(model, lambda: sample(guided, SMALLEST, steps=2))


def test_no_effect_is_an_error(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that is not offered to us is named."""
    from comfy.ldm.modules.diffusionmodules import mmdit

    original = mmdit.optimized_attention
    monkeypatch.setattr(mmdit, "optimized_attention",
                        lambda *args, transformer_options=None, **kwargs: original(*args, **kwargs))
    with pytest.raises(NoEffect, match="transformer_options"):
        sample(patched(model, (EMAG,)), SMALLEST)


def test_two_nodes_in_a_row_are_one_list(model: Any) -> None:
    one = sample(patched(patched(model, (EMAG,)), (emag.PAG(1.5, layers=(1,)),)), SMALLEST)
    assert torch.equal(one, sample(patched(model, (EMAG, emag.PAG(1.5, layers=(1,)))), SMALLEST))


def test_two_clones_share_no_state(model: Any) -> None:
    first, second = patched(model, (EMAG,)), patched(model, (emag.SEG(2.0, layers=(1,)),))
    a, b = sample(first, SMALLEST), sample(second, SMALLEST)
    assert torch.equal(sample(first, SMALLEST), a)
    assert torch.equal(sample(second, SMALLEST), b)
    assert far(a, b) > 1e-3


CFGPP = (emag.CFG(emag.CFGpp(0.6)),)


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize("name", ["sd1.5", "sd3"])
def test_cfg_plus_plus_as_a_scale_of_euler_is_comfyuis_own(name: str, sampler: str) -> None:
    small = SMALL[name]
    plain = build(small)
    own = sample(plain, small, cfg=0.6, sampler="euler_cfg_pp")
    made = sample(patched(plain, CFGPP), small, sampler=sampler)
    assert far(made, own) < 1e-4 < far(made, sample(plain, small, cfg=0.6))


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpmpp_2m", "euler_cfg_pp", "dpm_adaptive", "uni_pc"])
def test_under_another_sampler_it_is_refused_before_anything_runs(model: Any, sampler: str) -> None:
    guided = patched(model, CFGPP)
    with pytest.raises(Unsupported, match="exact for first-order deterministic samplers only"):
        assert not blocks_run(model, lambda: sample(guided, SMALLEST, sampler=sampler))
