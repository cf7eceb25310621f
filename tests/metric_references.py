"""The libraries that the metrics are held against: development extras, skipped with a reason where they are missing."""

import importlib
from types import ModuleType

import numpy as np
import pytest


def reference(name: str) -> ModuleType:
    """The module, or a skip that says why not (missing, or broken beside this version of another package)."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} is not usable here: {type(error).__name__}: {error}")


def image_pair(h, w, c, n=None, seed=0):
    """Smooth uint8 images and dulled, noisy copies of them: H,W,C, or N,H,W,C."""
    rng = np.random.RandomState(seed)
    i, j, k = np.meshgrid(np.arange(h), np.arange(w), np.arange(c), indexing="ij")
    phase = rng.uniform(0, 6, (n or 1, 1, 1, 1))
    x = np.round(127.5 + 60 * np.sin(0.7 * i + 0.3 * k + phase) + 50 * np.cos(0.45 * j - 0.2 * i + phase))
    y = np.round(np.clip(0.9 * x + 8 + rng.uniform(-25, 25, x.shape), 0, 255))
    return (x.astype(np.uint8), y.astype(np.uint8)) if n else (x[0].astype(np.uint8), y[0].astype(np.uint8))


def feature_sets(n, m, d, seed=0):
    """Two correlated, skewed, overlapping sets of features, float64 N,D and M,D, from a frozen stream."""
    rng = np.random.RandomState(seed)
    mix = rng.randn(d, d) / np.sqrt(d)
    x, y = rng.randn(n, d) @ mix, 1.1 * rng.randn(m, d) @ mix + 0.1
    return np.maximum(x + 0.3, 0.1 * x), np.maximum(y + 0.3, 0.1 * y)
