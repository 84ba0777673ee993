"""One random stream per sample and name: independent of batch mates, row number and the user's generators."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch


def digest(sample: torch.Tensor) -> bytes:
    """Hash of the bytes of one sample's first latent, of any shape."""
    raw = sample.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(raw).digest()


@dataclass
class Streams:
    """Random streams of the samples of one run. source: their first latents [batch, ...], or a digest of each.

    Latents are read off their device when something is drawn, and then once.
    """

    source: torch.Tensor | Sequence[bytes]
    step: int = 0
    _drawn: dict[tuple[str, torch.Size], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, latents: torch.Tensor) -> "Streams":
        """Streams for first latents [batch, ...], which may change afterwards."""
        return cls(latents.detach().clone())

    @cached_property
    def keys(self) -> list[bytes]:
        """One digest per sample."""
        return [digest(row) for row in self.source.cpu()] if isinstance(self.source, torch.Tensor) else list(self.source)

    def next_step(self) -> None:
        """Forget this step's draws, so that `normal` draws anew."""
        self.step += 1
        self._drawn.clear()

    def normal(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Standard normal noise shaped as `like` [batch, ...], row i from the stream `name` of sample i, fp32.

        Within one step a name always gives the same noise, so every branch of the step sees one draw. What is drawn
        does not depend on the steps at which others, or batch mates, drew.
        """
        key = name, like.shape
        if key not in self._drawn:
            self._drawn[key] = self._draw(name, like)
        return self._drawn[key]

    def _draw(self, name: str, like: torch.Tensor) -> torch.Tensor:
        # drawn on the CPU, so that all devices see the same noise
        rows = [torch.randn(like.shape[1:], generator=self._stream(i, name)) for i in range(like.shape[0])]
        return torch.stack(rows).to(like.device)

    def _stream(self, i: int, name: str) -> torch.Generator:
        # by the sample's own bytes, not its row: an image is the same alone and in any batch
        seed = hashlib.sha256(self.keys[i % len(self.source)] + f"{name}/{self.step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(seed[:8], "little") >> 1)
