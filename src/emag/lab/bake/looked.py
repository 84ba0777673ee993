"""What was learnt, to look at: images that no lesson had, without guidance, with the adapter, and under the teacher."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...files import whole
from ...hosts.lookup import denoisers, host_of
from ..draw.sampling import draw_images
from ..draw.sheets import sheet
from .adapter import NAME
from .work import Teacher

COUNT = 6
"""Images of a column."""


def write_sheet(one: Teacher, path: Path) -> Path:
    """Draw the first images held out in three columns; the adapter is in the pipeline of `one`. The path."""
    host, numbers = host_of(one.pipe), range(one.images, one.images + min(COUNT, one.held))
    call, seeds = one.call(numbers)
    plain = {**call, **({host.scale: host.off} if host.scale else {})}
    with _adapter(one.pipe, on=False):
        none, _ = draw_images(one.pipe, plain, seeds, ())
        taught, _ = draw_images(one.pipe, call, seeds, one.rules)
    with _adapter(one.pipe, on=True):
        baked, _ = draw_images(one.pipe, plain, seeds, ())
    page = sheet(list(zip(none, baked, taught)), ["no guidance", "adapter", "teacher"], list(call[host.prompt]),
                 "the same prompts and noise; no lesson had them")
    with whole(path) as draft:
        page.save(draft, format="PNG")
    return path


@contextmanager
def _adapter(pipe: Any, on: bool) -> Iterator[None]:
    """The baked adapter on or off, until the block ends; after it, on."""
    module: Any = denoisers(pipe, host_of(pipe))[0]
    if not on:
        module.disable_adapters()
    try:
        yield
    finally:
        module.enable_adapters()
        module.set_adapter(NAME)
