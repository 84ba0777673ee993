"""A run folder to report on."""

import json
from dataclasses import asdict

import numpy as np
from PIL import Image

from emag.lab.evaluate.folder import RunFolder
from emag.lab.evaluate.metrics.measure import Result
from emag.lab.evaluate.metrics.stored import STORED
from emag.lab.evaluate.prompts import Prompt
from emag.lab.evaluate.spec import parse
from emag.lab.evaluate.tasks import task
from emag.lab.evaluate.work import png

EVIL = '<script>document.title = "evil"</script><img src=x onerror="alert(1)">'
NAMES = ("cfg", "emag", "pag")
CLASSES = ("cat", "frog", "ship")
PICKED = [None, 3, 4, None]


def noise(recipe, number):
    rng = np.random.default_rng([NAMES.index(recipe), number])
    return png(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)), {"recipe": recipe})


def folder(path, images=14, recipes=NAMES):
    """A run as `emag run` leaves it, its images noise."""
    prompts = [Prompt(f"a {name} {EVIL}" if name == "frog" else f"a {name}", EVIL if name == "frog" else "animal", name)
               for name in CLASSES]
    spec = parse({"prompts": [one.text for one in prompts], "images": images, "steps": 4, "batch_size": 4,
                  "recipes": {name: {"guidance_scale": 2.5} for name in recipes}}, prompts)
    run = RunFolder(str(path))
    run.begin(spec, {"run": "0", "versions": {"emag": "0.1.0"}})
    for recipe in recipes:
        for start in range(0, images, 4):
            rows = [row(spec, recipe, number) for number in range(start, min(start + 4, images))]
            run.commit(recipe, rows, [noise(recipe, one["number"]) for one in rows])
    return run


def row(spec, recipe, number):
    one, cost = task(spec, number), NAMES.index(recipe) + 1
    return {"number": number, "prompt": one.prompt.text, "category": one.prompt.category, "class": one.prompt.label,
            "seed": one.seed, "model": "tiny", "versions": "{}", "picks": PICKED if recipe == "emag" else None,
            "evaluations": 100 * cost, "seconds": cost + 0.1 * (number // 4)}


def results(n=14):
    own = {"cfg": (2.0, 0.5), "emag": (1.0, 0.9), "pag": (1.5, 0.4)}
    versions = {"fd": "x; Frechet distance; ref", "accuracy": "x; class accuracy"}
    found = [Result(name, metric, value, value - 0.1, value + 0.1, n, version, metric == "accuracy")
             for name, values in own.items() for value, (metric, version) in zip(values, versions.items())]
    return [*found, Result("emag", "fd", -1.0, -1.5, -0.5, n, versions["fd"], False, "cfg"),
            Result("pag", "fd", -0.5, -1.5, 0.5, n, versions["fd"], False, "cfg"),
            Result("pag", "accuracy", -0.1, -0.2, -0.05, n, versions["accuracy"], True, "cfg")]


def keep(run, found):
    run.storage.write(STORED, json.dumps([asdict(one) for one in found]).encode())
    return run
