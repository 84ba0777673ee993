"""Small extractors, runs and pictures to measure."""

import numpy as np
import pytest
import torch

pa = pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")

close = np.testing.assert_allclose


def pictures(seed, n=4, h=20, w=30):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3), dtype=np.uint8)


def words(texts, **options):
    """A tokenizer of letters: start 1, end 2 (the largest id), cut as asked."""
    from transformers import BatchEncoding

    rows = [[1, *(3 + ord(c) % 20 for c in text)][:options["max_length"] - 1] + [30] for text in texts]
    longest = options["max_length"] if options["padding"] == "max_length" else max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return BatchEncoding({"input_ids": ids, "attention_mask": (ids > 0).long()})
