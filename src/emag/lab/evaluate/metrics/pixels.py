"""Numbers of single images: saturation, contrast, high-frequency energy. What strong guidance raises."""

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])


def saturation(images: np.ndarray) -> np.ndarray:
    """Mean over pixels of (max - min) / max of the channels (HSV; 0 for black); uint8 [n, h, w, 3] -> [n] in [0, 1]."""
    high, low = images.max(-1).astype(np.float64), images.min(-1).astype(np.float64)
    return ((high - low) / np.maximum(high, 1)).mean(axis=(1, 2))


def contrast(images: np.ndarray) -> np.ndarray:
    """Standard deviation of the luma over the pixels (RMS contrast); uint8 [n, h, w, 3] -> [n] in [0, 0.5]."""
    return luma(images).std(axis=(1, 2))


def high_frequency(images: np.ndarray) -> np.ndarray:
    """Energy of the luma at or above half the Nyquist frequency on either axis, per pixel; uint8 [n, h, w, 3] -> [n]."""
    y = luma(images)
    spectrum = np.abs(np.fft.fft2(y, norm="ortho")) ** 2
    down, right = (np.abs(np.fft.fftfreq(size)) >= 0.25 for size in y.shape[1:])
    return spectrum[:, down[:, None] | right[None, :]].sum(1) / (y.shape[1] * y.shape[2])


def luma(images: np.ndarray) -> np.ndarray:
    """BT.601 luma of uint8 [n, h, w, 3], [n, h, w] in [0, 1]."""
    return images.astype(np.float64) @ LUMA / 255
