"""Metrics beside their reference implementations: time, peak memory and agreement: bench/results/metrics.json.

    python bench/metrics.py [--dry] [--rounds N] [--only CASE …] [--sides SIDE …]

Every turn is a process of its own, with all cores: it makes its input, warms up on a small one (compiling, pools),
then runs once by the clock. Sides take turns for as many rounds as asked; one that takes longer than 20 s has a single
turn. Peak memory is what the run itself added to the process, input excluded. Features are float32, as networks give
them. --only and --sides add to what was recorded before, under the same command line but for them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import io
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

LONG = 20.0  # seconds after which one turn is enough


def features(n: int, m: int, dims: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    """Two sets with a decaying spectrum and many zeros, as a network's pooled activations have."""
    rng = np.random.default_rng(0)
    scale = np.exp(-np.arange(dims) / (dims / 4))
    mix = np.linalg.qr(rng.standard_normal((dims, dims)))[0] * scale
    sets = [rng.standard_normal((k, dims)) @ mix.T * np.sqrt(dims) * 0.05 + 0.01 * s for s, k in enumerate((n, m))]
    return tuple(np.maximum(x, 0).astype(np.float32) for x in sets)  # type: ignore[return-value]


def images(n: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 N,H,W,3: smooth pictures, and the same with noise."""
    rng = np.random.default_rng(0)
    i, j, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    x = 127.5 + 60 * np.sin(0.07 * i + 0.3 * c + rng.uniform(0, 6, (n, 1, 1, 1))) + 50 * np.cos(0.045 * j - 0.02 * i)
    y = x + rng.normal(0, 12, x.shape)
    return tuple(np.clip(np.round(z), 0, 255).astype(np.uint8) for z in (x, y))  # type: ignore[return-value]


def tinygen(kind: str) -> Callable:
    import tinygen as tg

    m = tg.metrics
    return {
        "frechet": lambda x, y: m.frechet_distance(x, y),
        "frechet, with interval": lambda x, y: m.frechet_distance_details(x, y).value,
        "frechet, cholesky": lambda x, y: m.frechet_distance(x, y, route="cholesky"),
        "kid": lambda x, y: m.kernel_distance_details(real=x, fake=y, subset_size=min(1000, len(x))).subset_mean,
        "precision": lambda x, y: m.precision_recall(real=x, fake=y).precision,
        "prdc": lambda x, y: m.density_coverage(real=x, fake=y).density,
        "ssim": lambda x, y: m.ssim(x, y, data_range=255),
    }[kind]


def torch_fidelity(kind: str) -> Callable:
    import torch

    f = {k: importlib.import_module(f"torch_fidelity.metric_{k}") for k in ("fid", "kid", "prc")}
    kernel = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None,
              "kid_kernel_poly_coef0": 1.0, "kid_subsets": 100, "rng_seed": 2020, "verbose": False}  # fmt: skip

    def frechet(x, y):
        stats = [f["fid"].fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
        return f["fid"].fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]

    def kid(x, y):
        sets = torch.from_numpy(x), torch.from_numpy(y)
        out = f["kid"].kid_features_to_metric(*sets, kid_subset_size=min(1000, len(x)), **kernel)
        return out["kernel_inception_distance_mean"]

    def precision(x, y):
        return f["prc"].calculate_precision_recall_full(torch.from_numpy(y), torch.from_numpy(x), 3)[0]

    return {"frechet": frechet, "kid": kid, "precision": precision}[kind]


def torchmetrics(kind: str) -> Callable:
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Given(torch.nn.Module):
        num_features = 0

        def forward(self, x):
            return x

    def frechet(x, y):
        Given.num_features = x.shape[1]
        metric = FrechetInceptionDistance(feature=Given())
        metric.update(torch.from_numpy(x), real=True)
        metric.update(torch.from_numpy(y), real=False)
        return float(metric.compute())

    def kid(x, y):
        metric = KernelInceptionDistance(feature=Given(), subsets=100, subset_size=min(1000, len(x)))
        metric.update(torch.from_numpy(x), real=True)
        metric.update(torch.from_numpy(y), real=False)
        return float(metric.compute()[0])

    def ssim(x, y):
        return float(np.mean([structural_similarity_index_measure(tensor(a), tensor(b), data_range=255.0)
                              for a, b in zip(batches(x), batches(y))]))  # fmt: skip

    return {"frechet": frechet, "kid": kid, "ssim": ssim}[kind]


def tensor(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).float()


def batches(x: np.ndarray) -> list[np.ndarray]:
    """Of 16 images: all at once would take these libraries several GB."""
    return [x[i : i + 16] for i in range(0, len(x), 16)]


def pytorch_fid(kind: str) -> Callable:
    from pytorch_fid.fid_score import calculate_frechet_distance as distance

    def frechet(x, y):
        return float(distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)))

    return {"frechet": frechet}[kind]


def clean_fid(kind: str) -> Callable:
    from cleanfid import fid

    def frechet(x, y):
        return float(fid.frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False)))

    def kid(x, y):
        return float(fid.kernel_distance(x, y, num_subsets=100, max_subset_size=1000))

    return {"frechet": frechet, "kid": kid}[kind]


def piq(kind: str) -> Callable:
    import torch

    library = importlib.import_module("piq")

    def frechet(x, y):
        return float(library.FID().compute_metric(torch.from_numpy(x), torch.from_numpy(y)))

    def ssim(x, y):
        return float(np.mean([library.ssim(tensor(a), tensor(b), data_range=255.0, downsample=False)
                              for a, b in zip(batches(x), batches(y))]))  # fmt: skip

    return {"frechet": frechet, "ssim": ssim}[kind]


def pytorch_msssim(kind: str) -> Callable:
    library = importlib.import_module("pytorch_msssim")

    def ssim(x, y):
        return float(np.mean([float(library.ssim(tensor(a), tensor(b), data_range=255.0))
                              for a, b in zip(batches(x), batches(y))]))  # fmt: skip

    return {"ssim": ssim}[kind]


def prdc(kind: str) -> Callable:
    library = importlib.import_module("prdc")
    return {"prdc": lambda x, y: library.compute_prdc(x, y, 5)["density"]}[kind]


def scikit_image(kind: str) -> Callable:
    from skimage.metrics import structural_similarity

    def ssim(x, y):
        return float(np.mean([structural_similarity(a, b, data_range=255, channel_axis=2, gaussian_weights=True,
                                                    sigma=1.5, use_sample_covariance=False)
                              for a, b in zip(x, y)]))  # fmt: skip

    return {"ssim": ssim}[kind]


SIDES = {"tinygen": tinygen, "torch-fidelity": torch_fidelity, "torchmetrics": torchmetrics, "pytorch-fid": pytorch_fid,
         "clean-fid": clean_fid, "piq": piq, "pytorch-msssim": pytorch_msssim, "prdc": prdc,
         "scikit-image": scikit_image}  # fmt: skip
FRECHET = ("tinygen", "torch-fidelity", "torchmetrics", "pytorch-fid", "clean-fid", "piq")
# name: (kind, input, small input, sides)
CASES: dict[str, tuple[str, Callable, Callable, tuple[str, ...]]] = {
    **{
        f"{kind}, N={n}": (kind, lambda n=n: features(n, n), lambda n=n: features(n // 4, n // 4, 384), sides)
        for n in (1000, 5000)
        for kind, sides in (("frechet", FRECHET), ("frechet, with interval", ("tinygen",)),
                            ("frechet, cholesky", ("tinygen",)),
                            ("kid", ("tinygen", "torch-fidelity", "torchmetrics", "clean-fid")))
    },
    "precision, 10k×10k": ("precision", lambda: features(10_000, 10_000), lambda: features(600, 600, 64),
                           ("tinygen", "torch-fidelity")),
    "prdc, 10k×10k": ("prdc", lambda: features(10_000, 10_000), lambda: features(600, 600, 64), ("tinygen", "prdc")),
    "ssim, 256×256²": ("ssim", lambda: images(256, 256), lambda: images(2, 64),
                       ("tinygen", "scikit-image", "pytorch-msssim", "piq", "torchmetrics")),
}  # fmt: skip


def turn(side: str, case: str) -> dict[str, float]:
    """In a process of its own: the seconds, the MiB, the value."""
    from bench.worker import memory

    warnings.filterwarnings("ignore")
    kind, make, small, _ = CASES[case]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run = SIDES[side](kind)
        run(*small())
        data = make()
        if os.path.exists("/proc/self/clear_refs"):
            ctypes.CDLL(None).malloc_trim(0)  # what making the input has freed is not there to be used again
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = memory()["now"]
        start, cpu = time.perf_counter(), time.process_time()
        value = run(*data)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "mib": memory()["peak"] - before, "value": float(value)}


def race(case: str, rounds: int, only: list[str] | None) -> dict[str, Any]:
    """{side: {seconds, cpu, mib: medians; turns, value}}"""
    result: dict[str, list[dict[str, float]]] = {}
    sides = [s for s in CASES[case][3] if not only or s in only]
    for k in range(rounds):
        for side in sides if k % 2 == 0 else sides[::-1]:
            done = result.setdefault(side, [])
            if done and (done[0]["seconds"] > LONG or "error" in done[0]):
                continue
            command = [sys.executable, os.path.abspath(__file__), "--turn", side, case]
            made = subprocess.run(command, capture_output=True, text=True)
            last = (made.stdout.strip() or made.stderr.strip() or "nothing").splitlines()[-1]
            done.append(json.loads(last) if made.returncode == 0 else {"error": last, "seconds": 0.0})  # type: ignore[dict-item]
    table = {}
    for side, turns in result.items():
        if "error" in turns[0]:
            table[side] = {"error": turns[0]["error"]}
        else:
            table[side] = {k: statistics.median(t[k] for t in turns) for k in ("seconds", "cpu", "mib", "value")}
            table[side]["turns"] = len(turns)
        shown = {k: round(v, 6) if isinstance(v, float) else v for k, v in table[side].items()}
        print(f"{case:34}{side:16}", shown, flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="record nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES))
    parser.add_argument("--turn", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        print(json.dumps(turn(*args.turn)))
        return
    from bench import record

    path = record.ROOT / "bench" / "results" / "metrics.json"
    cases = json.loads(path.read_text())["cases"] if path.exists() else {}
    for case in args.only:
        cases[case] = {**cases.get(case, {}), **race(case, args.rounds, args.sides)}
        ours = cases[case].get("tinygen", {}).get("seconds")
        sides = {name: side for name, side in cases[case].items() if isinstance(side, dict) and name != "tinygen"}
        others = [side["seconds"] for side in sides.values() if "seconds" in side]
        if ours and others:
            cases[case]["fastest peer / tinygen"] = round(min(others) / ours, 2)
        if not args.dry:
            record.write("metrics", {"cases": {name: cases[name] for name in CASES if name in cases}})


if __name__ == "__main__":
    main()
