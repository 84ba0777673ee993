"""A run's report as a picture: a row for each block, a column for each evaluation, and under it the size of the effect."""

import torch
from PIL import Image, ImageDraw

from .report import Report

CELL, LEFT, TOP, BARS = 22, 74, 40, 80
PAPER, INK, FAINT, PICKED, EFFECT = "#ffffff", "#202428", "#e4e7ea", "#c2410c", "#1d4ed8"


def picture(report: Report) -> Image.Image:
    """Where a run worked at each evaluation (the darker, the more images), and how far its weak prediction was."""
    stats, blocks = report.stats, report.blocks
    count = len(stats.effects)
    made = Image.new("RGB", (LEFT + CELL * max(count, 14) + 12, TOP + CELL * len(blocks) + BARS + 30), PAPER)
    draw = ImageDraw.Draw(made)
    price = f"{stats.evaluations / stats.clean - 1:+.1%}" if stats.clean else "none"
    draw.text((8, 6), f"{', '.join(stats.rules)} on {stats.model}", INK)
    draw.text((8, 20), f"{stats.evaluations} block evaluations per image, {price} over the model alone", INK)
    for row, block in enumerate(blocks):
        draw.text((8, TOP + CELL * row + 5), f"block {block}", INK)
        for step in range(count):
            _cell(draw, step, row, report.worked[step].get(block, 0.0))
    _bars(draw, report, TOP + CELL * len(blocks) + 8)
    return made


def pixels(made: Image.Image) -> torch.Tensor:
    """A picture as ComfyUI has it: [1, height, width, 3] in [0, 1]."""
    data = torch.frombuffer(bytearray(made.tobytes()), dtype=torch.uint8)
    return data.view(1, made.height, made.width, 3).float() / 255


def _cell(draw: ImageDraw.ImageDraw, step: int, row: int, share: float) -> None:
    x, y = LEFT + CELL * step, TOP + CELL * row
    draw.rectangle((x, y, x + CELL - 3, y + CELL - 3), fill=_mixed(FAINT, PICKED, share))


def _bars(draw: ImageDraw.ImageDraw, report: Report, top: int) -> None:
    """The mean effect of each evaluation, the tallest as high as there is room."""
    sizes = [sum(row) / len(row) if row else 0.0 for row in report.stats.effects]
    most = max(sizes, default=0.0) or 1.0
    draw.text((8, top), "effect", INK)
    draw.text((8, top + 12), f"max {max(sizes, default=0.0):.2g}", INK)
    for step, size in enumerate(sizes):
        x, high = LEFT + CELL * step, round(BARS * size / most)
        draw.rectangle((x, top + BARS - high, x + CELL - 3, top + BARS), fill=EFFECT if high else FAINT)


def _mixed(one: str, other: str, share: float) -> tuple[int, ...]:
    a, b = (tuple(int(color[i:i + 2], 16) for i in (1, 3, 5)) for color in (one, other))
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
