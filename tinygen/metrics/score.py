"""One call that judges a generator of digits, with everything needed to read the answer.

Three questions, each with its own witness: is the distribution right (Fréchet distance over the
real-against-real floor, in three feature spaces, because one alone can be blind), is every digit drawn (labels
by a judge fitted on images that the generator has not seen), and are they new (distance to the nearest
training image).
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from tinygen.errors import DataError, DtypeError, ShapeError

from .baseline import relative_frechet
from .extractors import EMBEDDED, extractor, frechet_label
from .frechet import frechet_distance
from .judge import KernelJudge, label_histogram
from .memorisation import memorisation_ratio

EXTRACTORS = (*EMBEDDED, "pixels")


def score_digits(
    samples: npt.ArrayLike, train: Any, heldout: Any, *, splits: int = 40, seed: int = 0
) -> dict[str, Any]:
    """Judge generated digits against held-out real ones.

    samples: uint8 N,H,W,1 in 0..255. train, heldout: data sets with `.images` (uint8, the same size and
    range) and `.labels`, or (images, labels) pairs; the generator was trained on `train` alone.

    Returns a dict of plain numbers, strings and lists, ready for JSON:
      fd            {extractor: {label, value, se, floor, floor_sd, ratio, ratio_se, memoriser, n, blocks,
                    digest, route}}; `memoriser` is FD(train, heldout) / floor at n: what copying would score
      judge         {accuracy, fitted_on, measured_on, counts, shares, real_shares, min, max, margin,
      real_margin} memorisation  {ratio, interval, mean_ratio, near_share, …} of `memorisation_ratio`
      n             {samples, samples_in_fd, train, heldout}
      card          how every number was made
    Raises DtypeError, ShapeError, DataError.
    """
    s = np.asarray(samples)
    (tx, ty), (hx, hy) = _unpack(train, "train"), _unpack(heldout, "heldout")
    for name, x in (("samples", s), ("train", tx), ("heldout", hx)):
        if x.dtype != np.uint8:
            raise DtypeError(f"{name} is {x.dtype}; digits are scored as uint8 images in 0..255.")
        if x.ndim != 4 or x.shape[1:] != tx.shape[1:] or len(x) < 2:
            raise ShapeError(
                f"{name} has shape {x.shape}; at least two images N,{','.join(map(str, tx.shape[1:]))}."
            )
    for name, x in (("train", tx), ("heldout", hx)):
        if x.max() <= 16:
            raise DataError(
                f"{name} spans 0..{x.max()}; scale the digits' 17 levels to 0..255 first, as the samples."
            )

    size = (tx.shape[1], tx.shape[2])
    n = min(len(s), len(hx))
    fd: dict[str, dict[str, Any]] = {}
    for name in EXTRACTORS:
        e = extractor(name)
        ft, fh, fs = e(tx), e(hx), e(s)
        rel = relative_frechet(fs, fh, real=np.concatenate([ft, fh]), splits=splits, seed=seed)
        rng = np.random.default_rng(seed)
        copies, others = (f[rng.permutation(len(f))[:n]] for f in (ft, fh))
        fd[name] = {
            "label": frechet_label(name, size, rel.details),
            "value": rel.value,
            "se": rel.value_se,
            "floor": rel.floor.mean,
            "floor_sd": rel.floor.sd,
            "ratio": rel.ratio,
            "ratio_se": rel.ratio_se,
            "memoriser": frechet_distance(others, copies) / rel.floor.mean if len(ft) >= n else None,
            "n": rel.n,
            "blocks": rel.blocks,
            "digest": e.digest,
            "route": rel.details.route,
        }

    judge = KernelJudge(hx, hy)
    shares = label_histogram(judge, s)
    memorised = asdict(memorisation_ratio(samples=s, train=tx, heldout=hx, seed=seed))
    memorised["interval"] = list(memorised["interval"])
    return {
        "fd": fd,
        "judge": {
            "accuracy": judge.accuracy(tx, ty),
            "fitted_on": len(hx),
            "measured_on": len(tx),
            "counts": [int(c) for c in np.round(shares * len(s))],
            "shares": [float(p) for p in shares],
            "real_shares": [float(p) for p in np.bincount(hy, minlength=judge.classes) / len(hy)],
            "min": float(shares.min()),
            "max": float(shares.max()),
            "margin": float(np.median(judge.margins(s))),
            "real_margin": float(np.median(judge.margins(tx))),
        },
        "memorisation": memorised,
        "n": {
            "samples": len(s),
            "samples_in_fd": fd[EXTRACTORS[0]]["blocks"] * n,
            "train": len(tx),
            "heldout": len(hx),
        },
        "card": {
            "distance": "Fréchet, squared; covariance ddof 1; no regularisation; float64",
            "resize": {name: getattr(extractor(name), "path", f"native {size[0]}x{size[1]}") for name in EXTRACTORS},
            "pixels": "uint8 / 255",
            "extractors": {name: extractor(name).digest for name in EXTRACTORS},
            "floor": f"mean over {splits} random pairs of disjoint sets of {n}, from train + heldout",
            "standard_error": "delete-a-group jackknife, 20 groups, over samples and held-out images",
            "judge": f"RBF kernel ridge, gamma {judge.gamma}, ridge {judge.ridge}, fitted on heldout",
            "memorisation": "median L2 distance to the nearest training image, samples over heldout",
            "seed": seed,
            "versions": _versions(),
        },
    }


def score_lines(score: dict[str, Any]) -> list[str]:
    """The result of `score_digits` as lines of text for a terminal or a report."""
    lines = [
        f"{f['label']} = {f['value']:.3g} ± {f['se']:.1g}, {f['ratio']:.2f} ± {f['ratio_se']:.2f} times "
        f"the floor of real against real ({f['floor']:.3g} ± {f['floor_sd']:.1g})"
        for f in score["fd"].values()
    ]
    j, m, n = score["judge"], score["memorisation"], score["n"]
    shares = " ".join(f"{100 * p:.1f}" for p in j["shares"])
    lines.append(
        f"digits 0-9: {shares} % of {n['samples']} samples (smallest {100 * j['min']:.1f}, largest "
        f"{100 * j['max']:.1f}), by a held-out judge that reads {100 * j['accuracy']:.1f} % of "
        f"{n['train']} real digits correctly"
    )
    lines.append(
        f"nearest training digit: {m['ratio']:.2f} times as far as from held-out digits "
        f"(95 %: {m['interval'][0]:.2f}-{m['interval'][1]:.2f}; N={m['n_samples']}/{m['n_heldout']})"
    )
    return lines


def _unpack(data: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    pair = data if isinstance(data, tuple) else (data.images, data.labels)
    images, labels = np.asarray(pair[0]), np.asarray(pair[1])
    if labels.shape != images.shape[:1]:
        raise ShapeError(
            f"{name} has images {images.shape} and labels {labels.shape}; one label per image is needed."
        )
    return images, labels


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("tinygen")
    except PackageNotFoundError:
        own = "not installed"
    return {"tinygen": own, "numpy": np.__version__}
