"""A class wanted, by energies and by CFG at equal evaluations, on `tiny`: python bench/energy_steer.py --data FOLDER.

Energies steer unconditional runs by the embedded classifier. Another classifier, trained here on the same images with other
widths, seed and activation, says how often the class came out, and gives features for the Frechet distance to true images of
the class. An evaluation that is differentiated counts as three: forward, and twice that backward. Gradients of the
classifier itself are not counted: it is a fortieth of the network; seconds hold them. Ended at any moment, it goes on where
it was: images are kept in `--kept`, five at a time. Settings were chosen on other seeds than those judged: --first 10000.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

import emag
from emag.lab.draw.sheets import sheet
from emag.lab.evaluate.metrics.frechet import FrechetTo, moments
from emag.lab.evaluate.metrics.jackknife import Jackknife, wilson
from emag.lab.labelled import Images
from emag.lab.train.classifier import ClassifierSettings, read, recognised, save, train
from emag.models.classifier import CARD, Classifier, load_classifier
from emag.scores import OfClass, classes

BACKWARD = 2
"""What a backward pass costs beside a forward one."""
THROUGH = {"where": "next", "through_network": True}
FEW = 5
"""Images that are drawn together, and kept."""
TFG = {**dict(emag.Energy.preset("tfg-cifar10", "").__dict__), "score": None}


@dataclass(frozen=True)
class Arm:
    """price: evaluations a step. cfg: the scale of CFG, None for runs without a prompt. energy: settings of the energy."""

    price: int
    cfg: float | None = None
    energy: dict[str, Any] = field(default_factory=dict)


ARMS = {
    "nothing wanted": Arm(1), "cfg 2.5": Arm(2, 2.5), "cfg 4": Arm(2, 4.0),
    "mpgd 0.1": Arm(1, energy={"where": "next", "normalise": "rms", "strength": 0.1}),
    "dps 2": Arm(4, energy={**THROUGH, "strength": 2.0}), "dps 8": Arm(4, energy={**THROUGH, "strength": 8.0}),
    "dps 8, 4 views": Arm(4, energy={**THROUGH, "strength": 8.0, "augment": 4}), "tfg-cifar10": Arm(4, energy=TFG)}
"""By name; the number of an energy is its strength, and views are those over which Dreamguider averages the score."""


@dataclass(frozen=True)
class Made:
    """Images [n, 3, 32, 32] in [0, 1] of one class, and what one of them took: forward and backward passes, seconds."""

    images: torch.Tensor
    forward: float
    backward: float
    seconds: float


def draw(pipe: Any, arm: Arm, label: str, seeds: range, budget: int) -> Made:
    """`seeds` images of one class by `arm`."""
    prompt = "" if arm.cfg is None else f"a photo of a {label}"
    rules = [emag.CFG(arm.cfg)] if arm.cfg else []
    rules += [emag.Energy(**{**arm.energy, "score": f"classifier:{label}"})] if arm.energy else []
    call = {"num_inference_steps": max(2, budget // arm.price), "output_type": "pt", "guidance_scale": arm.cfg or 1.0,
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
    began = time.process_time()
    with emag.guide(pipe, *rules) as run:
        images = pipe([prompt] * len(seeds), **call).images.float()
    seconds, depth = time.process_time() - began, len(pipe.transformer.transformer_blocks)
    if run.latest is None:  # without rules there is nothing to count but the pipeline's own steps
        return Made(images, call["num_inference_steps"], 0, seconds / len(seeds))
    return Made(images, run.stats.evaluations / depth, run.stats.backward / depth, seconds / len(seeds))


def kept(folder: Path, pipe: Any, arm: Arm, label: str, seeds: range, budget: int) -> Made:
    """`draw`, some images at a time; those that are in `folder` already are not drawn again."""
    parts, place = [], folder / hashlib.sha256(f"{arm} {budget} {label}".encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    for at in range(0, len(seeds), FEW):
        some = seeds[at:at + FEW]
        path = place / f"{some[0]}-{len(some)}.pt"
        if not path.is_file():
            torch.save(vars(draw(pipe, arm, label, some, budget)), path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)
        parts.append(Made(**torch.load(path, weights_only=True)))
    means = {name: float(np.mean([getattr(one, name) for one in parts])) for name in ("forward", "backward", "seconds")}
    return Made(torch.cat([one.images for one in parts]), **means)


def judge(folder: Path, data: Path, epochs: int) -> Classifier:
    """A classifier that did not steer; trained once, then read from `folder`."""
    if not (folder / CARD).is_file():
        settings = ClassifierSettings(epochs=epochs, widths=(32, 64, 128), activation="relu", seed=7)
        model = train(read(data, "train"), len(classes()), settings).half().float()
        right = float(recognised(model, read(data, "test")).mean())
        save(model, folder, {"classes": list(classes()), "test_accuracy": right, **asdict(settings)})
    return load_classifier(folder)[0]


def seen(model: Classifier, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, width] and the class [n] that a judge sees in images [n, 3, 32, 32] in [0, 1]."""
    parts = [model.outputs(part.permute(0, 2, 3, 1).mul(255).round().byte().numpy()) for part in images.split(500)]
    return torch.cat([p.features for p in parts]).numpy(), torch.cat([p.logits.argmax(1) for p in parts]).numpy()


def distance(found: list[np.ndarray], true: list[FrechetTo]) -> Jackknife:
    """The mean over classes of the Frechet distance within the class, and what each image moves it."""
    whole = [there.to(moments(features)) for features, there in zip(found, true)]
    moved = [[own - there.to(moments(np.delete(features, at, 0))) for at in range(len(features))]
             for features, there, own in zip(found, true, whole)]
    return Jackknife(float(np.mean(whole)), np.concatenate(moved) / len(true))


def of_class(images: Images, at: int) -> torch.Tensor:
    """True images [n, 3, 32, 32] of one class, in [0, 1]."""
    return images.pixels[images.labels == at].float() / 255


def row(model: Classifier, made: list[Made], true: list[FrechetTo],
        base: Jackknife | None) -> tuple[dict[str, Any], Jackknife]:
    """The numbers of one arm, its images by class."""
    told = [seen(model, one.images) for one in made]
    right = float(np.mean([said == at for at, (_, said) in enumerate(told)]))
    steered = float(np.mean([(OfClass(label)(one.images) > np.log(0.5)).float().mean()
                             for label, one in zip(classes(), made)]))
    far = distance([features for features, _ in told], true)
    total = sum(len(one.images) for one in made)
    means = {name: float(np.mean([getattr(one, name) for one in made])) for name in ("forward", "backward", "seconds")}
    loss = far.minus(base) if base is not None else None
    return {"wanted": right, "wanted_95": wilson(right, total), "by_steering": steered, "distance": far.value,
            "distance_95": far.ends, "over_cfg": loss and loss.value, "over_cfg_95": loss and loss.ends, **means}, far


def picture(rows: dict[str, list[Made]]) -> Image.Image:
    """Two images of each class in a row for each arm, by its name; each pixel twice as large."""
    columns = [name for label in classes() for name in (label, "")]
    cells = [[_image(one) for of in made for one in of.images[:2]] for made in rows.values()]
    return sheet(cells, columns, list(rows), cell=64)


def _image(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).mul(255).round().byte().numpy())


def table(found: dict[str, Any]) -> str:
    """The page: what was done, and a row for each arm."""
    lines = ["# Results: a class wanted, by energies", "",
             f"Made by `{found['command']}`; no number here is written by hand.", "",
             f"- **Run**: model `tiny`, {found['each']} images of each of 10 classes and arm, {found['budget']} evaluations "
             "an image; a differentiated evaluation counts as three. Energies steer runs without a prompt by the embedded "
             "classifier. Few images: read the intervals.",
             "- **Settings** were tried before on other seeds, from 10000 on, 30 or 40 images of each. Left out after that: "
             "mpgd 0.2, classifier guidance of x0 with views, dps 30 with views early in the run, tfg with views.",
             f"- **Judge**: another classifier, right on {found['judge_accuracy']:.1%} of CIFAR-10's test images. It did "
             "not steer. Its features give the Frechet distance within the class: to the test images of the class, the mean "
             "over the classes. Few images raise it for all alike: as many other test images of each class, of which it "
             f"knows {found['true_wanted']:.0%}, are at {found['true_distance']:.1f}.",
             "- **Brackets** are 95 % intervals: Wilson's for shares, the jackknife over images for distances; differences "
             "are paired by image number. Passes and seconds of a CPU are for one image, the seconds with the classifier's "
             "gradients.", "",
             "![Two images of each class, in a row for each arm](energy.png)", "",
             "Below one another: the same first noise.", "",
             "| arm | wanted, by the judge | wanted, by who steers | distance | over that of cfg 2.5 | forward | backward | "
             "seconds |", "|---|---|---|---|---|---|---|---|"]
    for name, one in found["arms"].items():
        over = "" if one["over_cfg"] is None else f"{one['over_cfg']:+.1f} {_ends(one['over_cfg_95'], '+.1f')}"
        lines.append(f"| {name} | {one['wanted']:.0%} {_ends(one['wanted_95'], '.0%')} | {one['by_steering']:.0%} | "
                     f"{one['distance']:.1f} {_ends(one['distance_95'], '.1f')} | {over} | {one['forward']:.0f} | "
                     f"{one['backward']:.0f} | {one['seconds']:.2f} |")
    return "\n".join(lines) + "\n"


def _ends(ends: tuple[float, float], form: str) -> str:
    return f"[{ends[0]:{form}}, {ends[1]:{form}}]"


def main(data: Annotated[Path, typer.Option(help="Folder of CIFAR-10, as the classifier's training reads it.")],
         out: Annotated[Path, typer.Option(help="Page to write, its picture beside it.")] = Path("out/energy/energy.md"),
         judged: Annotated[Path, typer.Option(help="Folder of the judge; trained where it is not there.")]
         = Path("out/energy/judge"),
         each: Annotated[int, typer.Option(min=3, help="Images of each class and arm.")] = 5,
         budget: Annotated[int, typer.Option(min=8, help="Evaluations an image.")] = 40,
         store: Annotated[Path, typer.Option("--kept", help="Folder of the images.")] = Path("out/energy/kept"),
         first: Annotated[int, typer.Option(min=0, help="First seed.")] = 0,
         only: Annotated[str, typer.Option(help="Arms, joined by +; all where empty.")] = "",
         epochs: Annotated[int, typer.Option(min=1, help="Epochs of the judge.")] = 3) -> None:
    """Print the table, and write it down."""
    pipe, model = emag.load("tiny"), judge(judged, data, epochs)
    pipe.set_progress_bar_config(disable=True)
    test = read(data, "test")
    true = [FrechetTo(moments(seen(model, of_class(test, at)[each:])[0])) for at in range(len(classes()))]
    known = [seen(model, of_class(test, at)[:each]) for at in range(len(classes()))]
    found: dict[str, Any] = {
        "command": f"python bench/energy_steer.py --data FOLDER --each {each} --budget {budget}"
                   + (f" --first {first}" if first else ""), "each": each,
        "budget": budget,
        "judge_accuracy": json.loads((judged / CARD).read_text())["test_accuracy"],
        "true_wanted": float(np.mean([said == at for at, (_, said) in enumerate(known)])),
        "true_distance": distance([features for features, _ in known], true).value, "arms": {}}
    base, drawn = None, {}
    wanted = [name for name in ARMS if not only or name in only.split("+")]
    for name in sorted(wanted, key=lambda name: name != "cfg 2.5"):  # the one that others are held against
        made = [kept(store, pipe, ARMS[name], label, range(first + 100 * at, first + 100 * at + each), budget)
                for at, label in enumerate(classes())]
        found["arms"][name], far = row(model, made, true, base)
        base, drawn[name] = base or far, made
        typer.echo(f"{name}: {found['arms'][name]['wanted']:.0%}, {found['arms'][name]['distance']:.1f}")
    found["arms"] = {name: found["arms"][name] for name in wanted}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table(found))
    picture({name: drawn[name] for name in wanted}).save(out.with_name("energy.png"))
    (judged.parent / "energy.json").write_text(json.dumps(found, indent=1) + "\n")  # docs/results holds sweeps' alone


if __name__ == "__main__":
    typer.run(main)
