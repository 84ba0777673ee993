"""The embedded classifier: a small convolutional network on 32x32 RGB images, whose penultimate layer serves as features."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from ..errors import BadValue
from ..files import parsed
from .folder import first_line

FOLDER = Path(__file__).parent / "weights" / "classifier"
WEIGHTS, CARD = "classifier.safetensors", "classifier.json"
SIZE, PATCH = 32, 2
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True)
class Outputs:
    """features [n, width] (before the last layer) and logits [n, classes], fp32."""

    features: torch.Tensor
    logits: torch.Tensor


class Classifier(nn.Module):
    """Fixed whitening of 2x2 patches, three groups of two convolutions, the largest value of each channel, one linear layer.

    widths: channels of the groups; the last one is the width of the features. activation: "relu" or "gelu".
    """

    def __init__(self, classes: int, widths: tuple[int, int, int], activation: str):
        super().__init__()
        filters = 2 * 3 * PATCH**2  # each whitening filter and its negative
        self.whiten = nn.Conv2d(3, filters, PATCH).requires_grad_(False)
        inputs = (filters, *widths[:-1])
        self.groups = nn.Sequential(*(_group(a, b, ACTIVATIONS[activation]) for a, b in zip(inputs, widths)))
        self.activation = ACTIVATIONS[activation]()
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """images [n, 3, 32, 32] in [-1, 1] -> [n, width]."""
        x = self.activation(self.whiten(images))
        return self.groups(x).amax(dim=(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [n, 3, 32, 32] in [-1, 1] -> logits [n, classes]."""
        return self.head(self.features(images)) / 8

    @torch.no_grad()
    def set_whitening(self, images: torch.Tensor) -> None:
        """Filters that give the 2x2 patches of `images` [n, 3, h, w] unit covariance, and their negatives."""
        patches = images.unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH**2).double()
        values, vectors = torch.linalg.eigh(patches.T.cov())
        filters = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, 3, PATCH, PATCH).to(self.whiten.weight)
        self.whiten.weight.copy_(torch.cat([filters, -filters]))
        self.whiten.bias.zero_()

    @torch.no_grad()
    def outputs(self, images: np.ndarray) -> Outputs:
        """Features and logits of uint8 images [n, 32, 32, 3]: means over the image and its mirror image."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (SIZE, SIZE, 3):
            raise BadValue(f"the classifier reads uint8 images [n, {SIZE}, {SIZE}, 3], not {images.dtype} "
                           f"{list(images.shape)}")
        x = pixels(torch.from_numpy(images).to(self.head.weight.device).permute(0, 3, 1, 2))
        features = (self.features(x) + self.features(x.flip(-1))) / 2
        return Outputs(features, self.head(features) / 8)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 images as the network reads them: fp32 in [-1, 1]."""
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _group(inputs: int, outputs: int, activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, outputs), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), activation(),
                         _convolution(outputs, outputs), nn.BatchNorm2d(outputs), activation())


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    made = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(made.weight[:inputs])  # at first, the inputs are handed on
    return made


def load_classifier(folder: Path = FOLDER) -> tuple[Classifier, dict]:
    """The trained classifier, on the CPU in fp32, and its card. Raises `BadValue` where a file is missing or damaged."""
    missing = [name for name in (WEIGHTS, CARD) if not (folder / name).is_file()]
    if missing:
        raise BadValue(f"classifier folder {folder} lacks {', '.join(missing)}; train one with "
                       "python -m emag.lab.train.classifier")
    try:
        card = parsed((folder / CARD).read_bytes())
        with torch.random.fork_rng(devices=[]):  # first weights, which are replaced, are not drawn from the user's generator
            model = Classifier(len(card["classes"]), tuple(card["widths"]), card["activation"])
        model.load_state_dict({name: value.float() if value.is_floating_point() else value
                               for name, value in load_file(folder / WEIGHTS).items()})
    except Exception as error:  # whatever a damaged file makes torch or safetensors say
        raise BadValue(f"classifier folder {folder} cannot be read: {first_line(error)}") from error
    return model.eval().to(memory_format=torch.channels_last), card


def weights_digest(folder: Path = FOLDER) -> str:
    """First 8 hex digits of the sha256 of the weights. Raises `BadValue` where there are none."""
    if not (folder / WEIGHTS).is_file():
        raise BadValue(f"classifier folder {folder} lacks {WEIGHTS}; train one with python -m emag.lab.train.classifier")
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:8]
