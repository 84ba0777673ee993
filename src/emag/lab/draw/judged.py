"""A contact sheet with a verdict under each image: a tick or a cross, and in words what is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from ...shown import visible
from .sheets import enlarged, wrapped

PAD, GAP, LABEL, MARK = 12, 34, 150, 15
"""Pixels between cells, before a group of columns, of a row's label, of a tick."""

TITLE, HEAD, LINES = 40, 102, 2
"""Pixels of the title and of the headings; lines of words under an image."""

GREEN, RED, INK, DIM, PAPER = (22, 134, 62), (200, 38, 38), (20, 20, 20), (110, 110, 110), (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """An image and what is wrong in it, () where nothing is. faults None: it was not judged."""

    image: Image.Image
    faults: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Heading:
    """Over a column: its name, a line below it, and whether it begins a group, named by `group`."""

    name: str
    note: str = ""
    group: str = ""


def judged_sheet(rows: Sequence[Sequence[Cell]], headings: Sequence[Heading], labels: Sequence[str], title: str,
                 size: int = 128) -> Image.Image:
    """A grid of cells: one row per label, one column per heading. size: about how many pixels an image is enlarged to."""
    width, height = enlarged(rows[0][0].image, size).size
    lefts = _lefts(headings, width)
    line, top = height + 17 * LINES + 6 + PAD, TITLE + HEAD
    page = Image.new("RGB", (lefts[-1] + width + PAD, top + len(rows) * line), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((PAD, 9), visible(title), INK, _font(16))
    if any(cell.faults is not None for row in rows for cell in row):
        _draw_legend(draw, page.width, 11)
    for at, (heading, left) in enumerate(zip(headings, lefts)):
        _draw_heading(draw, heading, [row[at] for row in rows], left, TITLE, width)
    for row, label, y in zip(rows, labels, range(top, top + len(rows) * line, line)):
        draw.multiline_text((PAD, y + height // 2), wrapped(label, _font(15), LABEL - PAD), INK, _font(15), anchor="lm")
        for cell, left in zip(row, lefts):
            _draw_cell(page, draw, cell, (left, y), size)
    return page


def _lefts(headings: Sequence[Heading], width: int) -> list[int]:
    """Where each column begins."""
    places, x = [], LABEL + PAD
    for at, heading in enumerate(headings):
        x += GAP if heading.group and at else 0
        places.append(x)
        x += width + PAD
    return places


def _draw_heading(draw: ImageDraw.ImageDraw, heading: Heading, cells: Sequence[Cell], x: int, y: int, width: int) -> None:
    draw.text((x, y), visible(heading.group), DIM, _font(15))
    draw.text((x, y + 22), visible(heading.name), INK, _font(18), stroke_width=0.4)
    draw.text((x, y + 45), visible(heading.note), DIM, _font(13))
    known = [cell.faults for cell in cells if cell.faults is not None]
    if known:
        right = sum(not one for one in known)
        draw.text((x, y + 63), f"{right} of {len(known)} right", INK, _font(16), stroke_width=0.3)
        border = x + round(width * right / len(known))
        draw.rectangle((x, y + 84, x + width, y + 90), RED)
        if right:
            draw.rectangle((x, y + 84, border, y + 90), GREEN)


def _draw_legend(draw: ImageDraw.ImageDraw, right: int, y: int) -> None:
    """What a tick and a cross mean, ending at `right`."""
    for text, good in ((" not, and why", False), (" as asked", True)):
        right -= round(_font(15).getlength(text)) + MARK + PAD
        _draw_mark(draw, right, y, good)
        draw.text((right + MARK + 2, y - 2), text, INK, _font(15))


def _draw_cell(page: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, at: tuple[int, int], size: int) -> None:
    x, y = at
    image = enlarged(cell.image, size)
    page.paste(image, at)
    if cell.faults is None:
        return
    below, colour = y + image.height + 6, RED if cell.faults else GREEN
    draw.rectangle((x - 3, y - 3, x + image.width + 2, y + image.height + 2), outline=colour, width=3)
    _draw_mark(draw, x, below, right=not cell.faults)
    draw.multiline_text((x + MARK + 5, below - 2), _words(cell.faults, image.width - MARK - 5), RED, _font(14), spacing=1)


def _words(faults: Sequence[str], width: int) -> str:
    """As many of the faults as have room in `LINES`, and how many more there are."""
    for count in range(len(faults), 0, -1):
        more = [f"+{len(faults) - count} more"] if count < len(faults) else []
        text = wrapped("; ".join([*faults[:count], *more]), _font(14), width)
        if text.count("\n") < LINES:
            return text
    return "\n".join(wrapped("; ".join(faults), _font(14), width).split("\n")[:LINES]).rstrip(";")


def _draw_mark(draw: ImageDraw.ImageDraw, x: int, y: int, right: bool) -> None:
    """A tick or a cross of MARK pixels, drawn: the font has neither."""
    a, b = MARK * 0.1, MARK * 0.85
    if right:
        draw.line([(x + a, y + MARK * 0.5), (x + MARK * 0.38, y + b), (x + MARK, y + a)], GREEN, 3, "curve")
    else:
        draw.line([(x + a, y + a), (x + b, y + b)], RED, 3)
        draw.line([(x + a, y + b), (x + b, y + a)], RED, 3)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
