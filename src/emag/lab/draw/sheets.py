"""Contact sheets: labelled grids of images, enlarged without smoothing."""

from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from ...shown import visible

PAD = 6


def sheet(rows: Sequence[Sequence[Image.Image | None]], columns: Sequence[str], labels: Sequence[str], title: str = "",
          cell: int = 128) -> Image.Image:
    """A grid of images: one row per label, one column per heading; images enlarged to about `cell` pixels (nearest)."""
    font, small = ImageFont.load_default(13), ImageFont.load_default(12)
    shown = [[enlarged(image, cell) if image else None for image in row] for row in rows]
    first = next(image for row in shown for image in row if image)
    width, height = first.size
    heads = [wrapped(text, small, width) for text in columns]
    head = max(text.count("\n") + 1 for text in heads) * 15 + PAD
    labels = [visible(text) for text in labels]
    left = max([_length(text, small) for text in labels], default=0) + 2 * PAD
    across = left + len(columns) * (width + PAD)
    title = wrapped(title, font, across - 2 * PAD)
    top = (18 * (title.count("\n") + 1) + PAD if title else 0) + head
    page = Image.new("RGB", (across, top + len(shown) * (height + PAD)), "white")
    draw = ImageDraw.Draw(page)
    draw.multiline_text((PAD, 4), title, fill="black", font=font, spacing=3)
    for j, text in enumerate(heads):
        draw.multiline_text((left + j * (width + PAD), top - head), text, fill="black", font=small, spacing=2)
    for i, row in enumerate(shown):
        y = top + i * (height + PAD)
        draw.text((PAD, y + height // 2 - 6), labels[i], fill="black", font=small)
        for j, image in enumerate(row):
            if image:
                page.paste(image, (left + j * (width + PAD), y))
    return page


def enlarged(image: Image.Image, cell: int) -> Image.Image:
    factor = max(1, round(cell / max(image.size)))
    if max(image.size) > 2 * cell:
        return image.resize((cell, round(cell * image.height / image.width)), Image.Resampling.LANCZOS)
    return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A text in lines of at most `width` pixels; a longer word is cut into pieces."""
    lines = [""]
    words = (piece for word in visible(text).replace(",", ", ").split() for piece in _pieces(word, font, width))
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if _length(longer, font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _pieces(word: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> Iterator[str]:
    while _length(word, font) > width and len(word) > 1:
        fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or _length(word[:n], font) <= width)
        yield word[:fits]
        word = word[fits:]
    yield word


def _length(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(font.getlength(text)) + 1
