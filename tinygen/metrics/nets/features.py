"""Inception-v3 as an extractor: 8-bit images in, the features that FID and its relatives compare out."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError
from tinygen.modes import no_grad
from tinygen.tensor import Tensor

from ..resize import SIDE, check_resizer, to_inception
from ..weights import WeightFile, load_weights
from ..weights.published import FID_INCEPTION
from .inception import TAPS, Inception

BLOCK = 4  # images at once: from 8 on, the largest maps no longer come from memory that is kept
LEAST_N = 10_000  # below it FID's authors advise against the number (Heusel et al. 2017, github.com/bioinf-jku/TTUR)
FID_PATHS = {"tf1": "FID", "pytorch-fid": "FID", "clean": "clean-FID"}


class InceptionFeatures:
    """An extractor like those of extractors.py, made by extractor("inception", weights=PATH, resize="tf1", tap="2048").

    weights: the file, in pytorch-fid's names. resize: one of tinygen.metrics.resize.RESIZERS. tap: one of the network's
    (nets/inception.py); "64", "192" and "768" are averaged over the image, as pytorch-fid does, "spatial" is flattened.
    """

    def __init__(self, weights: str | os.PathLike | WeightFile, resize: str = "tf1", tap: str = "2048"):
        """Raises ConfigError, DataError."""
        self.resize, self.tap = check_resizer(resize), tap
        if tap not in TAPS:
            raise ConfigError(f"unknown tap {tap!r}; Inception has {', '.join(TAPS)}.")
        file = weights if isinstance(weights, WeightFile) else load_weights(weights)
        self.net = Inception(file.arrays, file.path)
        self.sha256 = file.sha256

    @property
    def published(self) -> bool:
        """Are these the weights that FID is defined by?"""
        return self.sha256 == FID_INCEPTION

    @property
    def name(self) -> str:
        return "inception-2015-12-05" if self.published else f"inception-{self.sha256[:8]}"

    @property
    def digest(self) -> str:
        definition = f"inception {self.sha256} {self.resize} {self.tap}".encode()
        return "sha256:" + hashlib.sha256(definition).hexdigest()[:16]

    @property
    def path(self) -> str:
        """How an image gets to the network, for labels."""
        return f"{self.resize} {SIDE}x{SIDE}"

    def frechet_name(self, n_real: int, n_fake: int) -> str:
        """What a Fréchet distance in these features may be called: "FID" (or clean-FID) for the published weights, on a
        published path, at the 2048 features, with enough samples; "FD" otherwise."""
        if self.published and self.tap == "2048" and min(n_real, n_fake) >= LEAST_N:
            return FID_PATHS.get(self.resize, "FD")
        return "FD"

    def __call__(self, images: npt.ArrayLike) -> np.ndarray:
        """images N,H,W,C uint8, grey or RGB -> N,D float64. Raises DtypeError, ShapeError."""
        return self.taps(images, (self.tap,))[self.tap]

    def taps(self, images: npt.ArrayLike, taps: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Several taps in one pass: features for FID and unbiased logits for the Inception score, say."""
        x = np.asarray(images)
        parts: dict[str, list[np.ndarray]] = {t: [] for t in taps}
        for i in range(0, max(len(x), 1), BLOCK):
            with no_grad():
                found = self.net(Tensor(to_inception(x[i : i + BLOCK], self.resize)), taps)
            for tap, y in found.items():
                maps = y.data.astype(np.float64)
                if maps.ndim == 4:
                    maps = maps.reshape(len(maps), -1) if tap == "spatial" else maps.mean((1, 2))
                parts[tap].append(maps)
        return {tap: np.concatenate(p) for tap, p in parts.items()}
