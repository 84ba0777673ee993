"""Rectified guidance coefficients: the mean stays, and the file says for what."""

import pytest
import torch

import emag
from emag.core import COND, UNCOND
from emag.errors import BadValue
from emag.methods.null.recfg import Means, read_ratios
from ratios import ratios
from reference import at_step
from second_network import evaluate
from tiny import CASES, sd3

close = torch.testing.assert_close
SHAPE = (6, 3, 4, 4)


def recorded(steps=3):
    """A recorder that has seen two batches of made-up predictions, and those by step, [images, ...]."""
    means, seen = Means(), []
    generator = torch.Generator().manual_seed(2)
    sigmas = tuple(0.9 - 0.2 * i for i in range(steps))
    for i in range(steps):
        pair = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) + 1 for _ in range(2)]
        for part in (slice(0, 2), slice(2, 6)):
            step = at_step("flow", "flow", torch.zeros(4, *SHAPE[1:]), index=i, sigmas=sigmas,
                           alphas=tuple(1 - s for s in sigmas))
            branches = dict(zip((COND, UNCOND), (p[part] for p in pair), strict=True))
            state = {}
            assert means.new_null(branches, step, state) is None
            means.new_null(branches, step, state)  # a level that comes twice counts once
        seen.append(pair)
    return means, seen, sigmas


def test_the_mean_of_what_is_guided_is_the_conditional_one(tmp_path):
    means, seen, sigmas = recorded()
    means.save(tmp_path / "r.safetensors")
    rules = (emag.ReCFG(str(tmp_path / "r.safetensors")), emag.CFG(5.0))
    for i, (cond, null) in enumerate(seen):
        step = at_step("flow", "flow", torch.zeros(SHAPE).double(), index=i, sigmas=sigmas,
                       alphas=tuple(1 - s for s in sigmas))
        made = evaluate(rules, {COND: cond, UNCOND: null}, step)
        close(made.mean(0), cond.mean(0), atol=1e-4, rtol=1e-4)
        close(made, 5 * cond - 4 * null * cond.mean(0) / null.mean(0), atol=1e-4, rtol=1e-4)
        plain = evaluate(rules[1:], {COND: cond, UNCOND: null}, step)
        assert (plain.mean(0) - cond.mean(0)).abs().max() > 0.5


def test_where_u_was_spared_there_is_no_push():
    """Under AG u is c: the ratio is of an evaluated u, and c times it is none."""
    cond, null = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2))
    branches = {COND: cond, UNCOND: torch.cat([cond[:1], null[1:]])}
    step = at_step("flow", "flow", torch.zeros(2, 3, 4, 4))
    new = emag.ReCFG(ratios()).new_null(branches, step, {})
    assert torch.equal(new[0], cond[0])
    close(new[1], 0.7 * null[1], atol=1e-6, rtol=1e-6)


def test_a_mean_that_tells_nothing_gives_1():
    means = Means({0: [torch.tensor([3.0, 3.0]), torch.tensor([2.0, 1e-9])]})
    assert means.ratios().tolist() == [[1.5, 1.0]]
    with pytest.raises(BadValue, match="seen no run"):
        Means().ratios()


def test_measured_on_a_pipeline_and_used_there(tmp_path):
    case, means, few = CASES["sd3"], Means(), {"num_inference_steps": 2}
    with emag.guide(pipe := sd3(), means, emag.CFG(4.0)):
        plain = case.run(pipe, **few)
    means.save(path := tmp_path / "r.safetensors")
    assert read_ratios(str(path)).shape[0] == 2
    rule = emag.ReCFG(str(path))
    with emag.guide(pipe, rule, emag.CFG(4.0)) as run:
        assert not torch.allclose(case.run(pipe, **few), plain, atol=1e-4)
    assert run.stats.evaluations == run.stats.clean
    with pytest.raises(BadValue, match="of 2 steps and the run has 3"), emag.guide(pipe, rule, emag.CFG(4.0)):
        case.run(pipe, num_inference_steps=3)


@pytest.mark.parametrize(("file", "words"), [
    (lambda: "", "needs ratios"), (lambda: "nowhere.safetensors", "cannot read"),
    (lambda: ratios(name="other"), "holds no ratios"), (lambda: ratios(torch.tensor([float("nan")])), "holds no ratios"),
    (lambda: ratios(torch.ones(1, 5, 7)), "for samples of")])
def test_odd_files_are_refused_before_a_run(file, words):
    with pytest.raises(BadValue, match=words), emag.guide(pipe := sd3(), emag.ReCFG(file()), emag.CFG(4.0)):
        CASES["sd3"].run(pipe, num_inference_steps=2)
