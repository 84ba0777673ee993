"""Class-wanted images by energies and by CFG at equal evaluations, on `tiny`: python bench/energy_steer.py --data FOLDER.

Energies steer unconditional runs by the embedded classifier; another classifier, trained here on the same images with other
widths, seed and activation, says what the results show. A differentiated evaluation counts as three: forward, and twice that
backward. Gradients of the classifier itself are not counted: it is a fortieth of the network.
"""

import json
from math import sqrt
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import emag
from emag.lab.train.classifier import Classifier, ClassifierSettings, read, recognised, train
from emag.scores import OfClass, classes

CFG = 2.5
ARMS: dict[str, tuple[int, dict[str, Any] | None]] = {
    "plain": (1, None), "cfg": (2, None), "mpgd": (1, {"where": "next", "normalise": "rms", "strength": 0.1}),
    "dps": (4, {"where": "next", "through_network": True, "strength": 2.0}),
    "tfg": (4, dict(emag.Energy.preset("tfg-cifar10", "classifier:frog").__dict__, score=None))}
"""By name: evaluations a step, and settings of the energy."""


def images(pipe: Any, arm: str, label: str, seeds: range, budget: int) -> torch.Tensor:
    """Images [seeds, 3, 32, 32] in [0, 1] of one class."""
    price, settings = ARMS[arm]
    call = {"num_inference_steps": budget // price, "output_type": "pt",
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
    if settings is None:
        prompt, scale = ("", 1.0) if arm == "plain" else (f"a photo of a {label}", CFG)
        return pipe([prompt] * len(seeds), guidance_scale=scale, **call).images.float()
    rule = emag.Energy(**{**settings, "score": f"classifier:{label}"})
    with emag.guide(pipe, rule):
        return pipe([""] * len(seeds), guidance_scale=1.0, **call).images.float()


def wilson(right: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share."""
    share, width = right / of, z / of * sqrt(right * (of - right) / of + z**2 / 4)
    middle = share + z**2 / (2 * of)
    return (middle - width) / (1 + z**2 / of), (middle + width) / (1 + z**2 / of)


def judge(folder: Path, epochs: int) -> tuple[Classifier, float]:
    """A classifier that did not steer, and its accuracy on test images."""
    settings = ClassifierSettings(epochs=epochs, widths=(32, 64, 128), activation="relu", seed=7)
    model = train(read(folder, "train"), len(classes()), settings)
    return model, float(recognised(model, read(folder, "test")).mean())


def main(data: Annotated[Path, typer.Option(help="Folder of CIFAR-10, as the classifier's training reads it.")],
         out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("out/energy_steer.json"),
         each: Annotated[int, typer.Option(help="Images of each class and arm.")] = 6,
         budget: Annotated[int, typer.Option(help="Evaluations an image.")] = 40,
         epochs: Annotated[int, typer.Option(help="Epochs of the judge.")] = 3) -> None:
    """Print the table, and write it down."""
    pipe = emag.load("tiny")
    pipe.set_progress_bar_config(disable=True)
    apart, accuracy = judge(data, epochs)
    print(f"judge: {accuracy:.1%} of CIFAR-10's test images")
    found: dict[str, Any] = {"judge_accuracy": accuracy, "each": each, "budget": budget, "arms": {}}
    print("| arm | steps | wanted, by the judge | 95 % | wanted, by the classifier that steers |\n|---|---|---|---|---|")
    for arm, (price, _) in ARMS.items():
        judged = steered = 0
        for at, label in enumerate(classes()):
            made = images(pipe, arm, label, range(100 * at, 100 * at + each), budget)
            with torch.no_grad():
                judged += int((apart(made * 2 - 1).argmax(1) == at).sum())
                steered += int((OfClass(label)(made) > -0.6931).sum())
        total = each * len(classes())
        low, high = wilson(judged, total)
        found["arms"][arm] = {"judged": judged, "steered": steered, "of": total, "steps": budget // price}
        print(f"| {arm} | {budget // price} | {judged / total:.0%} | {low:.0%} to {high:.0%} | {steered / total:.0%} |",
              flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
