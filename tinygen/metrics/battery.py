"""Every metric of sets of images by its name, and what each says of itself.

    sets = Sets(fake=samples, real=heldout, train=training_images)
    for score in measure("frechet", sets):
        print(score.line)

Features are computed once for each extractor and shared. A `Score` carries everything that moves its number: see there
for the keys of a report card.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

import numpy as np

from tinygen.errors import ConfigError, DataError

from .baseline import Floor, real_floor, relative_frechet
from .bootstrap import Interval
from .extractors import Extractor, extractor, extractors, frechet_label
from .frechet import FrechetDetails, frechet_distance_details
from .inception import inception_score
from .manifold import density_coverage, precision_recall
from .memorisation import authpct, memorisation_ratio
from .mmd import cmmd_details, kernel_distance_details
from .saved import Saved
from .statistics import FeatureStatistics
from .vendi import vendi_details

BLOCK = 1024  # images between two ticks of the progress; a multiple of the extractors' own blocks
SPLITS = 40  # of a floor, and fewer where one distance takes long
FLOPS = 1e12  # of all splits of a floor, about half a minute


@dataclass
class Score:
    """One number of a report card."""

    metric: str  # the name it is asked for by
    label: str  # what it is, with every choice that moves it
    value: float
    better: str  # "lower", "higher" or "near 1"
    n_real: int | None
    n_fake: int
    interval: tuple[float, float] | None = None  # 95 %, the noise of the draw
    deviation: float | None = None  # over splits or subsets
    floor: dict[str, Any] | None = None  # real against real: mean, sd, n, splits, seed, scaled
    ratio: float | None = None  # value over floor
    ratio_error: float | None = None
    extractor: dict[str, Any] | None = None  # name, digest, dims
    resize: str | None = None
    dtype: str = "uint8 images, float64 scores"
    route: str | None = None
    seed: int = 0
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)  # what the metric itself returned
    sentence: str | None = None  # in place of the usual line

    @property
    def line(self) -> str:
        """For a terminal."""
        if self.sentence is not None:
            return self.sentence
        if self.floor is not None and self.ratio is not None:
            error = f" ± {self.ratio_error:.2f}" if self.ratio_error is not None else ""
            spread = (self.interval[1] - self.interval[0]) / 3.92 if self.interval else float("nan")
            own = f" ± {_short(spread, 1)}" if np.isfinite(spread) else ""
            floor = f"{_short(self.floor['mean'], 3)} ± {_short(self.floor['sd'], 1)}"
            text = (f"{self.label} = {_short(self.value, 3)}{own}, {self.ratio:.2f}{error} times the floor of real "
                    f"against real ({floor}{', scaled to this N' if self.floor['scaled'] else ''})")
        else:
            text = f"{self.label} = {self.value:.4g}"
            text += f" ± {self.deviation:.2g}" if self.deviation is not None else ""
            if self.interval is not None and np.isfinite(self.interval).all():
                low, high = (round(v, 12) for v in self.interval)  # a share's bound of 4e-19 is 0
                text += f" (95 %: {low:.4g}–{high:.4g})"
        # the label has both N already
        return "; ".join([text, *(note.rstrip(".") for note in self.notes if not note.startswith("N differs"))])

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it; numbers that are not finite are None."""
        return plain({k: v for k, v in asdict(self).items() if k != "sentence"})


@dataclass
class Sets:
    """What is judged: images uint8 N,H,W,C, or statistics where there are no images, and what they are judged with."""

    fake: np.ndarray | None
    real: np.ndarray | None = None
    train: np.ndarray | None = None  # what the generator learned from
    fake_saved: Sequence[Saved] = ()
    real_saved: Sequence[Saved] = ()
    extractors: Sequence[Extractor] = ()
    inception: Any = None  # an InceptionFeatures
    floor_train: bool = True  # are `train` and `real` of one distribution, so that both serve for a floor
    seed: int = 0
    bar: Callable[[str, int], Any] = lambda what, total: nullcontext(lambda n: None)
    _features: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def features(self, e: Extractor, which: str) -> np.ndarray:
        """Of "fake", "real" or "train", N,D; kept."""
        key = e.digest, which
        if key not in self._features:
            images = getattr(self, which)
            with self.bar(f"features of {e.name}, {which}", len(images)) as tick:
                parts = []
                step = BLOCK if not hasattr(e, "resize") else 16
                for i in range(0, len(images), step):
                    parts.append(e(images[i : i + step]))
                    tick(len(parts[-1]))
            self._features[key] = np.concatenate(parts)
        return self._features[key]

    def identity(self, e: Extractor, dims: int) -> str:
        """The label of saved statistics: one string for one definition of features."""
        return f"{e.name}/{dims} | {self.path(e)} | {e.digest}"

    def path(self, e: Extractor) -> str:
        """How an image gets to the extractor."""
        images = next((x for x in (self.fake, self.real) if x is not None), None)
        if images is not None:
            return getattr(e, "path", f"native {images.shape[1]}x{images.shape[2]}")
        labels = [s.statistics.label.split(" | ") for s in (*self.fake_saved, *self.real_saved)]
        return next((x[1] for x in labels if len(x) == 3 and x[2] == e.digest), "unknown")

    def moments(self, e: Extractor, which: str) -> np.ndarray | FeatureStatistics:
        """Features, or the saved statistics of the same definition. Raises ConfigError."""
        if getattr(self, which) is not None:
            return self.features(e, which)
        saved = self.found(e, which)
        if saved is None:
            kept = ", ".join(repr(s.statistics.label) for s in getattr(self, f"{which}_saved")) or "none"
            raise ConfigError(f"the saved statistics are of {kept}, and not of {e.name} ({e.digest}) on images of "
                              "this size; choose the same --extractor, or save them again.")  # fmt: skip
        return saved.statistics

    def found(self, e: Extractor, which: str) -> Saved | None:
        """The saved statistics that fit an extractor: by label, or by dimension for Inception where they have none."""
        for s in getattr(self, f"{which}_saved"):
            x = s.statistics
            if x.label == self.identity(e, x.dims) or not x.label and hasattr(e, "resize") and x.dims == 2048:
                return s
        return None

    def both(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(real, fake) images. Raises ConfigError where there are only statistics."""
        if self.real is None or self.fake is None:
            raise ConfigError(f"the metric {metric!r} needs the images of both sets, and saved statistics hold only "
                              "their moments; they serve frechet and fid.")  # fmt: skip
        return self.real, self.fake


def floor_of(sets: Sets, e: Extractor, n: int) -> tuple[Floor, bool] | None:
    """The floor at n, and whether it was scaled there: taken at half of the real images, where they are fewer than 2n,
    and multiplied by what their bias, c/n, has it be."""
    if sets.real is None:
        saved = sets.found(e, "real")
        floor = saved.floor if saved else None
        if floor is None:
            return None
    else:
        pool = sets.features(e, "real")
        if sets.train is not None and sets.floor_train:
            pool = np.concatenate([sets.features(e, "train"), pool])
        at = n if 2 * n <= len(pool) else len(pool) // 2
        if at < 2:
            return None
        floor = real_floor(pool, at, splits=_splits(at, pool.shape[1]), seed=sets.seed)
    if floor.n == n:
        return floor, False
    return Floor(floor.mean * floor.n / n, floor.sd * floor.n / n, floor.n, floor.splits, floor.seed), True


def _work(n: int, d: int) -> float:
    """Floating-point operations of one Fréchet distance, roughly."""
    return 4.0 * n * d * min(n, d) + 20.0 * min(n, d) ** 3


def _splits(n: int, d: int) -> int:
    return int(np.clip(FLOPS / _work(n, d), 4, SPLITS))


# ---- the metrics; each takes (sets) or (sets, extractor) and returns scores


def frechet(sets: Sets, e: Extractor, metric: str = "frechet") -> list[Score]:
    """With its floor. Where real images are enough for both, at one N on both sides (`relative_frechet`); otherwise of
    all images, against a floor scaled to their N."""
    r, f = sets.moments(e, "real"), sets.moments(e, "fake")
    n_r, n_f = (x.n if isinstance(x, FeatureStatistics) else len(x) for x in (r, f))
    dims = r.dims if isinstance(r, FeatureStatistics) else r.shape[1]
    n, error = min(n_r, n_f), None
    interval: tuple[float, float] | None
    floor: Floor | None
    arrays = isinstance(r, np.ndarray) and isinstance(f, np.ndarray)
    pool = [sets.features(e, "train"), r] if sets.train is not None and sets.floor_train and arrays else [r]
    enough = arrays and sum(map(len, pool)) >= 2 * n  # type: ignore[arg-type]
    if enough and 2 * SPLITS * _work(n, dims) <= 4 * FLOPS and metric == "frechet":
        rel = relative_frechet(f, r, real=np.concatenate(pool), splits=_splits(n, dims), seed=sets.seed)  # type: ignore
        details, value, error, floor, scaled = rel.details, rel.value, rel.ratio_se, rel.floor, False
        interval = (value - 1.96 * rel.value_se, value + 1.96 * rel.value_se)
    else:
        details = frechet_distance_details(r, f, seed=sets.seed)
        value, interval = details.value, _pair(details.interval)
        # the bias of a distance between n and m samples is c (1/n + 1/m) / 2 to first order
        found = floor_of(sets, e, max(2, round(2 / (1 / n_r + 1 / n_f))))
        floor, scaled = found if found is not None else (None, False)
    return [
        Score(
            metric, _label(sets, e, details), value, "lower", details.n_real, details.n_fake, interval,
            floor=None if floor is None else {**asdict(floor), "scaled": scaled},
            ratio=None if floor is None or not floor.mean else value / floor.mean, ratio_error=error,
            extractor=_facts(e, dims), resize=sets.path(e), route=details.route, seed=sets.seed,
            notes=details.notes if floor else (*details.notes, "no floor is known: statistics or too few images"),
            details={"mean_term": details.mean_term},
        )
    ]  # fmt: skip


def fid(sets: Sets) -> list[Score]:
    """By the published weights alone, on all images. Raises ConfigError without them."""
    e = sets.inception
    if e is None or not e.published:
        what = f"the file given has the digest {e.sha256[:16]}…" if e is not None else "no --weights were given"
        raise ConfigError(f"the metric 'fid' is of the published Inception weights alone, and {what}; give --weights "
                          "pt_inception-2015-12-05-6726825d.pth, or --metric frechet --extractor inception for a "
                          "distance that other weights may have.")  # fmt: skip
    return frechet(sets, e, "fid")


def kid(sets: Sets, e: Extractor) -> list[Score]:
    sets.both("kid")
    r, f = sets.features(e, "real"), sets.features(e, "fake")
    n = min(len(r), len(f))
    # subsets that are the whole set would all be alike
    k = kernel_distance_details(real=r, fake=f, subset_size=1000 if n > 1000 else max(2, n // 2))
    label = k.label.replace("KD[", f"{'KID' if _published(e) else 'KD'}[{e.name}/{k.dims} | {sets.path(e)} | ")
    return [_score("kid", label, k.value, "lower", k, sets, e, deviation=k.subset_sd, seed=k.seed)]


def cmmd(sets: Sets, e: Extractor) -> list[Score]:
    sets.both("cmmd")
    k = cmmd_details(real=sets.features(e, "real"), fake=sets.features(e, "fake"), seed=sets.seed)
    label = k.label.replace("MMD²[", f"MMD²[{e.name}/{k.dims} | {sets.path(e)} | ")
    return [_score("cmmd", label, k.value, "lower", k, sets, e)]


def precision_recall_scores(sets: Sets, e: Extractor) -> list[Score]:
    sets.both("precision_recall")
    p = precision_recall(real=sets.features(e, "real"), fake=sets.features(e, "fake"), seed=sets.seed)
    return [_neighbours("precision_recall", name, p, sets, e) for name in ("precision", "recall")]


def density_coverage_scores(sets: Sets, e: Extractor) -> list[Score]:
    sets.both("density_coverage")
    p = density_coverage(real=sets.features(e, "real"), fake=sets.features(e, "fake"), seed=sets.seed)
    return [_neighbours("density_coverage", name, p, sets, e) for name in ("density", "coverage")]


def vendi(sets: Sets, e: Extractor) -> list[Score]:
    v = vendi_details(_fake(sets, e, "vendi"), seed=sets.seed)
    label = f"Vendi[{e.name}/{v.dims} | {sets.path(e)} | N={v.n}]"
    return [_score("vendi", label, v.value, "higher", v, sets, e, n_real=None, n_fake=v.n)]


def authentic(sets: Sets, e: Extractor) -> list[Score]:
    if sets.train is None:
        raise ConfigError("the metric 'authpct' needs the images that the generator learned from: judge a run, or "
                          "name them with --train.")  # fmt: skip
    a = authpct(train=sets.features(e, "train"), samples=_fake(sets, e, "authpct"), seed=sets.seed)
    label = f"AuthPct[{e.name} | {sets.path(e)} | N={a.n_samples}, {a.n_train} training]"
    return [_score("authpct", label, a.percent, "higher", a, sets, e, n_real=a.n_train, n_fake=a.n_samples)]


def memorisation(sets: Sets) -> list[Score]:
    if sets.train is None or sets.real is None or sets.fake is None:
        raise ConfigError("the metric 'memorisation' needs training images beside held-out ones: judge a run, or "
                          "name them with --train and --against.")  # fmt: skip
    m = memorisation_ratio(samples=sets.fake, train=sets.train, heldout=sets.real, seed=sets.seed)
    label = f"nearest training image[pixels | N={m.n_samples}/{m.n_heldout}, {m.n_train} training]"
    return [_score("memorisation", label, m.ratio, "near 1", m, sets, None, interval=m.interval, n_real=m.n_heldout,
                   n_fake=m.n_samples)]  # fmt: skip


def inception(sets: Sets) -> list[Score]:
    e = sets.inception
    if e is None:
        raise ConfigError("the metric 'inception' needs --weights, the file of the Inception network that classifies.")
    if sets.fake is None:
        raise ConfigError("the metric 'inception' needs images, and saved statistics hold none.")
    parts = []
    with sets.bar("classes by Inception", len(sets.fake)) as tick:
        for i in range(0, len(sets.fake), 16):
            parts.append(e.taps(sets.fake[i : i + 16], ("logits_unbiased",))["logits_unbiased"])
            tick(len(parts[-1]))
    logits = np.concatenate(parts)
    s = inception_score(logits, splits=10 if len(logits) >= 20 else 1)
    name = "IS" if e.published else "IS with other weights"
    label = f"{name}[{e.name} | {e.path} | N={s.n} | {s.splits} splits, seed {s.seed}; {s.one_split:.4g} in one]"
    counts: dict[str, Any] = {"n_real": None, "n_fake": s.n, "seed": s.seed or 0}
    return [_score("inception", label, s.mean, "higher", s, sets, e, interval=None, deviation=s.sd, **counts)]


Metric = Callable[..., list[Score]]
BY_EXTRACTOR: dict[str, Metric] = {
    "frechet": frechet, "kid": kid, "cmmd": cmmd, "precision_recall": precision_recall_scores,
    "density_coverage": density_coverage_scores, "vendi": vendi, "authpct": authentic,
}  # fmt: skip
BY_SET: dict[str, Metric] = {"fid": fid, "inception": inception, "memorisation": memorisation}


def measure(name: str, sets: Sets) -> list[Score]:
    """The scores of one metric: of every extractor where it is taken in features. Raises ConfigError, DataError and
    what the metric raises."""
    if name in BY_SET:
        return BY_SET[name](sets)
    return [score for e in sets.extractors for score in BY_EXTRACTOR[name](sets, e)]


def default_pair(shape: tuple[int, ...]) -> list[Extractor]:
    """The two embedded extractors that images H,W,C are judged by: one alone may be blind to what is wrong.

    Raises DataError for images too small for them.
    """
    if min(shape[:2]) < 8:
        raise DataError(f"the images are {shape[1]}×{shape[0]} pixels; the embedded extractors need at least 8×8.")
    known = [n for n in ("randconv-v1", "attributes-v1", "pixels") if n in extractors()]
    return [extractor(name) for name in known[:2]]


def _fake(sets: Sets, e: Extractor, metric: str) -> np.ndarray:
    if sets.fake is None:
        raise ConfigError(f"the metric {metric!r} needs images, and saved statistics hold only their moments.")
    return sets.features(e, "fake")


def _label(sets: Sets, e: Extractor, details: FrechetDetails) -> str:
    size = re.fullmatch(r"native (\d+)x(\d+)", sets.path(e))
    return frechet_label(e, (int(size[1]), int(size[2])) if size else (0, 0), details)


def _published(e: Extractor) -> bool:
    return getattr(e, "published", False)


def _facts(e: Extractor | None, dims: int | None) -> dict[str, Any] | None:
    return None if e is None else {"name": e.name, "digest": e.digest, "dims": dims}


def _pair(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None else (interval.low, interval.high)


def _neighbours(metric: str, name: str, p: Any, sets: Sets, e: Extractor) -> Score:
    interval = getattr(p, f"{name}_interval")
    label = f"{name}[{e.name} | {sets.path(e)} | k={p.k}, {p.ties} balls | N={p.n_real}/{p.n_fake}]"
    better = "near 1" if name == "density" else "higher"
    return _score(metric, label, getattr(p, name), better, p, sets, e, _pair(interval))


def _score(metric: str, label: str, value: float, better: str, found: Any, sets: Sets, e: Extractor | None,
           interval: tuple[float, float] | None | str = "its own", **more: Any) -> Score:  # fmt: skip
    """A score of what a metric returned, whose counts, interval, notes and dimensions are taken over."""
    own = _pair(getattr(found, "interval", None)) if interval == "its own" else interval
    dims = getattr(found, "dims", None)
    if dims is None and e is not None and sets.fake is not None:
        dims = sets.features(e, "fake").shape[1]
    counts = {"n_real": getattr(found, "n_real", None), "n_fake": getattr(found, "n_fake", 0)}
    filled = {**counts, "seed": sets.seed, **more}
    return Score(metric, label, value, better, interval=own, extractor=_facts(e, dims),  # type: ignore[arg-type]
                 resize=sets.path(e) if e is not None else None, notes=tuple(getattr(found, "notes", ())),
                 details=plain(asdict(found)), **filled)  # fmt: skip


def _short(v: float, digits: int) -> str:
    """So many digits, and all those before the point."""
    return f"{v:.0f}" if abs(v) >= 10**digits else f"{v:.{digits}g}"


def plain(v: Any) -> Any:
    """A value as JSON knows it; what is not finite becomes None."""
    if is_dataclass(v) and not isinstance(v, type):
        v = asdict(v)
    if hasattr(v, "shape"):
        v = np.asarray(v)
        v = v.item() if v.size == 1 else v.tolist()
    if isinstance(v, dict):
        return {str(k): plain(x) for k, x in v.items()}
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    return None if isinstance(v, float) and not np.isfinite(v) else v
