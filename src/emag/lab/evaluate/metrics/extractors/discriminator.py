"""The logit that a picture is real, by a network trained to tell the model's plain pictures from real ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from .....errors import BadValue
from .....models import discriminator as network
from ...tasks import seed_of
from .base import Features

BATCH = 500


@dataclass
class Realness:
    """score [n]: logit of being real; 0 is not told from real. folder: of another network than the embedded one."""

    device: str = "cpu"
    folder: Path = network.FOLDER

    @cached_property
    def loaded(self) -> tuple[network.Discriminator, network.Learned]:
        model, learned = network.load_discriminator(self.folder)
        return model.to(self.device), learned

    @property
    def version(self) -> str:
        """Weights, and whose plain pictures they know."""
        return f"discriminator-{network.discriminator_digest(self.folder)} of {Path(self.loaded[1].model).name}"

    def check(self) -> None:
        _ = self.loaded

    def refuse(self, recipe: str, seeds: Sequence[int | None]) -> None:
        """Raise `BadValue` where pictures have seeds that the network learned from: it knows those by heart."""
        learned = self.loaded[1]
        known = {seed_of(learned.seed, number) for number in range(learned.images)}
        met = sum(seed in known for seed in seeds)
        if met:
            raise BadValue(f"{met} of {len(seeds)} images of {recipe} have seeds that the discriminator learned from (run "
                           f"seed {learned.seed}, its first {learned.images} images): judge a run of another seed, or train "
                           "one on other images")

    def __call__(self, images: np.ndarray, texts: Sequence[str]) -> Features:
        model, learned = self.loaded
        if images.shape[1:3] != (learned.size, learned.size):
            raise BadValue(f"the discriminator of {learned.model} reads images of {learned.size}x{learned.size} pixels, not "
                           f"{images.shape[2]}x{images.shape[1]}; train one with python -m emag.lab.train.discriminator")
        x = network.as_stored(images, learned.jpeg).to(self.device)
        return {"score": torch.cat([model.logits(part) for part in x.split(BATCH)]).cpu().numpy()}
