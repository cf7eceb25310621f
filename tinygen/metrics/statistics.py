"""The mean and the covariance of features that arrive in batches, on one machine or on several."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinygen.errors import ConfigError, DataError, ShapeError

from ._arrays import Array, as_features, gram, numeric_features


class FeatureStatistics:
    """Count, mean and scatter of features N,D that arrive in batches; float64 whatever arrives.

    Batches are merged pairwise (Chan, Golub & LeVeque 1983), so a common offset costs no digits, as it would
    in Σ x xᵀ - n μ μᵀ. State: `n` int, `mean` (D,), `scatter` (D, D) = Σ (x - μ)(x - μ)ᵀ. The order of
    batches and shards changes the result by rounding only. `label` says where the features come from (extractor,
    resize); statistics under two labels refuse to be merged or compared.
    """

    def __init__(self, dims: int, label: str = ""):
        if dims < 1:
            raise ShapeError(f"FeatureStatistics needs at least one feature; dims={dims}.")
        self.n = 0
        self.mean = np.zeros(dims)
        self.scatter = np.zeros((dims, dims))
        self.label = label

    @classmethod
    def of(cls, batches: npt.ArrayLike | Iterable[npt.ArrayLike], label: str = "") -> "FeatureStatistics":
        """Statistics of one array N,D, or of an iterable (not an array) of such batches."""
        parts = [batches] if isinstance(batches, np.ndarray) else batches
        out = None
        for part in parts:  # type: ignore[union-attr]
            x = numeric_features(part, "batch")
            out = (out or cls(x.shape[1], label))._take(x)
        if out is None:
            raise ShapeError("FeatureStatistics.of received no batch; at least one array N,D is needed.")
        return out

    @property
    def dims(self) -> int:
        return self.mean.size

    def add(self, batch: npt.ArrayLike) -> "FeatureStatistics":
        """Take in features N,D (N may be 0); returns self. Raises ShapeError, DtypeError, NonFiniteError."""
        return self._take(numeric_features(batch, "batch"))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Take in another shard's statistics; returns self, leaves `other` as it is. Raises ShapeError (D differs),
        ConfigError (labels differ)."""
        self._require_dims(other.dims)
        require_same_label(self.label, other.label)
        self.label = self.label or other.label
        self._merge(other.n, other.mean.copy(), other.scatter if self.n else other.scatter.copy())
        return self

    def covariance(self) -> Array:
        """The unbiased covariance (ddof 1), D,D. Raises ShapeError below two samples."""
        if self.n < 2:
            raise ShapeError(f"a covariance needs at least 2 samples; {self.n} arrived.")
        return self.scatter / (self.n - 1)

    def save(self, path: str | Path) -> None:
        """Write `mu`, `sigma` (ddof 1), `n` and `label` to an .npz, whose first two pytorch-fid reads too."""
        with open(path, "wb") as file:
            np.savez(file, mu=self.mean, sigma=self.covariance(), n=self.n, label=self.label)

    @classmethod
    def load(cls, path: str | Path, n: int | None = None) -> "FeatureStatistics":
        """Read what `save` wrote, or a file of `mu` and `sigma` alone (pytorch-fid, clean-fid, ADM) with its n=.

        Nothing is unpickled. Raises DataError (missing, damaged, no count), ShapeError, NonFiniteError.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {k: file[k] for k in ("mu", "sigma", "n", "label") if k in file.files}
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read as feature statistics (.npz with mu and sigma): {error}.") from None
        if not {"mu", "sigma"} <= set(found):
            raise DataError(f"{path} holds no mu and sigma; give an .npz that FeatureStatistics.save wrote.")
        mean, sigma = np.atleast_1d(found["mu"]), as_features(np.atleast_2d(found["sigma"]), f"sigma of {path}")
        if mean.ndim != 1 or sigma.shape != (mean.size, mean.size):
            raise ShapeError(f"{path} has mu {mean.shape} and sigma {sigma.shape}; D and D,D are needed.")
        count = int(found["n"]) if "n" in found else n
        if count is None or count < 2:
            raise DataError(f"{path} does not say of how many samples it is, and only equal N compare: give n=.")
        out = cls(mean.size, str(found.get("label", "")))
        out.n, out.mean, out.scatter = count, as_features(mean[None], f"mu of {path}")[0], sigma * (count - 1)
        return out

    def _take(self, x: np.ndarray) -> "FeatureStatistics":
        self._require_dims(x.shape[1])
        if len(x):
            mean = x.mean(0, dtype=np.float64)
            self._merge(len(x), mean, gram(x, mean))
        return self

    def _merge(self, n: int, mean: Array, scatter: Array) -> None:
        """`scatter` is taken over, not copied."""
        total = self.n + n
        if self.n == 0:
            self.mean, self.scatter = mean, scatter
        elif n:
            delta = mean - self.mean
            self.mean = self.mean + delta * (n / total)
            self.scatter += scatter
            self.scatter += np.outer(delta * (self.n * n / total), delta)
        self.n = total

    def _require_dims(self, dims: int) -> None:
        if dims != self.dims:
            raise ShapeError(f"these statistics hold {self.dims} features per sample; {dims} arrived.")

    def __repr__(self) -> str:
        return f"FeatureStatistics(n={self.n}, dims={self.dims}{f', label={self.label!r}' if self.label else ''})"


def require_same_label(one: str, other: str) -> None:
    """Raise ConfigError if two sets of statistics say that they come from different extractors."""
    if one and other and one != other:
        raise ConfigError(f"these statistics are of {one!r} and of {other!r}; use one extractor and resize for both.")
