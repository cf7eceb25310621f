"""Kernel distances: the squared maximum mean discrepancy between two sets of features (Gretton et al. 2012).

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y)

KID (Bińkowski et al. 2018): k = (x·y / D + 1)³, unbiased: x ≠ x', so that it may come out negative, and does not depend
on N. CMMD (Jayasumana et al. 2024): k = exp(-|x - y|² / 2σ²), σ = 10, on unit vectors of CLIP, biased (x = x' kept),
times 1000. Everything in float64: either is a small difference of large sums.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError
from tinygen.kernels.threads import share

from ._arrays import Array, count_note, feature_pair
from ._blas import blas_threads
from .bootstrap import RESAMPLES, Interval, bootstrap_interval

TILE, WIDE = 512, 8192  # rows and, at least as many, columns of inner products held at once: 32 MB
STRIP = 16  # rows of those that a thread turns into k at once
Kernel = Callable[[Array, Array, Array, int], None]  # inner products, |x|², |y|², D: k, or k - 1, in their place


@dataclass(frozen=True)
class KernelDistance:
    """A kernel distance and what is needed to read it."""

    label: str
    value: float  # over all pairs; of the subsets' mean where all pairs were not asked for
    interval: Interval | None  # of the value over all pairs
    subset_mean: float | None
    subset_sd: float | None  # over the subsets, population (ddof 0): what KID papers print after ±
    subsets: int
    subset_size: int
    seed: int  # of the subsets, a legacy RandomState
    n_real: int
    n_fake: int
    dims: int
    notes: tuple[str, ...] = ()


@dataclass
class _Sums:
    """Sums of k over pairs: by row, by column, and over each subset's pairs."""

    rows: Array
    columns: Array
    subsets: Array


def kernel_distance(*, real: npt.ArrayLike, fake: npt.ArrayLike) -> float:
    """KID over all pairs: deterministic, unbiased. `kernel_distance_details` adds the subsets and an interval."""
    return kernel_distance_details(real=real, fake=fake, subsets=0).value


def kernel_distance_details(
    *,
    real: npt.ArrayLike,
    fake: npt.ArrayLike,
    subsets: int = 100,
    subset_size: int | None = None,
    pairs: bool = True,
    seed: int = 2020,
    resamples: int = RESAMPLES,
) -> KernelDistance:
    """KID over all pairs with its bootstrap interval, and as the mean ± deviation over random subsets.

    real, fake: features N,D and M,D. subset_size: 1000, or all of the smaller set. The subsets are torch-fidelity's
    for real as its first input and fake as its second: RandomState(seed) draws, for each in turn, from real and then
    from fake, without replacement. pairs=False leaves out the value over all pairs, whose cost is N².
    The interval is to first order, which vanishes where both distributions are one: near zero it is too narrow.
    Raises ShapeError (D differs, N < 2, subsets larger than a set), DtypeError, NonFiniteError, ConfigError.
    """
    r, f = feature_pair(real, fake, 2, "an unbiased kernel distance")
    n, m = len(r), len(f)
    size = min(1000, n, m) if subset_size is None else subset_size
    if subsets < 0 or not (pairs or subsets):
        raise ConfigError(f"nothing to compute: subsets={subsets}, pairs={pairs}.")
    if subsets and not 2 <= size <= min(n, m):
        raise ShapeError(f"subset_size={size} must lie between 2 and the smaller set's {min(n, m)} samples.")
    rng = np.random.RandomState(seed)
    drawn = [(rng.choice(n, size, replace=False), rng.choice(m, size, replace=False)) for _ in range(subsets)]
    value, interval, over = np.nan, None, np.empty(0)
    # all pairs hold every subset's: they are worth computing once unless the subsets are few
    if pairs or n * n / 2 + m * m / 2 + n * m <= 2 * subsets * size * size:
        chosen = [np.zeros((subsets, k)) for k in (n, m)]
        for s, both in enumerate(drawn):
            for marks, index in zip(chosen, both):
                marks[s, index] = 1
        xx, yy, xy = _all_sums(r, f, _cubic, *chosen)
        if pairs:
            value, influences = _unbiased(xx, yy, xy)
            interval = bootstrap_interval(value, *influences, resamples=resamples, seed=seed)
        over = (xx.subsets + yy.subsets) / (size * (size - 1)) - 2 * xy.subsets / size**2
    elif subsets:
        none = np.zeros((0, size)), np.zeros((0, size))
        over = np.array([_unbiased(*_all_sums(r[i], f[j], _cubic, *none))[0] for i, j in drawn])
    mean, sd = (float(over.mean()), float(over.std())) if subsets else (None, None)
    kind = "all pairs" if pairs else f"{subsets} subsets of {size}"
    return KernelDistance(
        f"KD[cubic | D={r.shape[1]} | N={n}/{m} | unbiased, {kind}]", float(value) if pairs else float(over.mean()),
        interval, mean, sd, subsets, size, seed, n, m, r.shape[1], count_note(n, m),
    )  # fmt: skip


def cmmd(*, real: npt.ArrayLike, fake: npt.ArrayLike, sigma: float = 10.0, normalise: bool = True) -> float:
    """1000 · MMD² under a Gaussian kernel, biased, on features scaled to length 1. See `cmmd_details`."""
    return cmmd_details(real=real, fake=fake, sigma=sigma, normalise=normalise).value


def cmmd_details(
    *,
    real: npt.ArrayLike,
    fake: npt.ArrayLike,
    sigma: float = 10.0,
    normalise: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> KernelDistance:
    """CMMD with its bootstrap interval. The name belongs to embeddings of CLIP ViT-L/14 at 336 px; of any others, say
    whose they are. normalise: scale each sample to length 1 first. Raises ShapeError (a sample of length 0 to scale, D
    differs, N < 2), DtypeError, NonFiniteError, ConfigError.
    """
    if not sigma > 0:
        raise ConfigError(f"sigma is the width of a Gaussian, above 0; got {sigma}.")
    r, f = feature_pair(real, fake, 2, "a kernel distance")
    if normalise:
        r, f = (_unit(x, name) for x, name in ((r, "real"), (f, "fake")))
    n, m = len(r), len(f)

    def gaussian(products: Array, xx: Array, yy: Array, dims: int) -> None:
        # k - 1: the ones cancel in the difference, and would take four digits with them
        np.expm1(np.minimum(2 * products - xx[:, None] - yy, 0) / (2 * sigma**2), out=products)

    xx, yy, xy = _all_sums(r, f, gaussian, np.zeros((0, n)), np.zeros((0, m)))
    value = 1000 * (xx.rows.sum() / n**2 + yy.rows.sum() / m**2 - 2 * xy.rows.sum() / (n * m))
    influences = 2000 * (xx.rows / n - xy.rows / m), 2000 * (yy.rows / m - xy.columns / n)
    interval = bootstrap_interval(value, *influences, resamples=resamples, seed=seed)
    scaled = "unit vectors" if normalise else "as given"
    label = f"1000 MMD²[Gaussian {sigma:g} | {scaled} | D={r.shape[1]} | N={n}/{m} | biased]"
    return KernelDistance(
        label, float(value), interval, None, None, 0, 0, seed, n, m, r.shape[1], count_note(n, m)
    )  # fmt: skip


def _unit(x: Array, name: str) -> Array:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    if not length.all():
        raise ShapeError(f"{name} sample {int(np.argmin(length))} is all zeros and cannot be scaled to length 1.")
    return x / length


def _unbiased(xx: _Sums, yy: _Sums, xy: _Sums) -> tuple[float, tuple[Array, Array]]:
    n, m = len(xx.rows), len(yy.rows)
    value = xx.rows.sum() / (n * (n - 1)) + yy.rows.sum() / (m * (m - 1)) - 2 * xy.rows.sum() / (n * m)
    return value, (2 * (xx.rows / (n - 1) - xy.rows / m), 2 * (yy.rows / (m - 1) - xy.columns / n))


def _cubic(products: Array, xx: Array, yy: Array, dims: int) -> None:
    products /= dims
    products += 1
    products *= products * products


def _all_sums(x: Array, y: Array, kernel: Kernel, zx: Array, zy: Array) -> tuple[_Sums, _Sums, _Sums]:
    """The sums over x with x, y with y (no sample with itself) and x with y; zx S,N and zy S,M mark S subsets."""
    return _sums(x, x, kernel, zx, zx, True), _sums(y, y, kernel, zy, zy, True), _sums(x, y, kernel, zx, zy, False)


def _sums(x: Array, y: Array, kernel: Kernel, zx: Array, zy: Array, same: bool) -> _Sums:
    lengths = (x * x).sum(1), (y * y).sum(1)
    total = _Sums(np.zeros(len(x)), np.zeros(len(y)), np.zeros(len(zx)))
    for i in range(0, len(x), TILE):
        for j in range(i if same else 0, len(y), WIDE):
            a, b = slice(i, i + TILE), slice(j, j + WIDE)
            with blas_threads(x.shape[1]):
                k = x[a] @ y[b].T
            columns: dict[int, Array] = {}

            def part(first: int, last: int, k=k, i=i, a=a, b=b, columns=columns) -> None:
                # a few rows at a time, which stay in cache
                for r in range(first, last, STRIP):
                    strip = k[r : min(r + STRIP, last)]
                    kernel(strip, lengths[0][i + r : i + r + len(strip)], lengths[1][b], x.shape[1])
                    total.rows[i + r : i + r + len(strip)] += strip.sum(1)
                    columns[first] = columns.get(first, 0) + strip.sum(0)

            share(len(k), part, least=STRIP)
            down = np.sum([columns[first] for first in sorted(columns)], axis=0)
            weight = np.ones(k.shape[1])
            if not same:
                total.columns[b] += down
            else:
                square = min(len(k), k.shape[1]) if j == i else 0
                diagonal = k[:, :square].diagonal().copy()
                np.fill_diagonal(k[:, :square], 0)
                total.rows[i : i + square] -= diagonal
                # beyond the square on the diagonal, each pair stands for its mirror image too
                total.rows[j + square : j + k.shape[1]] += down[square:]
                weight[square:] = 2
            if len(zx):
                with blas_threads(x.shape[1]):
                    total.subsets += ((zx[:, a] @ k) * zy[:, b]) @ weight
    return total
