"""The embedded models: their pipelines, words and weights. `emag.load` opens them."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
