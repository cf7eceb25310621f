"""Mode coverage on two-dimensional toys whose truth is known: the ring of Gaussians and the 5×5 grid.

A sample belongs to a mode if it lies within 3σ of the centre (a true Gaussian in the plane keeps 1 -
exp(-9/2) = 98.9 % there). A mode is *found* if at least a tenth of its fair share of all samples (N / modes)
belongs to it. Never read the share within 3σ alone: a collapsed generator scores 1.00 with one mode.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError

from ._arrays import Array, as_features, squared_distances
from .bootstrap import Interval, share_interval
from .judge import kl_to_uniform


@dataclass(frozen=True)
class ModeReport:
    """Which modes the samples cover."""

    found: int
    modes: int
    high_quality: float  # share of all samples within 3σ of some centre
    kl: float  # nats; of the samples within 3σ, over modes, to uniform; NaN if there are none
    counts: tuple[int, ...]  # samples within 3σ of each centre
    n: int
    interval: Interval  # of high_quality, Wilson's
    sigma: float

    @property
    def label(self) -> str:
        """mode coverage[rule | modes | N]"""
        return f"mode coverage[3σ, σ={self.sigma:g} | {self.modes} modes | N={self.n}]"


def ring_centres(modes: int = 8, radius: float = 2.0) -> Array:
    """The centres of a ring of Gaussians, modes,2, counter-clockwise from (radius, 0)."""
    angle = 2 * np.pi * np.arange(modes) / modes
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def grid_centres(side: int = 5, spacing: float = 2.0) -> Array:
    """The centres of a square grid of Gaussians around the origin, side²,2, row by row."""
    ticks = spacing * (np.arange(side) - (side - 1) / 2)
    return np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)


def mode_coverage(samples: npt.ArrayLike, centres: npt.ArrayLike, sigma: float) -> ModeReport:
    """Coverage of Gaussians of standard deviation `sigma` at `centres` M,D by samples N,D.

    A sample within 3σ of several centres counts for the nearest. Raises ShapeError, NonFiniteError,
    ConfigError.
    """
    x, c = as_features(samples, "samples"), as_features(centres, "centres")
    if x.shape[1] != c.shape[1] or not len(x) or not len(c):
        raise ShapeError(
            f"samples N,D and centres M,D must share D and be non-empty; got {x.shape}, {c.shape}."
        )
    if sigma <= 0:
        raise ConfigError(f"sigma is a standard deviation and must be positive; got {sigma}.")
    d = squared_distances(x, c)
    near = d.argmin(1)
    inside = np.take_along_axis(d, near[:, None], 1)[:, 0] <= (3 * sigma) ** 2
    counts = np.bincount(near[inside], minlength=len(c))
    hits = int(inside.sum())
    return ModeReport(
        found=int((counts >= 0.1 * len(x) / len(c)).sum()),
        modes=len(c),
        high_quality=hits / len(x),
        kl=kl_to_uniform(counts / hits) if hits else float("nan"),
        counts=tuple(int(k) for k in counts),
        n=len(x),
        interval=share_interval(hits, len(x)),
        sigma=float(sigma),
    )


def ring_modes(
    samples: npt.ArrayLike, modes: int = 8, radius: float = 2.0, sigma: float = 0.05
) -> ModeReport:
    """Coverage of a ring of Gaussians by samples N,2. See `mode_coverage`."""
    return mode_coverage(samples, ring_centres(modes, radius), sigma)


def grid_modes(
    samples: npt.ArrayLike, side: int = 5, spacing: float = 2.0, sigma: float = 0.05
) -> ModeReport:
    """Coverage of the 25-Gaussian grid (side 5) by samples N,2. See `mode_coverage`."""
    return mode_coverage(samples, grid_centres(side, spacing), sigma)
