"""Runs a published protocol and measures it as published."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

from ...errors import BadValue
from ...hosts.load import MODELS
from ...models.folder import first_line
from .metrics import frechet, measure, reference, stored
from .metrics.extractors import EXTRACTORS
from .metrics.features import extract
from .metrics.measure import Result
from .metrics.reference import Reference
from .metrics.table import METRICS
from .protocol import Protocol, read_captions
from .run import Total, run

INDEX = "model_index.json"


def reproduce(protocol: Protocol, out: str, captions: str | None = None, statistics: str | None = None, check: bool = False,
              device: str = "cpu", engine: str | None = None, workers: int | None = None,
              begun: Total | None = None) -> list[Result]:
    """Make the images of a protocol in the folder `out`, and measure them; the same call finishes one that was killed.

    captions, statistics: files of the prompts and of the reference. check: `protocol` is one of `Protocol.check`, for which
    the reference is made up; files that are given are read all the same. device: of the metrics.
    Raises `BadValue`, before any image, that lists all that is missing.
    """
    lacking = missing(protocol, captions, statistics, check, device)
    if lacking:
        raise BadValue(f"{protocol.name} needs what is not here:\n- " + "\n- ".join(lacking))
    known = made_up() if check else reference.read(str(statistics))
    plan = measure.plan(protocol.metrics, known, device=device)
    folder = run(protocol.spec(captions, out), None, engine, workers, begun)
    results = measure.measure(folder, plan, protocol.recipes)
    stored.add(folder, results)
    return results


def missing(protocol: Protocol, captions: str | None, statistics: str | None, check: bool, device: str = "cpu") -> list[str]:
    """What keeps a protocol from being run, each with what to do about it."""
    tries: list[Callable[[], object]] = [partial(weights, protocol.model)]
    if check:
        tries += [partial(read_captions, captions, 1)] if captions else []
        tries += [partial(reference.read, statistics)] if statistics else []
    else:
        tries += [partial(protocol.spec, captions, "."), partial(_statistics, statistics)]
    tries += [EXTRACTORS[name](device).check for name in dict.fromkeys(METRICS[name].extractor for name in protocol.metrics)]
    return [text for one in tries for text in _failure(one)]


def weights(model: str) -> None:
    """Raise `BadValue` where a model is neither embedded, a folder, cached, nor to be had from the hub."""
    if model in MODELS or Path(model).expanduser().exists() or isinstance(try_to_load_from_cache(model, INDEX), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(model, INDEX), timeout=10)
    except Exception as error:  # no network, no such model, or its licence is not accepted: one class each
        raise BadValue(f"weights: {model} is not here and cannot be fetched ({first_line(error)}): accept its licence on "
                       "the hub and log in with hf auth login, or give a local folder with --model") from error


def made_up(images: int = 64) -> Reference:
    """Statistics of noise under the random extractor: something to compare a check with."""
    extractor = EXTRACTORS["random"]("cpu")
    noise = np.random.default_rng(0).integers(256, size=(images, 32, 32, 3), dtype=np.uint8)
    found = extract([noise], extractor, [""] * images)["features"]
    return Reference(frechet.moments(found), found, extractor.version, "made-up")


def _statistics(file: str | None) -> None:
    """Raise `BadValue` where reference statistics are not given, or cannot be read."""
    if file is None:
        raise BadValue("reference statistics: give --reference FILE, an npz with mu and sigma of Inception features of the "
                       "real images: ADM's file for ImageNet, or one made by emag reference --extractor inception")
    reference.read(file)


def _failure(one: Callable[[], object]) -> list[str]:
    try:
        one()
    except BadValue as error:
        return [str(error)]
    return []
