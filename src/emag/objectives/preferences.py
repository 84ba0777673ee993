"""Objectives that learn from better and worse: a network of bad taste for the null branch (NPO), and DiffusionNFT."""

from collections.abc import Mapping

import torch
from torch.nn.functional import huber_loss, logsigmoid

from ..errors import BadValue
from ..maths.predictions import Space, to_x0
from ..maths.vectors import widened
from .rows import fixed


def dpo_loss(winner: torch.Tensor, winner_reference: torch.Tensor, loser: torch.Tensor, loser_reference: torch.Tensor,
             beta: float = 500.0) -> torch.Tensor:
    r"""Diffusion-DPO, arXiv 2311.12908: $-\log\sigma(-\frac{\beta}{2} [(e_w - e_w') - (e_l - e_l')])$.

    winner, loser: mean square errors [batch] of the student's predictions of both pictures of a pair, at one noise and time;
    the references: of the frozen network. beta: 500 (SD1.5), 2000 (SDXL). log 2 at the reference. Raises `BadValue`.
    """
    if beta <= 0:
        raise BadValue(f"beta must be above 0, got {beta}")
    better = (widened(winner) - fixed(winner_reference)) - (widened(loser) - fixed(loser_reference))
    return -logsigmoid(-0.5 * beta * better).mean()


def npo_loss(winner: torch.Tensor, winner_reference: torch.Tensor, loser: torch.Tensor, loser_reference: torch.Tensor,
             beta: float = 500.0) -> torch.Tensor:
    """Diffusion-NPO (Wang et al., ICLR 2025): `dpo_loss` with winner and loser swapped, for a network of bad taste.

    It serves as the null branch of CFG: `emag.Priors`. Arguments as in `dpo_loss`.
    """
    return dpo_loss(loser, loser_reference, winner, winner_reference, beta)


def npo_weights(base: Mapping[str, torch.Tensor], preferred: Mapping[str, torch.Tensor], delta: Mapping[str, torch.Tensor],
                alpha: float = 1.0, beta: float = 1.0) -> dict[str, torch.Tensor]:
    """Diffusion-NPO's null network (Wang et al., ICLR 2025): theta + alpha (preferred - theta) + beta delta, by name.

    alpha: how much of the preferred weights it keeps, so that both branches stay near one another; 1 is the code's
    merge_weight 0. delta: what `npo_loss` added; names it lacks have none. Raises `BadValue` for a name of delta that the
    network has not.
    """
    strange = next((name for name in delta if name not in base), None)
    if strange or base.keys() != preferred.keys():
        raise BadValue(f"the weights are of different networks: {strange or 'base and preferred'} cannot be matched by name")
    return {name: value + alpha * (preferred[name] - value) + beta * delta.get(name, torch.zeros_like(value))
            for name, value in base.items()}


def raised_noise(x: torch.Tensor, noise: torch.Tensor, now: tuple[float, float], then: tuple[float, float]) -> torch.Tensor:
    r"""Self-NPO's way back (AAAI 2026): $x_s = \alpha_s (x_t / \alpha_t + \sqrt{k_s^2 - k_t^2}\,n)$, $k = \sigma / \alpha$.

    x, noise: [batch, ...]. now, then: (alpha, sigma) of x and of what comes out, which is noisier. The result has the
    spread of a sample noised to `then` at once. Raises `BadValue`.
    """
    (alpha, sigma), (alpha_then, sigma_then) = now, then
    if not (alpha > 0 and alpha_then > 0 and sigma_then / alpha_then >= sigma / alpha):
        raise BadValue(f"noise is raised to a noisier level with some signal left, not from {now} to {then}")
    more = (sigma_then / alpha_then) ** 2 - (sigma / alpha) ** 2
    return alpha_then * (x / alpha + more**0.5 * noise)


def self_npo_loss(student: torch.Tensor, weak: torch.Tensor, delta: float = 1.0) -> torch.Tensor:
    """Self-NPO (AAAI 2026): Huber's distance to a sample that the network made without guidance.

    student: x0 [batch, ...] of the student at `raised_noise` of the sample; weak: that sample's x0, by up to 5 steps of an
    averaged copy without a condition, from a noised real picture. delta: where Huber's distance turns linear; untested
    default. The optimum is the sample's mean near it.
    """
    return huber_loss(widened(student), fixed(weak), delta=delta)


def nft_loss(student: torch.Tensor, old: torch.Tensor, x0: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float,
             reward: torch.Tensor, beta: float = 1.0, space: Space = "flow", weighted: bool = True) -> torch.Tensor:
    r"""DiffusionNFT, arXiv 2509.16117: $\frac1\beta [r |x_0(v^+) - x_0|^2 / w^+ + (1 - r) |x_0(v^-) - x_0|^2 / w^-]$.

    $v^+ = \beta v + (1 - \beta) v'$ and $v^- = (1 + \beta) v' - \beta v$ with v' of the policy that drew the samples x0.
    x: x_t, [batch, ...]. reward: [batch], in [0, 1], see `nft_reward`. beta: 1 or 0.1 in the paper. weighted: divide by
    the mean distance of each row, at least 1e-5, as the authors do. With equal weights the optimum is v' + (2 / beta)
    Delta, where Delta is the mean reward times the way from v' to the velocity of rewarded samples. The authors add 1e-4
    times the mean square distance to the frozen network's prediction: `distillation_loss`. Raises `BadValue`.
    """
    if beta <= 0 or reward.shape != student.shape[:1] or not bool(((reward >= 0) & (reward <= 1)).all()):
        raise BadValue(f"beta must be above 0 and reward one number in [0, 1] for each of {len(student)} rows")
    step = beta * (widened(student) - fixed(old))
    good = _x0_error(fixed(old) + step, x0, x, alpha, sigma, space, weighted)
    bad = _x0_error(fixed(old) - step, x0, x, alpha, sigma, space, weighted)
    return (reward * good + (1 - reward) * bad).mean() / beta


def _x0_error(p: torch.Tensor, x0: torch.Tensor, x: torch.Tensor, alpha: float, sigma: float, space: Space,
              weighted: bool) -> torch.Tensor:
    away = to_x0(p, fixed(x), alpha, sigma, space) - fixed(x0)
    error = away.square().flatten(1).mean(1)
    return error / away.detach().abs().flatten(1).mean(1).clamp(min=1e-5) if weighted else error


def nft_reward(rewards: torch.Tensor, groups: torch.Tensor, largest: float = 5.0) -> torch.Tensor:
    """DiffusionNFT's reward in [0, 1], arXiv 2509.16117: advantages within a prompt, clipped at +-`largest`, around 1/2.

    rewards: [batch]. groups: [batch] whole numbers, equal for samples of one prompt. An advantage is the reward less its
    group's mean, over its group's deviation; where all rewards of a group are equal it is 0.
    """
    values, (_, number) = widened(rewards), groups.unique(return_inverse=True)
    count = torch.zeros(int(number.max()) + 1, dtype=values.dtype, device=values.device)
    sums = [count.scatter_add(0, number, part) for part in (torch.ones_like(values), values)]
    centred = values - (sums[1] / sums[0])[number]
    spread = (count.scatter_add(0, number, centred.square()) / sums[0]).sqrt()[number]
    advantage = torch.where(spread > 0, centred / torch.where(spread > 0, spread, 1.0), 0.0)
    return (advantage / largest / 2 + 0.5).clamp(0, 1)


def nft_decay(step: int) -> float:
    """How much of the old policy DiffusionNFT keeps after step `step`, arXiv 2509.16117: min(0.001 step, 0.5)."""
    return min(0.001 * step, 0.5)


def averaged_into(old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], decay: float) -> None:
    """Move weights `old` to decay old + (1 - decay) new, in place: an averaged copy as teacher or as old policy."""
    with torch.no_grad():
        for name, value in old.items():
            value.lerp_(new[name].to(value), 1 - decay)
