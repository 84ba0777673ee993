"""Run folders, made small."""

from emag.lab.evaluate import run as running
from emag.lab.evaluate.spec import parse

SMALL = {"classes": ["frog", "ship", "cat"], "images": 5, "steps": 2, "batch_size": 2,
         "recipes": {"cfg": {"guidance_scale": 2.5}, "pag": {"guidance_scale": 2.5, "rules": [{"pag": {"scale": 1.5}}]}}}


def made(out, **changes):
    return running.run(parse({**SMALL, **changes}), str(out))


def bytes_of(folder):
    return {row["file"]: folder.storage.read(row["file"]) for row in folder.index().to_pylist()}
