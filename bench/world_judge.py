"""How right and how fast the judge of the world of shapes is: python bench/world_judge.py --scenes 10000

True scenes of the training distribution, clean and with Gaussian noise: the share judged right, the root of the mean squared
residual, and images a second of CPU time on one thread.
"""

import platform
import time

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from emag.worlds.shapes import place, render, request, say, to_bytes
from emag.worlds.shapes.verdict import judge

CHUNK = 250


def measured(scenes: int, noise: float, seed: int) -> tuple[float, float, float]:
    """Share right, residual and images a second of `scenes` scenes with noise of a standard deviation in [0, 1]."""
    right, squares, seconds = 0, 0.0, 0.0
    for start in range(0, scenes, CHUNK):
        rng = np.random.default_rng([seed, start])
        wanted = [request(rng) for _ in range(min(CHUNK, scenes - start))]
        images = render([place(one, rng) for one in wanted])
        images = to_bytes(images + noise * rng.standard_normal(images.shape))
        before = time.process_time()
        verdicts = judge(images, [say(one) for one in wanted])
        seconds += time.process_time() - before
        right += sum(one.right for one in verdicts)
        squares += sum(one.residual for one in verdicts)
    return right / scenes, (squares / scenes) ** 0.5, scenes / seconds


def main(scenes: int = 2000, noise: str = "0,0.02,0.05,0.08", seed: int = 0) -> None:
    """Print the table."""
    title = f"{scenes} scenes, {platform.machine()}, numpy {np.__version__}"
    table = Table("noise", "right", "residual (RMS)", "images/s", title=title)
    for level in map(float, noise.split(",")):
        right, residual, speed = measured(scenes, level, seed)
        table.add_row(f"{level:g}", f"{right:.2%}", f"{residual:.4f}", f"{speed:.0f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
