"""`emag show` and `emag again`: what made a PNG, and the same PNG once more."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import BadValue
from . import common as shared
from .common import command, out, table
from .outputs import file_or_folder
from .screen import say

Png = Annotated[Path, typer.Argument(help="A PNG written by emag, or a JSON file of emag text --out.")]


@command("emag show out/some.png", "emag show out/some.png --json", kept="nothing is kept or changed")
def show(image: Png, as_json: shared.Json = False) -> None:
    """Print the record in a PNG: model, rules, prompts, seeds, row and versions. Of ComfyUI's: what its graph says."""
    from ...records import png as images
    from ...records.graph import told

    if image.suffix.lower() == ".json":
        _show_text(image, as_json)
        return
    graph = images.read_graph(image)
    record = images.read_record(image) if graph is None else told(graph)
    if as_json:
        shared.show_json(record)
        return
    made = table("", "")
    made.show_header = False
    for name, text in described(record) if graph is None else _of_graph(record):
        made.add_row(name, text)
    out.print(made)


def _of_graph(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What a ComfyUI graph says, in words."""
    none = f"not given back: {found['unread']}" if "unread" in found else "no guidance of emag's"
    rules = ["\n".join(_rule(rule) for rule in one) for one in found["guidances"]] or [none]
    return [("made by", "ComfyUI"), *(("rules", one) for one in rules),
            *(("sampler", _plain(one)) for one in found["samplers"]), *(("text", one) for one in found["texts"])]


def described(record: dict[str, Any]) -> list[tuple[str, str]]:
    """A record in words, a line for each thing that a person asks of it; the image's own prompt and seed first."""
    from ..pages.catalogue import values

    call, row, model = dict(record.get("call", {})), record["row"], record["model"] or {}
    own = [(name, _own(call.pop(name), row)) for name in ("prompt", "class_labels", "negative_prompt") if name in call]
    seeds, rules = record.get("seeds"), record["rules"]
    source = {name: value for name, value in model.items() if value is not None and name != "model"}
    further = {name: value for name, value in record.items()
               if name not in ("model", "rules", "call", "seeds", "row", "versions", "unrecorded", "pipeline")}
    count = len(seeds) if isinstance(seeds, list) else 1
    found = [*own, ("seed", "" if seeds is None else _own(seeds, row)), ("image", f"{row + 1} of a batch of {count}"),
             ("model", f"{model.get('model', '')}" + (f" ({values(source)})" if source else "")),
             ("pipeline", str(record.get("pipeline", ""))),
             ("rules", "\n".join(_rule(rule) for rule in rules) or "none: the pipeline's own guidance"),
             *((name, _plain(value)) for name, value in {**call, **further}.items()),
             ("not recorded", ", ".join(record["unrecorded"])), ("versions", values(record.get("versions", {})))]
    return [(name.replace("_", " "), text) for name, text in found if text]


@command("emag again out/some.png", "emag again out/some.png -o out/same.png",
         "emag again out/some.png --gguf moved/net.gguf", "emag again story.json",
         kept="nothing was written; the same command starts again", without=("dtype",))
def again(
    image: Png,
    out_path: Annotated[Path, typer.Option("--out", "-o", help="Folder for the new PNG, or a name that ends in .png.")]
    = Path("out/again"),
    model: Annotated[str | None, typer.Option("--model", "-m", help="Where the model is now, if it has moved.")] = None,
    loading: shared.Loading = shared.ANY, as_json: shared.Json = False,
) -> None:
    """Make a PNG again from its own record: byte-identical on the same machine and versions; exit code 1 if it is another.

    The record remembers the whole batch the image was made in; that batch is run again, and its row written. What is said of
    the model takes the place of what the record says: for files that have moved. Other weights are refused.
    Of texts, all are made again, by the model of their record.
    """
    from ...records import png as images
    from ..draw import remake

    if image.suffix.lower() == ".json":
        moved = [f"--{name}" for name in ("model", *loading.given) if name != "device" and (model or name != "model")]
        if moved:
            raise BadValue(f"texts are made again by the model of their record: leave out {', '.join(moved)}")
        raise typer.Exit(_text_again(image, out_path, loading.device, as_json))
    record, there = images.read_with_image(image)
    try:
        rules = remake.check(record)
    except BadValue as error:
        raise BadValue(f"{image} cannot be made again: {error}") from None
    folder, file = file_or_folder(out_path)
    place = remake.moved(record, {"model": model, **loading.given})
    for source in remake.sources(place):
        say(f"{image} names {source}, which is loaded now")
    for package in remake.older(record):
        say(f"made with {package}: the picture may differ")
    made, now = _drawn(place, rules, loading)
    path = images.write(made, file, now) if file else images.keep(made, folder, now)
    same = images.same_pixels(made, there)
    if as_json:
        shared.show_json({"image": str(path), "identical": same, "differing": _differing(record, now)})
    else:
        out.print(f"{path}: {_verdict(same, path, image, _differing(record, now))}")
    raise typer.Exit(0 if same else 1)


def _show_text(path: Path, as_json: bool) -> None:
    """The record of texts, in words."""
    from ..texts import read_record

    _, record, texts = read_record(path)
    if as_json:
        shared.show_json(record)
        return
    made = table("", "")
    made.show_header = False
    own = [*(("prompt", one) for one in record["prompts"]), *(("text", one) for one in texts)]
    rules = "\n".join(_rule(rule) for rule in record["rules"]) or "none: plain decoding"
    further = {name: value for name, value in record.items() if name not in ("prompts", "rules", "unrecorded")}
    for name, text in [*own, ("rules", rules), *((name, _plain(value)) for name, value in further.items())]:
        made.add_row(name, text)
    out.print(made)


def _text_again(path: Path, out_path: Path, device: str | None, as_json: bool) -> int:
    """Texts once more from their record; the exit code."""
    from .. import texts
    from ..draw import remake
    from .outputs import file_in
    from .text import write_texts

    job, record, there = texts.read_record(path)
    file = file_in(out_path, path.name)
    if file.resolve() == path.resolve():
        raise BadValue(f"{file} is the record itself: give another name or folder")
    say(f"{path} names the model {job.model!r}, which is loaded now")
    for package in remake.older(record):
        say(f"made with {package}: the texts may differ")
    with remake.refused():
        made = texts.again(job, record, device)
    write_texts(file, made)
    same, differing = made["texts"] == there, _differing(record, made["record"])
    if as_json:
        shared.show_json({"texts": str(file), "identical": same, "differing": differing})
    else:
        why = f" ({', '.join(differing)} differ)" if differing else ""
        out.print(f"{file}: {'the texts of' if same else 'NOT the texts of'} {path}{why}")
    return 0 if same else 1


def _drawn(record: dict[str, Any], rules: tuple[Any, ...], loading: shared.Loading) -> tuple[Any, dict[str, Any]]:
    """The image of a record once more, and the record that it gets now."""
    from ...records.png import picture
    from ...records.record import SOURCE
    from ..draw import remake
    from ..draw.sampling import draw_images

    source = {key: record["model"].get(key) for key in SOURCE if key != "model"}
    pipe = shared.open_pipeline(record["model"]["model"], replace(loading, **source))
    remake.fit(pipe, record)
    with shared.progress(1, "again") as (on_step, _), remake.refused():
        made, run = draw_images(pipe, record["call"], record["seeds"], rules, on_step, record.get("conditions"))
    if record["row"] >= len(made):
        raise BadValue(f"the record names row {record['row']}, and {len(made)} image(s) were made")
    return picture(made[record["row"]]), {**(run.record or {}), "row": record["row"]}


def _differing(record: dict[str, Any], now: dict[str, Any]) -> list[str]:
    from ..draw import remake

    return [*remake.differences(record, now), *remake.older(record)]


def _verdict(same: bool, path: Path, image: Path, differing: list[str]) -> str:
    if same and path.read_bytes() == image.read_bytes():
        return f"byte-identical to {image}"
    why = f" ({', '.join(differing)} differ)" if differing else ""
    return f"every pixel as in {image}, the file is another{why}" if same else f"NOT identical to {image}{why}"


def _own(value: Any, row: int) -> str:
    """What of a batch's list belongs to one row."""
    return str(value[min(row, len(value) - 1)] if isinstance(value, list) and value else value)


def _rule(rule: dict[str, dict[str, Any]]) -> str:
    from ..pages.catalogue import values

    return "; ".join(f"{name}: {values(given)}" if given else name for name, given in rule.items())


def _plain(value: Any) -> str:
    from ..pages.catalogue import values

    if isinstance(value, dict):
        return values(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
