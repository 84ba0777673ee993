"""The run folder, local or at any fsspec URL: the contract between runs, metrics, sweeps and reports.

    run.json                        what is made, by what
    prompts.parquet                 the prompts, one row each
    images/<recipe>/000012.png
    index/<recipe>/000012.parquet   one part per finished batch, named by its first number

A part of the index is written after its images. Images without a row there are unfinished work, and made again.
Files of other names, or in other folders, are not ours: they are neither read nor removed.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from PIL import Image

from ...errors import BadValue
from ...files import parsed
from ..draw.columns import Column
from .pictures import read_rgb
from .prompts import Prompt
from .recipes import NAME
from .spec import RunSpec, parse
from .storage import Storage

FORMAT = 1
RUN, PROMPTS, IMAGES, INDEX_FOLDER = "run.json", "prompts.parquet", "images", "index"
INDEX = pa.schema([
    ("number", pa.int64()), ("recipe", pa.string()), ("prompt", pa.string()), ("category", pa.string()),
    ("class", pa.string()), ("seed", pa.int64()), ("model", pa.string()), ("versions", pa.string()),
    ("picks", pa.list_(pa.int32())), ("evaluations", pa.int64()), ("seconds", pa.float64()), ("sha256", pa.string()),
    ("file", pa.string()),
])
"""picks: the block picked at each evaluation of the network, null where none was. evaluations: of blocks, per image.
seconds: of the batch, per image. versions: JSON. file: below the run folder."""
OWN = (PROMPTS, IMAGES, INDEX_FOLDER, "features", "votes", "metrics.json", "sweep.json")
"""What a run and what follows it write into its folder, beside run.json."""
FILE = re.compile(r"[0-9]{6,}\.(png|parquet)")
"""Names of images and of parts of the index."""
KINDS: dict[str, Any] = {"spec": dict, "run": str, "versions": dict, "prompts_sha256": str, "model_config_sha256": str,
                         "images": int, "recipes": dict}
MENDS = {PROMPTS: "the emag run command that began the run writes it again"}
LISTED = pa.schema([("text", pa.string()), ("category", pa.string()), ("label", pa.string())])


class RunFolder:
    """A run on disk, or behind a URL."""

    def __init__(self, url: str):
        self.url = str(url)
        self.storage = Storage(*url_to_fs(self.url))

    @property
    def exists(self) -> bool:
        """True where a run was begun."""
        return self.storage.exists(RUN)

    @cached_property
    def run(self) -> dict[str, Any]:
        """What run.json holds. Raises `BadValue` where it is not there, or not of this format."""
        if not self.exists:
            raise BadValue(f"{self.url} is no run folder: it has no {RUN}")
        try:
            found = parsed(self.storage.read(RUN))
        except ValueError as error:
            raise BadValue(f"{RUN} in {self.url} is damaged ({error}): put it back from a copy, or begin another folder; "
                           "the images are not touched") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise BadValue(f"{RUN} in {self.url} is not of format {FORMAT}")
        held = {**found, **(found["spec"] if isinstance(found.get("spec"), dict) else {})}
        odd = [key for key, kind in KINDS.items() if not isinstance(held.get(key, kind()), kind)]
        odd += [key for key in ("spec", "images", "recipes") if key not in held]
        if odd:
            raise BadValue(f"{RUN} in {self.url} is damaged: {', '.join(odd)} is not what emag run writes")
        return found

    @cached_property
    def spec(self) -> RunSpec:
        """What the run makes, with its prompts. Raises `BadValue` where its files are damaged."""
        return parse(self.run["spec"], self.prompts)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The prompts of the run. Raises `BadValue` where they are gone or damaged."""
        _ = self.run
        if not self.storage.exists(PROMPTS):
            raise BadValue(f"{PROMPTS} in {self.url} is not there: {MENDS[PROMPTS]}")
        rows = self._table(PROMPTS, self.storage.read(PROMPTS), LISTED).to_pylist()
        if not all(isinstance(row["text"], str) for row in rows):
            raise BadValue(f"{PROMPTS} in {self.url} has a row without text: {MENDS[PROMPTS]}")
        return [Prompt(**row) for row in rows]

    def check(self) -> None:
        """Raise `BadValue` where a run cannot begin here: files of a run, or of somebody else, that no run.json tells of."""
        there = [] if self.exists else [name for name in OWN if name in self.storage.names("")]
        if there:
            raise BadValue(f"{self.url} has {', '.join(there)} and no {RUN}, which would tell what they are: give another "
                           "folder, or put it back")

    def begin(self, spec: RunSpec, facts: dict[str, Any]) -> None:
        """Write what the run makes, and by what: at its start, and where it grows."""
        data = {"format": FORMAT, "spec": spec.as_data(), **facts}
        self.storage.write(RUN, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
        rows = [{"text": one.text, "category": one.category, "label": one.label} for one in spec.prompts]
        self.storage.write(PROMPTS, _parquet(rows, LISTED))
        self.forget()

    def forget(self) -> None:
        """Read run.json and the prompts again when they are next asked for."""
        for name in ("run", "spec", "prompts"):
            self.__dict__.pop(name, None)

    def recipes(self) -> list[str]:
        """Names of the recipes."""
        return [one.label for one in self.spec.recipes]

    def recipe_of(self, name: str) -> Column:
        """A recipe by name: its guidance scale, rules and sampler."""
        return self.spec.recipe(name)

    def parts(self, recipe: str) -> list[str]:
        """Parts of the index of a recipe, in order of their first numbers."""
        names = self.storage.names(f"{INDEX_FOLDER}/{recipe}")
        parts = [name for name in names if FILE.fullmatch(name) and name.endswith(".parquet")]
        return [f"{INDEX_FOLDER}/{recipe}/{name}" for name in sorted(parts, key=lambda name: (len(name), name))]

    def index(self, recipe: str | None = None) -> pa.Table:
        """Rows of the finished images, of one recipe or of all in turn, sorted by number. Columns: `INDEX`."""
        names = self.recipes() if recipe is None else [self.recipe_of(recipe).label]
        return pa.concat_tables([self._rows(name) for name in names])

    def _rows(self, recipe: str) -> pa.Table:
        parts = self.parts(recipe)
        tables = [self.part(name, data) for name, data in self.storage.read_all(parts)]
        return pa.concat_tables([INDEX.empty_table(), *tables]).sort_by("number").combine_chunks()

    def part(self, name: str, data: bytes) -> pa.Table:
        """One part of the index. Raises `BadValue` where it is damaged."""
        return self._table(name, data, INDEX)

    def _table(self, name: str, data: bytes, schema: pa.Schema) -> pa.Table:
        mends = MENDS.get(name, "emag verify --repair removes it, and emag run makes it again")
        try:
            table = pq.read_table(io.BytesIO(data))
        except Exception as error:  # damaged files fail in many ways
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise BadValue(f"{name} in {self.url} is damaged ({said[:200]}): {mends}") from None
        if not table.schema.equals(schema):
            raise BadValue(f"{name} in {self.url} has other columns than emag run writes: {mends}")
        return table

    def missing(self) -> dict[str, list[int]]:
        """Numbers of the images that are not finished, by recipe."""
        wanted = range(self.spec.total)
        done = {name: set(self._rows(name)["number"].to_pylist()) for name in self.recipes()}
        return {name: [number for number in wanted if number not in numbers] for name, numbers in done.items()}

    def commit(self, recipe: str, rows: Sequence[dict[str, Any]], images: Sequence[bytes]) -> None:
        """Store a finished batch: its images, then its part of the index. A row's file and sha256 are filled in."""
        full = []
        for row, data in zip(rows, images, strict=True):
            name = image_name(recipe, row["number"])
            self.storage.write(name, data)
            full.append({**row, "recipe": recipe, "file": name, "sha256": hashlib.sha256(data).hexdigest()})
        self.storage.write(f"{INDEX_FOLDER}/{recipe}/{full[0]['number']:06d}.parquet", _parquet(full, INDEX))

    def drafts(self) -> list[str]:
        """Drafts that a killed run left where it writes."""
        names = [name for name in (self.run["spec"]["recipes"] if self.exists else ()) if NAME.fullmatch(name)]
        return self.storage.drafts(["", *(f"{top}/{name}" for top in (IMAGES, INDEX_FOLDER) for name in names)])

    def image(self, recipe: str, number: int) -> Image.Image:
        """One image, RGB."""
        name = image_name(recipe, number)
        return read_rgb(self.storage.read(name), f"{name} in {self.url}")

    def images(self, recipe: str, batch: int = 256, limit: int | None = None) -> Iterator[np.ndarray]:
        """The finished images of a recipe in order of their numbers, uint8 [n, height, width, 3], `batch` at a time."""
        numbers = self.index(recipe)["number"].to_pylist()[:limit]
        for start in range(0, len(numbers), batch):
            yield np.stack([np.asarray(self.image(recipe, number)) for number in numbers[start:start + batch]])


def image_name(recipe: str, number: int) -> str:
    """Where an image lies below its run folder."""
    return f"{IMAGES}/{recipe}/{number:06d}.png"


def _parquet(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), sink)
    return sink.getvalue()
