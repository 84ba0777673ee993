"""What is kept: pictures with their recipe, settings read from a picture, and the same in a shell and in Python."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ....errors import BadValue
from ..album import Album
from ..dropped import read
from ..job import Drawing, Sight
from ..model import Model
from ..told import python, shell
from .asked import Form, filled
from .events import AT_ONCE
from .spoken import line, spoken


@dataclass(frozen=True)
class Kept:
    """The components that a finished run fills."""

    model: Model
    album: Album
    download: gr.DownloadButton
    shell: gr.Code
    python: gr.Code
    gallery: gr.Gallery
    paths: gr.State

    @property
    def all(self) -> list[Any]:
        """In the order in which `of` gives their values."""
        return [self.download, self.shell, self.python, self.gallery, self.paths]

    def of(self, sight: Sight, paths: list[str]) -> tuple[Any, ...]:
        """What a run leaves."""
        drawn: Drawing = sight.guided
        paths = self.album.added(drawn, paths)
        try:
            words = shell(self.model, sight.ask)
        except BadValue as error:
            words = f"# {error}"
        shown = [(path, f"{len(paths) - at}") for at, path in enumerate(paths)]
        return paths[0], words, python(self.model, sight.ask), shown, paths


@dataclass(frozen=True)
class Loading:
    """Settings from a picture."""

    model: Model
    album: Album

    def dropped(self, data: bytes | None) -> tuple[Any, ...]:
        """From a file that was dropped: new values of the form, and what to say."""
        with spoken():
            if not data:
                return (gr.skip(),) * 7
            found = read(data, "the picture", self.model.usual)
            notes = "".join(f"<li>{line(note)}</li>" for note in found.notes)
            named = f", made with {line(found.model)}" if found.model else ""
            return *filled(found), f"Read from a picture of {line(found.source)}{named}.<ul>{notes}</ul>"

    def picked(self, paths: list[str], event: gr.SelectData) -> tuple[Any, ...]:
        """From a picture of this session."""
        return self.dropped(self.album.read(paths[int(event.index)]))


def kept_tab(model: Model, form: Form, album: Album) -> Kept:
    """Lay it out."""
    loading = Loading(model, album)
    with gr.Row(equal_height=True):
        download = gr.DownloadButton("Download the guided PNG with its recipe", interactive=False, elem_id="download")
    with gr.Accordion("In a shell, in Python", open=False, elem_id="words"):
        words = gr.Code("", language="shell", label="In a shell", interactive=False, elem_id="in-shell", wrap_lines=True)
        lines = gr.Code("", language="python", label="In Python", interactive=False, elem_id="in-python", wrap_lines=True)
    with gr.Row():
        gallery = gr.Gallery(label="This session, newest first: pick one to load its settings", columns=4, height=190,
                             object_fit="contain", interactive=False, buttons=[], allow_preview=False, elem_id="history",
                             format="png", type="filepath")
        drop = gr.File(label="Drop a PNG of emag, ComfyUI or AUTOMATIC1111 to load its settings", file_types=[".png"],
                       type="binary", height=190, elem_id="drop")
    said = gr.HTML("", elem_id="read")
    paths = gr.State([])
    changes = [*form.all, said]
    drop.upload(loading.dropped, drop, changes, **AT_ONCE)
    gallery.select(loading.picked, paths, changes, **AT_ONCE)
    return Kept(model, album, download, words, lines, gallery, paths)
