"""LPIPS (Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric"), version 0.1.

    d(x, y) = Σ_l mean_{h,w} Σ_c w_lc (x̂_lhwc − ŷ_lhwc)²,      x̂ = x / (‖x‖ + 1e−10) over the channels

over the layers l of a classifier's trunk, its input (x − shift) / scale for x in [−1, 1]. Trained are only the
non-negative heads w, which come with tinygen; the trunk's weights are torchvision's ImageNet files, which users bring.

The name "LPIPS" is for those very files (weights/published.py). With any other weights the same arithmetic is called
"perceptual distance".
"""

from __future__ import annotations

import os
import re
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinygen.errors import DataError, DtypeError, NonFiniteError, ShapeError
from tinygen.modes import no_grad
from tinygen.tensor import Tensor

from ..resize import bilinear
from ..weights import WeightFile, load_weights
from ..weights.published import HEADS, TRUNKS
from .trunks import Trunk, channels, check_net

SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
EPS = 1e-10
PIXELS = 1 << 18  # of pairs computed at once: VGG-16 then needs 0.3 GB


class LPIPS:
    """A trunk and its heads: LPIPS("alex", "alexnet-owt-7be5be79.pth")(x, y) -> N distances."""

    def __init__(self, net: str, weights: str | os.PathLike | WeightFile, heads: str | os.PathLike | None = None):
        """net: "alex", "vgg" or "squeeze". weights: the trunk's file, in torchvision's names or as part of the state
        of the package lpips. heads: a file of other heads. Raises ConfigError, DataError."""
        self.net = check_net(net)
        trunk = weights if isinstance(weights, WeightFile) else load_weights(weights)
        arrays = {re.sub(r"^net\.slice\d+\.", "features.", name): a for name, a in trunk.arrays.items()}
        self.trunk = Trunk(net, arrays, trunk.path)
        file = load_weights(heads or Path(__file__).parent / "heads" / f"{net}.pth")
        self.heads = [_head(file, f"lin{k}.model.1.weight", c) for k, c in enumerate(channels(net))]
        self.digests = {"trunk": trunk.sha256, "heads": file.sha256}
        self.published = self.digests == {"trunk": TRUNKS[net], "heads": HEADS[net]}

    @property
    def label(self) -> str:
        """ "LPIPS[alex v0.1]", or for weights that are not the published ones "perceptual distance[…]". """
        if self.published:
            return f"LPIPS[{self.net} v0.1]"
        heads = "heads v0.1" if self.digests["heads"] == HEADS[self.net] else f"heads {self.digests['heads'][:8]}"
        return f"perceptual distance[{self.net} {self.digests['trunk'][:8]} | {heads}]"

    def __call__(self, x: npt.ArrayLike, y: npt.ArrayLike, *, spatial: bool = False) -> np.ndarray:
        """The distances of the pairs x[i], y[i]: N float64; with spatial, N,H,W: of each place before the mean, every
        layer's map enlarged to the images' size.

        x, y: N,H,W,3 (or 1, repeated) uint8, or float in [−1, 1]. Raises ShapeError, DtypeError, NonFiniteError.
        """
        a, b = np.asarray(x), np.asarray(y)
        if a.shape != b.shape:
            raise ShapeError(f"x has shape {a.shape} and y {b.shape}; LPIPS compares pairs of one shape.")
        one_sided = all(t.dtype.kind == "f" and t.size and t.min() >= 0 for t in (a, b))
        if one_sided and max(a.max(), b.max()) > 0.5:
            warnings.warn("both images of LPIPS lie in [0, 1], and floats are taken to be in [−1, 1]: use 2·x − 1, "
                          "or pass uint8.", stacklevel=2)
        a, b = _ready(a, "x"), _ready(b, "y")
        step = max(1, PIXELS // max(1, a.shape[1] * a.shape[2]))
        out = [self._pairs(a[i : i + step], b[i : i + step], spatial) for i in range(0, len(a), step)]
        return np.concatenate(out) if out else np.zeros((0, *a.shape[1:3]) if spatial else 0)

    def _pairs(self, a: np.ndarray, b: np.ndarray, spatial: bool) -> np.ndarray:
        from . import loops  # here: Numba is loaded by the first call, not by import

        n, size = len(a), a.shape[1:3]
        x = np.concatenate([a, b])
        rows = x.reshape(2 * n * size[0], -1)  # N·H, W·3: NumPy's loops are as long as the last axis
        rows -= np.tile(SHIFT, size[1])
        rows /= np.tile(SCALE, size[1])
        with no_grad():
            taps = self.trunk(Tensor(x))
        total = np.zeros((n, *size) if spatial else n)
        for tap, head in zip(taps, self.heads):
            m = loops.distances(tap.data[:n], tap.data[n:], head, EPS)  # N,h,w
            total += bilinear(m[..., None], size)[..., 0] if spatial else m.mean((1, 2), dtype=np.float64)
        return total


def lpips(x: npt.ArrayLike, y: npt.ArrayLike, *, net: str = "alex", weights: str | os.PathLike,
          heads: str | os.PathLike | None = None, spatial: bool = False) -> np.ndarray:
    """The perceptual distances of the pairs x[i], y[i], N float64, or N,H,W with spatial. LPIPS says how; its `label`
    what they may be called. The weights are kept between calls. Raises what LPIPS does."""
    return _kept(net, *_stamp(weights), *_stamp(heads))(x, y, spatial=spatial)


@lru_cache(maxsize=2)
def _kept(net: str, weights: str, changed: int, heads: str | None, heads_changed: int) -> LPIPS:
    return LPIPS(net, weights, heads)


def _stamp(path: str | os.PathLike | None) -> tuple:
    if path is None:
        return None, 0
    try:
        return os.fspath(path), os.stat(path).st_mtime_ns
    except OSError as error:
        raise DataError(f"cannot read {os.fspath(path)}: {error.strerror or error}.") from error


def _head(file: WeightFile, name: str, count: int) -> np.ndarray:
    a = file.arrays.get(name)
    if a is None or a.shape != (1, count, 1, 1) or a.dtype.kind != "f" or not (np.isfinite(a) & (a >= 0)).all():
        raise DataError(f"{file.path} has no {name!r} with {count} non-negative numbers; it holds no heads of LPIPS "
                        "for this network.")
    return a.reshape(count).astype(np.float32)


def _ready(x: np.ndarray, name: str) -> np.ndarray:
    """N,H,W,3 float32 in [−1, 1]"""
    if x.ndim != 4 or x.shape[3] not in (1, 3):
        raise ShapeError(f"{name} has shape {x.shape}; images are N,H,W,C with C = 3, or 1 for grey.")
    if x.dtype == np.uint8:
        x = x / np.float32(127.5) - np.float32(1)
    elif x.dtype.kind != "f":
        raise DtypeError(f"{name} is {x.dtype}; images are uint8 in 0..255 or float in [−1, 1].")
    elif not np.isfinite(x).all():
        raise NonFiniteError(f"{name} has values that are not finite.")
    elif x.size and (x.min() < -1 or x.max() > 1):
        raise DtypeError(f"{name} spans [{x.min():.4g}, {x.max():.4g}]; float images lie in [−1, 1] here: clip them, "
                         "or pass uint8.")
    return np.broadcast_to(x.astype(np.float32, copy=False), (*x.shape[:3], 3))
