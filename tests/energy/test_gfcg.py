"""GFCG: guidance goes away from the rival that a classifier takes the sample for; no gradient, no evaluation more."""

import pytest
import torch

import emag
from emag.errors import BadValue, NoEffect
from emag.records import recipe
from emag.samplers import sample
from test_energy_functions import DIM, NETS, PATH, X, draw, linear
from tiny import CASES, noise

close = torch.testing.assert_close
RIVALS = {"cat": 0.5 * draw(DIM, DIM), "dog": 0.5 * draw(DIM, DIM)}
BATCH = X + draw(len(X), DIM)


def like(entry, factor=1.0):
    """A made-up log probability: the larger one entry of the sample, the likelier the class."""
    return lambda x0: factor * x0[:, entry]


SCORES = {"is:frog": like(0), "is:cat": like(1), "is:dog": like(2)}


def gfcg(wanted=("frog",), rivals=("cat", "dog"), power=1.0):
    return emag.GFCG(wanted, rivals, "{}", "is:{}", power)


def guided(*rules, scores=SCORES, **more):
    return emag.guided(linear, *rules, path=PATH, prediction="x0", conditions={**NETS, **RIVALS}, scores=scores, **more)


def by_hand(x, scale, power):
    """c + m (w - 1) (c - e(r)), r the likelier rival of each row, m = (2 P(r) / (P(y) + P(r)))^power."""
    cond, found = linear(x, None, NETS["cond"]), []
    for row, one in enumerate(cond):
        name = "cat" if one[1] > one[2] else "dog"
        likely, wanted = max(one[1], one[2]).exp(), one[0].exp()
        m = (2 * likely / (wanted + likely)) ** power
        found.append(one + m * (scale - 1) * (one - linear(x[row], None, RIVALS[name])))
    return torch.stack(found)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_each_image_goes_away_from_its_own_likeliest_rival_as_far_as_it_is_confused(power):
    model = guided(gfcg(power=power), emag.CFG(3.0))
    close(model(BATCH, 1), by_hand(BATCH, 3.0, power))
    cond = linear(BATCH, None, NETS["cond"])
    assert len((cond[:, 1] > cond[:, 2]).unique()) == 2, "both rivals occur"
    close(guided(gfcg(power=power), emag.CFG(3.0))(BATCH[1:2], 1), model(BATCH, 1)[1:2])


def test_with_one_rival_and_no_power_it_is_cfg_away_from_it():
    theirs = emag.guided(linear, emag.CFG(3.0), path=PATH, prediction="x0",
                         conditions={"cond": NETS["cond"], "uncond": RIVALS["cat"]})
    ours = guided(gfcg(rivals=("cat",), power=0.0), emag.CFG(3.0))
    close(sample(ours, BATCH), sample(theirs, BATCH))
    assert ours.evaluations == theirs.evaluations  # in the place of the unconditional one


def test_without_doubt_there_is_no_guidance():
    sure = {**SCORES, "is:frog": lambda x0: 100 + 0 * x0[:, 0]}
    close(guided(gfcg(), emag.CFG(3.0), scores=sure)(BATCH, 1), linear(BATCH, None, NETS["cond"]))


def test_an_images_own_class_is_no_rival_of_its():
    named = guided(gfcg(("cat", "cat", "dog", "dog"), ("cat", "dog"), 0.0), emag.CFG(3.0))(BATCH, 1)
    close(named[:2], guided(gfcg(("cat",), ("dog",), 0.0), emag.CFG(3.0))(BATCH, 1)[:2])
    close(named[2:], guided(gfcg(("dog",), ("cat",), 0.0), emag.CFG(3.0))(BATCH, 1)[2:])


def test_no_graph_is_made_and_any_program_will_do():
    told = []

    def program(x0):
        told.append((torch.is_grad_enabled(), x0.requires_grad))
        return torch.from_numpy(x0.numpy().max(1))

    scores = dict.fromkeys(SCORES, program)
    with torch.enable_grad():
        found = guided(gfcg(), emag.CFG(3.0), scores=scores)(BATCH.clone().requires_grad_(), 1)
    assert told == [(False, False)] * 3 and not found.requires_grad


def test_where_nothing_reads_it_nothing_is_evaluated():
    model = guided(gfcg(), emag.CFG(emag.Interval(3.0, 0.0, 0.5, "progress")))
    sample(model, BATCH)
    reads = model.evaluations - len(PATH)
    assert 0 < reads < 2 * len(PATH)


def test_it_is_plain_data():
    rule = emag.GFCG(("frog",), ("cat", "deer"), power=0.5)
    assert recipe.parse("gfcg=frog,rivals=cat+deer,power=0.5") == rule
    assert recipe.from_data(recipe.to_data([rule])) == (rule,)


def given(case):
    """Conditions of two rivals as tensors, and scores of decoded images."""
    made = {"sd3": lambda at: {"encoder_hidden_states": noise(900 + at, 1, 5, 12),
                               "pooled_projections": noise(950 + at, 1, 10)},
            "dit": lambda at: {"class_labels": torch.tensor([3 + at])}}[case]
    scores = {"is:frog": lambda x: 0 * x[:, 0].mean((1, 2)), "is:cat": lambda x: 40 * (x[:, 0] - x[:, 1]).mean((1, 2)),
              "is:dog": lambda x: 40 * (x[:, 1] - x[:, 0]).mean((1, 2))}
    return {"conditions": {"cat": made(0), "dog": made(1)}, "scores": scores}


@pytest.mark.parametrize("case", ["sd3", "dit"])
def test_pipelines_choose_for_each_row_at_the_cost_of_cfg(case):
    pipe = CASES[case].pipe()
    chosen = []

    class Told(emag.GFCG):
        def _chosen(self, likely):
            chosen.append(super()._chosen(likely))
            return chosen[-1]

    rule = Told(("frog",), ("cat", "dog"), "{}", "is:{}")
    seeds = (8, 9, 10, 11)
    with emag.guide(pipe, rule, emag.CFG(3.0), **given(case)) as run:
        found = CASES[case].run(pipe, seeds, num_inference_steps=3)
    assert run.stats.evaluations == run.stats.planned
    assert any(len(set(references)) == 2 for references, _ in chosen), "rows differ in their references"
    with emag.guide(pipe, emag.CFG(3.0)) as plain:
        assert not torch.equal(CASES[case].run(pipe, seeds, num_inference_steps=3), found)
    assert run.stats.evaluations == plain.stats.evaluations
    with emag.guide(pipe, rule, emag.CFG(3.0), **given(case)):
        alone = CASES[case].run(pipe, seeds[1:2], num_inference_steps=3)
    close(alone, found[1:2], rtol=0, atol=2e-3 * float(found.abs().max()))


def test_rules_on_the_condition_work_once_on_what_a_rival_does_not_say():
    """A rival of a text alone: its pass has the pooled text of the clean one."""
    pipe, pooled, made = CASES["sd3"].pipe(), [], given("sd3")
    made["conditions"] = {name: {"encoder_hidden_states": one["encoder_hidden_states"]}
                          for name, one in made["conditions"].items()}
    pipe.transformer.time_text_embed.register_forward_pre_hook(lambda module, args: pooled.append(args[-1].clone()))
    with emag.guide(pipe, gfcg(), emag.CADS(0.5, 0.1, 0.9, 0.5), emag.CFG(3.0), **made):
        CASES["sd3"].run(pipe, (8, 9), num_inference_steps=2)
    assert len(pooled) == 4 and torch.equal(pooled[0], pooled[1]) and not torch.equal(pooled[0], pooled[2])


def test_the_pipelines_own_cfg_sees_it():
    pipe = CASES["sd3"].pipe()
    with emag.guide(pipe, gfcg(), **given("sd3")):
        host = CASES["sd3"].run(pipe, num_inference_steps=3, guidance_scale=3.0)
    with emag.guide(pipe, gfcg(), emag.CFG(3.0), **given("sd3")):
        close(CASES["sd3"].run(pipe, num_inference_steps=3), host, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda: emag.GFCG("frog", ("cat",)), BadValue, "wanted are names"),
    (lambda: gfcg(rivals=("frog",)), BadValue, "a rival of"), (lambda: gfcg(power=-1.0), BadValue, "power must be"),
    (lambda: emag.GFCG(("a",), ("b",), "prompt:b"), BadValue, "in the place"),
    (lambda: guided(emag.GFCG(("frog",), None), emag.CFG(3.0)), BadValue, "no default rivals"),
    (lambda: guided(gfcg(), emag.CFG(3.0), scores={}), BadValue, "no score 'is:frog'"),
    (lambda: guided(gfcg(rivals=("cow",)), emag.CFG(3.0), scores={**SCORES, "is:cow": like(1)}), BadValue,
     "condition 'cow'"),
    (lambda: guided(gfcg(("frog", "cat", "dog")), emag.CFG(3.0))(BATCH, 1), BadValue, "3 wanted classes for 4 images"),
    (lambda: emag.guided(linear, gfcg(rivals=("cat",)), emag.CFG(3.0), path=PATH, prediction="x0", scores=SCORES,
                         conditions={**NETS, "cat": NETS["cond"]})(BATCH, 1), NoEffect, "is its own prompt")])
def test_refusals(make, error, match):
    with pytest.raises(error, match=match):
        make()
