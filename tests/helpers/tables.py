"""A world of a table, whose means are known, and a student that learns each of them; float64."""

import torch

CONDITIONS, POINTS, DIM = 2, 3, 4


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# a world of a table: for each condition the mean of the plain target at each of a few x; the null is their mean
MEANS = random(0, CONDITIONS, POINTS, DIM)
NULL = MEANS.mean(0)
SPREAD = random(1, CONDITIONS, POINTS, DIM)


def batch():
    """All plain targets of the world [rows, DIM], each row's condition and point; twice, the second time dropped."""
    data = torch.stack([MEANS + SPREAD, MEANS - SPREAD]).reshape(-1, DIM)
    condition = torch.arange(CONDITIONS).repeat_interleave(POINTS).repeat(2)
    point = torch.arange(POINTS).repeat(2 * CONDITIONS)
    dropped = torch.arange(2 * len(data)) >= len(data)
    return data.repeat(2, 1), condition.repeat(2), point.repeat(2), dropped


class Table:
    """A student with a number of its own for everything: cond [CONDITIONS, POINTS, DIM] and null [POINTS, DIM]."""

    def __init__(self, seed=2):
        self.cond = random(seed, CONDITIONS, POINTS, DIM).requires_grad_()
        self.null = random(seed + 1, POINTS, DIM).requires_grad_()

    def __call__(self, condition, point, dropped):
        return torch.where(dropped[:, None], self.null[point], self.cond[condition, point])

    def fit(self, loss, steps=400, rate=20.0):
        for _ in range(steps):
            grads = torch.autograd.grad(loss(), (self.cond, self.null), allow_unused=True)
            with torch.no_grad():
                for p, grad in zip((self.cond, self.null), grads):
                    p -= 0 if grad is None else rate * grad
        return self
