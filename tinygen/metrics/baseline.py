"""What a Fréchet distance would be if the samples were real: the floor that makes a number readable.

Two real sets of N images drawn from one distribution have an expected distance of about c/N, not 0. So a
distance is divided by that floor, at the same N on both sides: 1 is as good as real, 2 is twice the floor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, ShapeError

from ._arrays import Array, as_features, as_images, require_count
from .extractors import EMBEDDED, extractor, frechet_label
from .frechet import FrechetDetails, frechet_distance, frechet_distance_details


@dataclass(frozen=True)
class Floor:
    """Real against real: the distance between two disjoint random sets of `n` images, over `splits` draws."""

    mean: float
    sd: float  # over splits; they share images, so this understates the spread over fresh data
    n: int
    splits: int
    seed: int


@dataclass(frozen=True)
class RelativeFrechet:
    """A distance, its floor at the same N, and their quotient."""

    ratio: float  # value / floor.mean
    ratio_se: float  # standard error of the ratio, floor.mean taken as known
    value: float  # mean over `blocks` disjoint blocks of n samples
    value_se: float
    floor: Floor
    n: int  # on each side of every distance
    blocks: int
    samples_used: int
    samples_given: int
    details: FrechetDetails  # of the first block


def real_floor(
    features: npt.ArrayLike, n: int, *, splits: int = 40, seed: int = 0, route: str = "auto"
) -> Floor:
    """Fréchet distance between two disjoint random subsets of n real features each: mean and sd over splits.

    features: N,D with N >= 2n, all real. Deterministic in `seed`. Raises ShapeError, ConfigError.
    """
    x = as_features(features, "features")
    if n < 2 or 2 * n > len(x):
        raise ShapeError(
            f"two disjoint halves of {n} need 2 <= n <= {len(x) // 2}; {len(x)} real features arrived."
        )
    if splits < 2:
        raise ConfigError(f"a floor needs at least 2 splits to have a spread; splits={splits}.")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(splits):
        order = rng.permutation(len(x))
        values.append(frechet_distance(x[order[:n]], x[order[n : 2 * n]], route=route))
    return Floor(float(np.mean(values)), float(np.std(values, ddof=1)), n, splits, seed)


def relative_frechet(
    samples: npt.ArrayLike,
    heldout: npt.ArrayLike,
    *,
    real: npt.ArrayLike | None = None,
    floor: Floor | None = None,
    splits: int = 40,
    seed: int = 0,
    route: str = "auto",
) -> RelativeFrechet:
    """FD(samples, heldout) over the real-against-real floor, both at n = min(len(samples), len(heldout)).

    samples, heldout: features N,D. real: all real features (training and held-out together), from which the
    floor is taken; or pass a `floor` computed before, at the same n. More samples than n are used as disjoint
    blocks of n whose distances are averaged: less noise, the same bias. Fewer samples than held-out features:
    a random subset of those. Rows are shuffled by `seed` first; the errors are `frechet_standard_error`'s.
    Raises ShapeError, ConfigError, NonFiniteError.
    """
    s, h = as_features(samples, "samples"), as_features(heldout, "heldout")
    n = min(len(s), len(h))
    if (real is None) == (floor is None):
        raise ConfigError("relative_frechet needs real=, to take the floor from, or floor=, and not both.")
    if floor is None:
        floor = real_floor(real, n, splits=splits, seed=seed, route=route)  # type: ignore[arg-type]
    elif floor.n != n:
        raise ShapeError(
            f"the floor was taken at N={floor.n} and the distance would be at N={n}; Fréchet distances "
            "compare only at equal N."
        )
    # files and class-conditional generators come in an order; a part of them must not follow it
    rng = np.random.default_rng(seed)
    s, h = s[rng.permutation(len(s))], h[rng.permutation(len(h))[:n]]
    blocks = [s[i * n : (i + 1) * n] for i in range(len(s) // n)]
    details = [frechet_distance_details(h, b, route=route) for b in blocks]
    value = float(np.mean([d.value for d in details]))
    se_real, se_fake = frechet_standard_error(h, blocks[0], seed=seed)
    se = float(np.hypot(se_real, se_fake / np.sqrt(len(blocks))))
    return RelativeFrechet(
        value / floor.mean,
        se / floor.mean,
        value,
        se,
        floor,
        n,
        len(blocks),
        n * len(blocks),
        len(s),
        details[0],
    )


def frechet_standard_error(
    real: npt.ArrayLike, fake: npt.ArrayLike, *, groups: int = 20, seed: int = 0
) -> tuple[float, float]:
    """The standard errors of frechet_distance(real, fake) due to the draw of `real` and to the draw of
    `fake`.

    Delete-a-group jackknife (Shao & Tu 1995, §2.3) over `groups` random groups. Not a bootstrap: resampling
    with replacement duplicates images, and duplicates themselves raise the distance. The two errors add in
    squares.
    """
    r, f = as_features(real, "real"), as_features(fake, "fake")
    rng = np.random.default_rng(seed)

    def error(x: Array, distance: Callable[[Array], float]) -> float:
        g = min(groups, len(x))
        parts = np.array_split(rng.permutation(len(x)), g)
        values = [distance(np.delete(x, part, axis=0)) for part in parts]
        return float(np.sqrt((g - 1) * np.var(values)))

    return error(r, lambda x: frechet_distance(x, f)), error(f, lambda x: frechet_distance(r, x))


@dataclass(frozen=True)
class EmbeddedFrechet:
    """A distance in one of the embedded spaces, with its floor and label."""

    label: str
    digest: str  # of the extractor
    relative: RelativeFrechet

    def __str__(self) -> str:
        r = self.relative
        return (f"{self.label} = {r.value:.4g} ± {r.value_se:.1g}, {r.ratio:.2f} ± {r.ratio_se:.2f} times the floor of "
                f"real against real ({r.floor.mean:.4g} ± {r.floor.sd:.1g})")


def embedded_frechet(
    samples: npt.ArrayLike,
    heldout: npt.ArrayLike,
    *,
    real: npt.ArrayLike,
    names: Sequence[str] = EMBEDDED,
    splits: int = 40,
    seed: int = 0,
) -> dict[str, EmbeddedFrechet]:
    """relative_frechet of images in each embedded space: by default both, since each is blind where the other sees.

    samples, heldout, real: images N,H,W,C of one size, uint8 or float in [0, 1]; real are all real ones, the held-out
    among them, for the floor. Raises ShapeError, DtypeError, NonFiniteError, ConfigError.
    """
    sets = {"samples": as_images(samples, "samples"), "heldout": as_images(heldout, "heldout"),
            "real": as_images(real, "real")}
    for name, x in sets.items():
        require_count(name, len(x), 2, "a Fréchet distance")
        if x.shape[1:] != sets["heldout"].shape[1:]:
            raise ShapeError(f"{name} are images {x.shape[1:]} and heldout {sets['heldout'].shape[1:]}; their sizes "
                             "must agree, for a resize would itself move the distance.")
    found = {}
    for name in names:
        e = extractor(name)
        s, h, r = (e(x) for x in sets.values())
        relative = relative_frechet(s, h, real=r, splits=splits, seed=seed)
        size = (sets["heldout"].shape[1], sets["heldout"].shape[2])
        found[e.name] = EmbeddedFrechet(frechet_label(e, size, relative.details), e.digest, relative)
    return found
