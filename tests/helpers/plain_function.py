"""A plain denoiser, and loops over it."""

from reference import tensors

SIGMAS = (1.0, 0.8, 0.55, 0.3, 0.1, 0.0)


def flow(x, t, mean):
    """The exact velocity for data N(mean, 0.25)."""
    spread = (1 - t) ** 2 * 0.25 + t**2
    x0 = mean + (1 - t) * 0.25 / spread * (x - (1 - t) * mean)
    return (x - x0) / t


def first(batch=3):
    return tensors(3, 1, batch, 4, 6, 6)[0].double()


def loop(model, x):
    """A research loop: Euler, thirty years old."""
    for i in range(len(SIGMAS) - 1):
        x = x + (SIGMAS[i + 1] - SIGMAS[i]) * model(x, i)
    return x
