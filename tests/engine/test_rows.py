"""An image does not depend on its batch mates."""

import pytest
import torch

import emag
from cases import ALL, EMAG, KINDS
from invariant import APG, CADS
from tiny import CASES

pytestmark = pytest.mark.sampled(2)

# 3: an image does not depend on its batch mates


def distance(a, b):
    """Largest relative distance of two images; untrained networks blow up rounding in single pixels."""
    return ((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max()


BATCH = {
    "query": (EMAG(),), "map": (EMAG(variant="map"),), "image": (EMAG(variant="image"),),
    "kl": (EMAG(variant="map", statistic="kl"),), "fixed": (EMAG(statistic="fixed"),),
    "jitter": (EMAG(jitter=0.3),), "jitter map": (EMAG(variant="map", jitter=0.3),),
    "cads": (CADS, EMAG()), "cads null": (emag.CADS(0.3, tau1=0.3, tau2=0.9, psi=0.5, null=True),),
    "cfg": (EMAG(), emag.CFG(3.0)), "apg": (EMAG(), APG), "apg first": (APG, EMAG(variant="map")),
    "two": (EMAG(), EMAG(1.3, variant="map", layers=(2, 3))),
}


ON_ALL = ("query", "map", "two")
"""Rules tried on every kind of pipeline; the others on one that makes one call a step, and on one that makes two."""
BATCHES = [pytest.param(CASES[case], rules, id=f"{name}-{case}") for name, rules in BATCH.items()
           for case in (KINDS if name in ON_ALL else ("sd3", "true-cfg"))]


@pytest.mark.parametrize(("case", "rules"), BATCHES)
def test_a_batch_row_equals_the_image_alone(case, rules):
    pipe, seeds = case.pipe(), (3, 4, 5)
    with emag.guide(pipe, *rules) as run:
        together = case.run(pipe, seeds, num_inference_steps=5)
        picks = run.stats.picks
        alone = torch.cat([case.run(pipe, (seed,), num_inference_steps=5) for seed in seeds])
        reordered = case.run(pipe, seeds[::-1], num_inference_steps=5)
    assert distance(together, alone) < 1e-4
    assert distance(together, reordered.flip(0)) < 1e-4
    if rules[0].name == "emag" and rules[0].statistic != "fixed":
        assert all(len(pick) == 3 for pick in picks if pick)


def test_rows_of_a_batch_pick_their_own_blocks():
    case, pipe = CASES["flux"], CASES["flux"].pipe()
    with emag.guide(pipe, EMAG(layers=(0, 1, 2, 3))) as run:
        case.run(pipe, (3, 4, 5, 6))
    assert any(len(set(pick)) > 1 for pick in run.stats.picks if pick)


@ALL
def test_random_streams_leave_the_users_generators_alone(case):
    pipe, generators = case.pipe(), [torch.Generator().manual_seed(s) for s in (8, 9)]
    case.run(pipe, generator=generators)
    expected = [g.get_state() for g in generators]
    generators = [torch.Generator().manual_seed(s) for s in (8, 9)]
    before = torch.get_rng_state()
    with emag.guide(pipe, CADS, EMAG(jitter=0.5)):
        case.run(pipe, generator=generators)
    assert all(torch.equal(g.get_state(), e) for g, e in zip(generators, expected))
    assert torch.equal(torch.get_rng_state(), before)
