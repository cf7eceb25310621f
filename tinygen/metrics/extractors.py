"""Feature extractors that need no download: an image goes in, a vector comes out, and the definition has a
digest.

A Fréchet distance means nothing without the name of the space it was taken in. Here a score is labelled

    FD[randconv-v1/32 | native 8x8 | N=898/898 | ddof1 | cholesky]

and never "FID", which is reserved for one particular Inception network, resize and N; nets/features.py, the one
extractor that needs a file from elsewhere, says when it is granted.

    randconv-v1     random filters: every edge and layout counts as much as its contrast, whatever it means
    attributes-v1   a network trained on digits and shapes (nets/attributes.py): what tells those apart counts most
    pixels          the image itself

The first two are dim-sighted in different places. Of digits cut into blocks and shuffled, randconv sees seven times as
much; of blurred shapes it sees little, for half of what varies in its features there is the colour of background and
shape (34 % and 19 % of the variance, the kind of shape 1 %; attributes: 6, 13 and 14 %). So a score is always shown in
both, EMBEDDED, and beside its floor: `embedded_frechet` in baseline.py; bench/extractors.py measures what each sees.
"""

import difflib
import hashlib
import os
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError

from ._arrays import Array, as_images, flat
from .frechet import FrechetDetails
from .nets.attributes import Attributes

BLOCK = 256  # images convolved at once: 256 x 32 x 32 x 32 x 9 float64 patches stay below 1 GB


class Pixels:
    """The pixels themselves in [0, 1], flattened: D = H·W·C."""

    name = "pixels"

    @property
    def digest(self) -> str:
        return _digest(b"pixels: uint8 / 255, flattened in H,W,C order")

    def __call__(self, images: npt.ArrayLike) -> Array:
        """images N,H,W,C uint8, or float in [0, 1] -> N, H·W·C float64."""
        return flat(as_images(images, "images"))


@dataclass(frozen=True)
class RandConv:
    """Three random convolutions: features with a sense of place and of edges, and no training behind them.

    On x in [0, 1]: conv 3×3 to 16, leaky ReLU 0.2, mean-pool 2 · conv to 32, leaky ReLU, mean-pool 2 · conv
    to 32, leaky ReLU, mean over a 2×2 grid · seeded projection 128 -> 32. Zero padding. Every filter has mean
    zero and norm √2. The seed is the definition: the filters come, in this order, from NumPy's legacy
    RandomState, whose stream is frozen. Sides of at least 8 px; an odd side drops its last row or column when
    pooled.
    """

    seed: int = 7
    name: str = "randconv-v1"
    dims: int = 32

    @property
    def digest(self) -> str:
        # rounded, because the last bit of log and sqrt may differ from one C library to the next
        parts = [np.round(w, 8) + 0.0 for c in (1, 3) for w in _randconv_weights(self.seed, c, self.dims)]
        return _digest(b"".join(p.astype("<f8").tobytes() for p in parts))

    def __call__(self, images: npt.ArrayLike) -> Array:
        """images N,H,W,C uint8, or float in [0, 1], grey or RGB, sides >= 8 -> N,32 float64."""
        x = as_images(images, "images")
        n, h, w, c = x.shape
        if min(h, w) < 8 or c not in (1, 3):
            raise ShapeError(f"{self.name} takes grey or RGB images of at least 8x8 pixels; got {h}x{w}x{c}.")
        out = np.empty((n, self.dims))
        for i in range(0, n, BLOCK):
            out[i : i + BLOCK] = self._block(x[i : i + BLOCK])
        return out

    def _block(self, x: Array) -> Array:
        w1, w2, w3, projection = _randconv_weights(self.seed, x.shape[3], self.dims)
        x = _pool(_leaky(_conv(x, w1)))  # N, H/2, W/2, 16
        x = _pool(_leaky(_conv(x, w2)))  # N, H/4, W/4, 32
        x = _grid(_leaky(_conv(x, w3)))  # N, 2, 2, 32
        return x.reshape(len(x), -1) @ projection


@cache
def _randconv_weights(seed: int, channels: int, dims: int) -> tuple[Array, Array, Array, Array]:
    draw = np.random.RandomState(seed).randn

    def filters(c_in: int, c_out: int) -> Array:
        w = draw(3, 3, c_in, c_out)
        w = w - w.mean((0, 1, 2))
        return w * np.sqrt(2 / (w * w).sum((0, 1, 2)))

    w1, w2, w3 = filters(channels, 16), filters(16, 32), filters(32, 32)
    return w1, w2, w3, draw(128, dims) / np.sqrt(128)


def _conv(x: Array, w: Array) -> Array:
    """x N,H,W,C with w 3,3,C,F -> N,H,W,F: one matrix product over 3×3 patches, zero padding."""
    n, h, wd, c = x.shape
    p = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2)
    )
    return (p.reshape(n * h * wd, c * 9) @ w.transpose(2, 0, 1, 3).reshape(c * 9, -1)).reshape(n, h, wd, -1)


def _leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.2 * x)


def _pool(x: Array) -> Array:
    h, w = x.shape[1] // 2, x.shape[2] // 2
    return x[:, : 2 * h, : 2 * w].reshape(len(x), h, 2, w, 2, -1).mean((2, 4))


def _grid(x: Array) -> Array:
    """Means over the four quadrants, N,H,W,C -> N,2,2,C; the middle line of an odd side belongs to both."""
    h, w = x.shape[1], x.shape[2]
    rows = (slice(0, (h + 1) // 2), slice(h // 2, h))
    cols = (slice(0, (w + 1) // 2), slice(w // 2, w))
    return np.stack([np.stack([x[:, r, c].mean((1, 2)) for c in cols], 1) for r in rows], 1)


def _digest(definition: bytes) -> str:
    return "sha256:" + hashlib.sha256(definition).hexdigest()[:16]


class Extractor(Protocol):
    """Images in, features out; what a label and a report card need to know of them."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """Of the whole definition: weights, resizing, which layer."""

    def __call__(self, images: npt.ArrayLike) -> Array:
        """images N,H,W,C -> N,D"""


_REGISTRY: dict[str, Extractor] = {e.name: e for e in (RandConv(), Attributes(), Pixels())}
EMBEDDED = ("randconv-v1", "attributes-v1")
_SHORT = {name.partition("-v")[0]: name for name in _REGISTRY}
_NETWORK = "inception"


def extractors() -> list[str]:
    """The names of the extractors that come with tinygen."""
    return list(_REGISTRY)


def extractor(name: str, *, weights: str | os.PathLike | None = None, **choices: str) -> Extractor:
    """The extractor called `name`, with or without its version and dimension ("randconv-v1/32", "randconv").

    extractor("inception", weights=PATH, resize="tf1", tap="2048"): Inception-v3 with the published file, or another of
    its form (nets/features.py). Raises ConfigError; for weights, DataError.
    """
    if name.partition("/")[0] == _NETWORK:
        if weights is None:
            raise ConfigError("extractor 'inception' needs weights=, the file pt_inception-2015-12-05-6726825d.pth of "
                              "pytorch-fid, which tinygen neither ships nor downloads.")
        if unknown := choices.keys() - {"resize", "tap"}:
            raise ConfigError(f"extractor 'inception' has no {min(unknown)}=; it takes weights=, resize= and tap=.")
        from .nets.features import InceptionFeatures

        return InceptionFeatures(weights, **choices)
    bare = name.partition("/")[0]
    found = _REGISTRY.get(_SHORT.get(bare, bare))
    if found is None:
        names = [*_REGISTRY, _NETWORK]
        near = difflib.get_close_matches(name, names, 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"unknown extractor {name!r}; there are {', '.join(names)}{hint}")
    if weights is not None or choices:
        raise ConfigError(f"extractor {name!r} has no {', '.join(['weights'] if weights else choices)}: it is defined "
                          "by its name alone.")
    return found


def frechet_label(of: str | Extractor, size: tuple[int, int], details: FrechetDetails) -> str:
    """The honest name of a score: extractor/D, what happened to images of size H,W, N real/fake, ddof and route.

    of: the extractor, or the name of one. It begins with FID only where the extractor
    says so: for the published Inception, on a published path, with samples enough.
    """
    of = _REGISTRY.get(of, of) if isinstance(of, str) else of
    name, native = (of if isinstance(of, str) else of.name), f"native {size[0]}x{size[1]}"
    named = getattr(of, "frechet_name", None)
    kind = named(details.n_real, details.n_fake) if named else "FD"
    return (f"{kind}[{name}/{details.dims} | {getattr(of, 'path', native)} | N={details.n_real}/{details.n_fake} | "
            f"ddof1 | {details.route}]")
