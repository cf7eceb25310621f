"""Softmax and its relatives on the CPU: a row is read from memory once and found in the first-level cache after that.

Rows are shared among threads; a row is one thread's, so results do not depend on their number. See README.md.
"""

import math
from typing import Any

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.mathfast import exp
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, grain, run

# NaN and infinities count. Where rows are summed, terms may be taken in any order; where they are shifted they may not:
# (x − top) − log must not become x − (top + log), which cancels.
_FLAGS: dict[str, Any] = {"error_model": "numpy", "cache": True, "nogil": True}
_SHIFTS: dict[str, Any] = _FLAGS | {"fastmath": {"contract", "nsz", "arcp"}}
_SUMS: dict[str, Any] = _FLAGS | {"fastmath": {"reassoc", "contract", "nsz", "arcp"}}
# Terms of a sum in the arrays' precision before it is added to the row's sum in float64.
_RUN = 512


@njit(**_SHIFTS)
def _top(row, cell):
    """The largest number of the row, 0 where that is infinite or NaN. row: its bits as integers; cell: one number."""
    # The bits of floats, those of negative ones turned over, are integers in the same order, and the largest integer is
    # found by vector code; a running maximum of floats is a chain that may not be reordered while NaN counts.
    bits = cell.view(row.dtype)
    positive = np.iinfo(row.dtype).max
    sign = 8 * row.itemsize - 1
    top = ~positive
    for k in range(row.size):
        i = row[k] ^ ((row[k] >> sign) & positive)
        top = i if i > top else top
    bits[0] = top ^ ((top >> sign) & positive)
    return cell[0] if np.isfinite(cell[0]) else cell.dtype.type(0)


@njit(**_SUMS)
def _sum_exp(row, top, out):
    """out = e^(row − top); returns its sum in float64. out may be the row."""
    total = 0.0
    for start in range(0, row.size, _RUN):
        part, to = row[start : start + _RUN], out[start : start + _RUN]
        run = row.dtype.type(0)
        for j in range(part.size):
            e = exp(part[j] - top)
            to[j] = e
            run += e
        total += run
    return total


@njit(**_SHIFTS)
def _softmax(x, bits, log, y, first, last):
    """Rows first:last of softmax, or with log of log_softmax."""
    cell = np.empty(1, x.dtype)
    scratch = np.empty(x.shape[1] if log else 0, x.dtype)
    for r in range(first, last):
        top = _top(bits[r], cell)
        total = _sum_exp(x[r], top, scratch if log else y[r])
        if total == 0.0:
            total = 1.0
        row, out = x[r], y[r]
        if log:
            shift = x.dtype.type(math.log(total))
            for k in range(row.size):
                out[k] = (row[k] - top) - shift
        else:
            scale = x.dtype.type(1.0 / total)
            for k in range(row.size):
                out[k] *= scale


@njit(**_SUMS)
def _softmax_pull(g, y, gx, first, last):
    for r in range(first, last):
        a, b, out = g[r], y[r], gx[r]
        total = 0.0
        for start in range(0, a.size, _RUN):
            c, d = a[start : start + _RUN], b[start : start + _RUN]
            run = y.dtype.type(0)
            for k in range(c.size):
                run += c[k] * d[k]
            total += run
        dot = y.dtype.type(total)
        for k in range(a.size):
            out[k] = b[k] * (a[k] - dot)


@njit(**_SUMS)
def _log_softmax_pull(g, y, gx, first, last):
    for r in range(first, last):
        a, b, out = g[r], y[r], gx[r]
        total = 0.0
        for start in range(0, a.size, _RUN):
            c = a[start : start + _RUN]
            run = y.dtype.type(0)
            for k in range(c.size):
                run += c[k]
            total += run
        whole = y.dtype.type(total)
        for k in range(a.size):
            out[k] = a[k] - exp(b[k]) * whole


@njit(**_SHIFTS)
def _cross_entropy(x, bits, labels, y, tops, totals, first, last):
    cell = np.empty(1, x.dtype)
    scratch = np.empty(x.shape[1], x.dtype)
    for r in range(first, last):
        top = _top(bits[r], cell)
        total = _sum_exp(x[r], top, scratch)
        tops[r], totals[r] = top, total
        y[r] = math.log(total) + (np.float64(top) - np.float64(x[r, labels[r]]))


@njit(**_SHIFTS)
def _cross_entropy_pull(g, x, labels, tops, totals, gx, first, last):
    for r in range(first, last):
        row, out, top = x[r], gx[r], tops[r]
        scale = x.dtype.type(g[r] / (totals[r] if totals[r] != 0.0 else 1.0))
        for k in range(row.size):
            out[k] = exp(row[k] - top) * scale
        out[labels[r]] -= g[r]


_softmax_pieces = loop(_softmax)
_softmax_pull_pieces = loop(_softmax_pull)
_log_softmax_pull_pieces = loop(_log_softmax_pull)
_cross_entropy_pieces = loop(_cross_entropy)
_cross_entropy_pull_pieces = loop(_cross_entropy_pull)


@njit(**_FLAGS)
def _softmax_all(team, pieces, n, *args):
    divide(team, pieces, n, _softmax_pieces(args))


@njit(**_FLAGS)
def _softmax_pull_all(team, pieces, n, *args):
    divide(team, pieces, n, _softmax_pull_pieces(args))


@njit(**_FLAGS)
def _log_softmax_pull_all(team, pieces, n, *args):
    divide(team, pieces, n, _log_softmax_pull_pieces(args))


@njit(**_FLAGS)
def _cross_entropy_all(team, pieces, n, *args):
    divide(team, pieces, n, _cross_entropy_pieces(args))


@njit(**_FLAGS)
def _cross_entropy_pull_all(team, pieces, n, *args):
    divide(team, pieces, n, _cross_entropy_pull_pieces(args))


def _rows(a, *shape):
    """a as contiguous, aligned, writable rows: one type, so one compilation."""
    a = np.ascontiguousarray(a)
    return (a if a.flags.writeable and a.flags.aligned else a.copy()).reshape(shape)


def _bits(x):
    return x.view(np.int32 if x.dtype == np.float32 else np.int64)


def _by_rows(whole, shape, *args):
    """The rows of `shape`, shared."""
    R, K = shape
    run(whole, R, *args, least=grain(R, R * K, PIECE))


def _row_shape(x):
    K = x.shape[-1]
    return (x.size // K if K else 0), K


def _forward(x, log):
    y, shape = np.empty(x.shape, x.dtype), _row_shape(x)
    if x.size:
        x = _rows(x, *shape)
        _by_rows(_softmax_all, shape, x, _bits(x), log, y.reshape(shape))
    return y


def _pull(whole, g, y):
    gx, shape = np.empty(y.shape, y.dtype), _row_shape(y)
    if y.size:
        _by_rows(whole, shape, _rows(g, *shape), _rows(y, *shape), gx.reshape(shape))
    return gx


def softmax(x):
    """y = eˣ / Σ eˣ"""
    return _forward(x, False)


def log_softmax(x):
    """y = x − log Σ eˣ"""
    return _forward(x, True)


def softmax_pull(g, y):
    """y·(g − Σ g·y)"""
    return _pull(_softmax_pull_all, g, y)


def log_softmax_pull(g, y):
    """g − e^y·Σ g"""
    return _pull(_log_softmax_pull_all, g, y)


def cross_entropy_forward(x, labels):
    """log Σ eˣ − x[label], and the hint: each row's largest x and its Σ e^(x − largest)."""
    R, K = shape = _row_shape(x)
    y = np.empty(labels.shape, x.dtype)
    tops, totals = np.empty(R, x.dtype), np.empty(R)
    if x.size:
        x = _rows(x, R, K)
        _by_rows(_cross_entropy_all, shape, x, _bits(x), _rows(labels.astype(np.int64, copy=False), R),
                 y.reshape(R), tops, totals)
    return y, (tops, totals)


def cross_entropy_backward(g, x, labels, *, hint):
    """g·(softmax(x) − onehot(label))"""
    R, K = shape = _row_shape(x)
    gx = np.empty(x.shape, x.dtype)
    if x.size:
        _by_rows(_cross_entropy_pull_all, shape, _rows(g, R), _rows(x, R, K),
                 _rows(labels.astype(np.int64, copy=False), R), *hint, gx.reshape(R, K))
    return gx
