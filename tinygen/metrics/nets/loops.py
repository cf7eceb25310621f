"""The passes over feature maps between the convolutions and after them, compiled.

Flat loops over rows of pixels, channels innermost, shared among the threads by rows of the result.
"""

from functools import partial
from typing import Any

import numpy as np
from numba import njit

from tinygen.kernels.threads import grain, share

_FLAGS: dict[str, Any] = {"error_model": "numpy", "cache": True, "nogil": True}


@njit(**_FLAGS)
def _bias_relu(y, b, first, last):
    for r in range(first, last):
        row = y[r]
        for c in range(b.size):
            v = row[c] + b[c]
            row[c] = np.float32(0) if v <= 0 else v  # so that a NaN stays one


@njit(**_FLAGS)
def _pool(x, y, size, stride, top, left, mean, first, last):
    H, W, C = x.shape[1:]
    OH, OW = y.shape[1:3]
    for q in range(first, last):
        n, i = q // OH, q % OH
        h0, h1 = max(i * stride - top, 0), min(i * stride - top + size, H)
        for j in range(OW):
            w0, w1 = max(j * stride - left, 0), min(j * stride - left + size, W)
            to, source = y[n, i, j], x[n, h0, w0]
            for c in range(C):
                to[c] = source[c]
            for h in range(h0, h1):
                for w in range(w0, w1):
                    if h == h0 and w == w0:
                        continue
                    source = x[n, h, w]
                    if mean:
                        for c in range(C):
                            to[c] += source[c]
                    else:
                        for c in range(C):
                            to[c] = to[c] if to[c] >= source[c] or to[c] != to[c] else source[c]
            if mean:
                weight = np.float32(1) / np.float32((h1 - h0) * (w1 - w0))
                for c in range(C):
                    to[c] *= weight


@njit(**_FLAGS, fastmath={"reassoc", "contract"})  # so that sums over the channels use vectors
def _distances(a, b, w, eps, d, first, last):
    for r in range(first, last):
        x, y = a[r], b[r]
        xx, yy, s = np.float32(0), np.float32(0), np.float32(0)
        for c in range(w.size):
            xx += x[c] * x[c]
            yy += y[c] * y[c]
        xx, yy = np.float32(1) / (np.sqrt(xx) + eps), np.float32(1) / (np.sqrt(yy) + eps)
        for c in range(w.size):
            z = x[c] * xx - y[c] * yy
            s += w[c] * z * z
        d[r] = s


def distances(a: np.ndarray, b: np.ndarray, w: np.ndarray, eps: float) -> np.ndarray:
    """Σ_c w_c (a_c / (‖a‖ + eps) − b_c / (‖b‖ + eps))² of each pixel: a, b contiguous float32 N,h,w,C -> N,h,w."""
    d = np.empty(a.shape[:-1], np.float32)
    rows = a.reshape(-1, w.size), b.reshape(-1, w.size), w, np.float32(eps), d.reshape(-1)
    share(d.size, lambda i, j: _distances(*rows, i, j), least=grain(d.size, 4 * a.size))
    return d


def bias_relu(y: np.ndarray, b: np.ndarray) -> None:
    """y ← max(y + b, 0) in place: y contiguous float32 …,C; b float32 C."""
    rows = y.reshape(-1, y.shape[-1])
    share(len(rows), lambda i, j: _bias_relu(rows, b, i, j), least=grain(len(rows), y.size))


@njit(**_FLAGS)
def _join(y, b, rectify, out, at, first, last):
    for r in range(first, last):
        row, to = y[r], out[r, at : at + b.size]
        for c in range(b.size):
            v = row[c] + b[c]
            to[c] = np.float32(0) if rectify and v <= 0 else v


def join(parts: list[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
    """max(y + b, 0) of each (y, b) side by side, y itself where b is None: contiguous float32 N,h,w,C -> N,h,w,ΣC."""
    first = parts[0][0]
    out = np.empty((*first.shape[:3], sum(y.shape[3] for y, _ in parts)), np.float32)
    flat, at = out.reshape(-1, out.shape[3]), 0
    for y, b in parts:
        rows, bias = y.reshape(len(flat), y.shape[3]), np.zeros(y.shape[3], np.float32) if b is None else b
        share(len(flat), partial(_join, rows, bias, b is not None, flat, at), least=grain(len(flat), y.size))
        at += y.shape[3]
    return out


def pool(x: np.ndarray, out: tuple[int, int], size: int, stride: int, before: tuple[int, int],
         mean: bool) -> np.ndarray:
    """The maximum, or the mean, of the pixels inside the image in each window: x N,H,W,C float32 -> N,*out,C. The first
    window begins before = (top, left) pixels outside."""
    x = np.ascontiguousarray(x)
    x = x if x.flags.writeable else x.copy()  # one type, one compilation
    y = np.empty((len(x), *out, x.shape[3]), np.float32)
    lines = len(x) * out[0]
    share(lines, lambda i, j: _pool(x, y, size, stride, *before, mean, i, j), least=grain(lines, 3 * y.size))
    return y
