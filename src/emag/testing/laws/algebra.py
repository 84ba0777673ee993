"""Laws of a formula: they need predictions, and no network."""

from collections.abc import Iterator

import torch

from ...core import COND, UNCOND
from ...records import recipe
from .law import Law, far, require
from .made_up import SAMPLES, SPACES, Change, run
from .trial import Trial


def a_recipe_gives_it_back(trial: Trial) -> None:
    """A rule is plain data: written as a recipe and read again, it is equal."""
    back = recipe.from_data(recipe.to_data(trial.rules))
    require(back == trial.rules, f"{back} is not {trial.rules}")


def neutral_parameters_change_nothing(trial: Trial) -> None:
    """Switched off (scale 1, ...), a rule is the identity: u + 1 (p - u) = p, bit for bit, at every step."""
    active = [rule for rule in trial.neutral or () if not rule.neutral]
    found, plain = run(active), run(trial.rules[:-1])
    require(torch.equal(found, plain), far(found, plain))


def it_acts(trial: Trial) -> None:
    """At the settings of the trial, predictions are others than without the rule."""
    require(not torch.allclose(run(trial.rules), run(trial.rules[:-1]), atol=1e-3), "no prediction moved by 1e-3")


def rows_do_not_see_each_other(trial: Trial) -> None:
    """f(batch)[i] = f(batch[i]): norms, means, thresholds and memories are per sample."""
    together = run(trial.rules)
    for i in range(SAMPLES):
        alone = run(trial.rules, rows=slice(i, i + 1))
        torch.testing.assert_close(alone, together[:, :, i:i + 1], atol=1e-9, rtol=1e-9)


def all_spaces_give_one_result(trial: Trial) -> None:
    """epsilon, v, x0 and flow of one and the same prediction, given x_t, are guided to one and the same prediction."""
    for path, spaces in SPACES.items():
        known = run(trial.rules, path, "x0")
        for space in spaces:
            torch.testing.assert_close(run(trial.rules, path, space), known, atol=1e-8, rtol=1e-8)


DEGENERATE: dict[str, Change] = {
    "equal": lambda p: {COND: p[COND], UNCOND: p[COND].clone()},
    "zero": lambda p: {name: torch.zeros_like(t) for name, t in p.items()},
    "zero cond": lambda p: {COND: torch.zeros_like(p[COND]), UNCOND: p[UNCOND]},
    "zero uncond": lambda p: {COND: p[COND], UNCOND: torch.zeros_like(p[UNCOND])},
}
"""Predictions at which a formula may divide by 0."""


def _stays_finite(kind: str, dtype: torch.dtype) -> Law:
    def stays_finite(trial: Trial) -> None:
        for space in ("epsilon", "x0"):
            made = run(trial.rules, space=space, change=DEGENERATE[kind], dtype=dtype, told=space)
            require(bool(made.isfinite().all()), f"numbers that are not finite ({space})")
            require(made.dtype == dtype, f"{made.dtype} instead of {dtype}")

    short = str(dtype).removeprefix("torch.")
    stays_finite.__doc__ = f"Where predictions are degenerate ({kind}, {short}), results are finite and keep their dtype."
    stays_finite.__name__ = f"stays_finite[{kind}-{short}]"
    return Law(stays_finite, _of_predictions)


def _of_predictions(trial: Trial) -> bool:
    return not trial.sees


def laws() -> Iterator[Law]:
    """The laws of formulas, the plainest first."""
    yield Law(a_recipe_gives_it_back, lambda trial: True)
    yield Law(neutral_parameters_change_nothing, lambda trial: not trial.sees and trial.neutral is not None)
    yield Law(it_acts, _of_predictions)
    yield Law(rows_do_not_see_each_other, _of_predictions)
    yield Law(all_spaces_give_one_result, lambda trial: not trial.sees and not trial.raw)
    for kind in DEGENERATE:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            yield _stays_finite(kind, dtype)
