"""Laws of a rule at work in pipelines."""

from collections.abc import Iterator

import torch

from .law import Law, far, require
from .runs import plain, runs
from .trial import Trial

PIPELINES = ("sd3", "dit", "pixart", "true-cfg")
"""Small pipelines with unconditional rows, one of each kind of call."""


def the_image_changes(trial: Trial, case: str) -> None:
    """Under the rule the pipeline makes another image than without it, and the engine sees that something differed."""
    made = runs(trial, case).guided.first
    require(bool(made.isfinite().all()), "numbers that are not finite")
    require(not torch.allclose(made, runs(trial, case).without, atol=1e-3), "no latent moved by 1e-3")


def evaluations_are_as_planned_and_as_counted(trial: Trial, case: str) -> None:
    """Block evaluations per image are those of the plan, and those that hooks of others on the blocks count."""
    seen = runs(trial, case).guided
    if not trial.more:  # a second network's blocks are not among those counted
        require(seen.stats.evaluations == seen.counted / len(seen.first),
                f"{seen.stats.evaluations} said, {seen.counted / len(seen.first):g} counted")
    made, planned = seen.stats.evaluations, seen.stats.planned
    require(made <= planned if trial.guess else made == planned, f"{made} evaluations, {planned} planned")


def a_second_run_starts_anew(trial: Trial, case: str) -> None:
    """The same seeds give the same image, bit for bit: no rule keeps anything from one run to the next."""
    seen = runs(trial, case).guided
    require(torch.equal(seen.first, seen.second), far(seen.first, seen.second))


def an_image_is_the_same_alone(trial: Trial, case: str) -> None:
    """An image depends on its own seed and condition, not on the batch it is made in."""
    together, alone = runs(trial, case).guided.first, runs(trial, case).alone
    torch.testing.assert_close(together[1:], alone, atol=2e-4 * max(1.0, float(alone.abs().max())), rtol=1e-4)


def a_seed_is_its_samples_own(trial: Trial, case: str) -> None:
    """Random numbers of a rule come from streams of its own: the user's generators, and torch's, are where they were."""
    *own, before, after = runs(trial, case).guided.generators
    require(all(torch.equal(a, b) for a, b in zip(own, plain(case)[1], strict=True)), "it drew from the user's generators")
    require(torch.equal(before, after), "it drew from torch's own generator")


def neutral_is_the_plain_pipeline(trial: Trial, case: str) -> None:
    """Switched off, a combining rule is the pipeline with its own guidance off; any other is the guidance without it; bit
    for bit."""
    neutral = trial.neutral or ()
    off = neutral[-1].kind == "combining" and len(neutral) == 1
    expected = plain(case, off)[0] if len(neutral) == 1 else runs(trial, case).images(neutral[:-1])
    found = runs(trial, case).neutral
    require(torch.equal(found, expected), far(found, expected))


def nothing_stays_behind(trial: Trial, case: str) -> None:
    """After the block every module, hook and processor is the one from before, and the pipeline's image is its own again."""
    seen = runs(trial, case).guided
    require(seen.changed == [], f"changed: {', '.join(seen.changed[:5])}")
    require(seen.after is not None and torch.equal(seen.after, plain(case)[0]), "its plain image is another")


def laws() -> Iterator[Law]:
    """The laws in pipelines, the plainest first."""
    for holds in (the_image_changes, evaluations_are_as_planned_and_as_counted, a_second_run_starts_anew,
                  an_image_is_the_same_alone, a_seed_is_its_samples_own):
        yield Law(holds, lambda trial: True, on_pipelines=True)
    yield Law(neutral_is_the_plain_pipeline, lambda trial: trial.neutral is not None, on_pipelines=True)
    yield Law(nothing_stays_behind, lambda trial: True, on_pipelines=True)
