"""Extractors on small random networks, preprocessing against plain references, the list of metrics, measuring a run."""

import numpy as np
import pytest
import torch
from PIL import Image

from emag.lab.evaluate.metrics import resize
from emag.lab.evaluate.metrics.extractors import towers
from extracting import close, pictures, words

pa = pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (16, 16), (9, 70)])
def test_clip_preprocessing_is_transformers(shape):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = pictures(1, 3, *shape)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    wanted = theirs([Image.fromarray(one) for one in images], return_tensors="np")["pixel_values"]
    found = resize.normalised(resize.cropped(images, 16), resize.CLIP_MEAN, resize.CLIP_STD)
    close(found, np.stack(list(wanted)), atol=1e-5)


def kernel(x):
    """Keys' cubic with a = -1/2, the one of antialiased bicubic in torch and PIL."""
    x = abs(x)
    return (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def shrunk(line, size):
    """A line of pixels at a smaller size, each output a normalised sum of stretched kernels: written out."""
    ratio = len(line) / size
    out = []
    for i in range(size):
        centre = (i + 0.5) * ratio
        weights = np.array([kernel((j + 0.5 - centre) / ratio) for j in range(len(line))])
        out.append(np.tensordot(weights / weights.sum(), line, 1))
    return np.array(out)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (33, 33)])
def test_hps_preprocessing_is_the_plain_one(shape):
    image, size = pictures(2, 1, *shape)[0], 16
    h, w = (round(side * size / max(shape)) for side in shape)
    small = shrunk(shrunk(image / 255, h).transpose(1, 0, 2), w).transpose(1, 0, 2)
    wanted = np.zeros((size, size, 3))
    top, left = (size - h) // 2, (size - w) // 2
    wanted[top:top + h, left:left + w] = small
    found = resize.padded(image[None], size)[0].permute(1, 2, 0)
    close(found, wanted, atol=1e-5)
    assert not np.allclose(resize.padded(image[None], size, antialias=False)[0].permute(1, 2, 0), wanted, atol=1e-2)


def test_hps_pads_images_that_already_have_the_size():
    found = resize.padded(np.full((1, 16, 8, 3), 255, np.uint8), 16)
    assert found.shape == (1, 3, 16, 16) and found[..., 4:12].min() == 1 and found[..., :4].max() == 0


def test_dinov2_stretches():
    image = pictures(3, 1, 12, 40)
    wanted = np.asarray(Image.fromarray(image[0]).resize((16, 16), Image.Resampling.BICUBIC)) / 255
    close(resize.stretched(image, 16)[0].permute(1, 2, 0), wanted, atol=1e-6)


def test_clip_is_its_own_forward_pass(clip):
    images, texts = pictures(4), ["a", "ship", "frog", ""]
    found = clip(images, texts)
    net = clip.loaded[0]
    pixels = resize.normalised(resize.cropped(images, 16), resize.CLIP_MEAN, resize.CLIP_STD)
    theirs = net(**words(texts, padding=True, max_length=77), pixel_values=pixels)
    close(found["score"], 100 * (theirs.logits_per_image / net.logit_scale.exp()).diagonal().detach(), rtol=1e-4)
    clip.times = None
    close(clip(images, texts)["score"], theirs.logits_per_image.diagonal().detach(), rtol=1e-4)
    assert found["features"].shape == (4, 12) and towers.pickscore().version != clip.version


def test_clip_does_not_depend_on_batches(clip):
    images, texts = pictures(5), ["a", "a longer one", "frog", "x"]
    whole, parts = clip(images, texts), [clip(images[i:i + 1], texts[i:i + 1]) for i in range(4)]
    for name, value in whole.items():
        close(value, np.concatenate([part[name] for part in parts]), rtol=1e-3, atol=1e-4)


def test_dinov2_gives_the_class_token():
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    net = Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28)).eval()
    made = towers.DINOv2(size=28)
    made.__dict__["loaded"] = net
    images = pictures(6)
    x = resize.normalised(resize.stretched(images, 28), resize.IMAGENET_MEAN, resize.IMAGENET_STD)
    close(made(images, [""] * 4)["features"], net(pixel_values=x).last_hidden_state[:, 0].detach(), rtol=1e-4, atol=1e-5)
