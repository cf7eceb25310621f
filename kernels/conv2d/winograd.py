"""3×3 convolution at stride 1 with fewer multiplications: Winograd's F(m×m, 3×3), m = 2 or 4. README.md derives it.

Every function takes and returns what __init__.py documents, with `tile` = m. Images are cut into tiles of m×m outputs,
which read n×n inputs, n = m + 2. Per tile, with ⊙ one product per transformed pixel and channel, summed over channels:

    forward       y  += Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A
    input_grad    the forward of g with w reversed and its channels exchanged
    weight_grad   gw += Gᵀ [(Bᵀ x B) ⊙ (A g Aᵀ)] G

A thread takes blocks of tiles and, for each, panels of output channels (two vectors wide): the transformed weights and
products of a panel stay in its own cache, and nothing transformed ever outlives the block.
"""

from __future__ import annotations

import functools
import threading

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECE, WORTH_A_PIECE, get_threads, grain, run

from . import simd
from .cpu import ready

# Interpolation points of the one-dimensional algorithms (besides ∞). ±3/4, ±3/2 instead of the usual ±1, ±2 halve the
# error of F(4), and their transforms are still exact in binary: README.md has the comparison.
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
# Tiles in a block. More of them share one transform of a panel's weights; fewer stay nearer to the core.
BLOCK = 64
# Bytes that a block's transformed inputs may take.
MEMORY = 4 << 20
# Numbers between matrices whose like entries are written together: at powers of two apart they would fall into the same
# few sets of the cache, and drive one another out.
PAD = 16

_scratch = threading.local()


def cook_toom(points: tuple[float, ...], m: int, r: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aᵀ (m, n), G (n, r), Bᵀ (n, n) with n = m + r − 1 = len(points) + 1: for a signal x of n numbers and a filter w
    of r, Aᵀ [(G w) ⊙ (Bᵀ x)] are the m numbers Σ_k x[i + k] w[k] (Lavin & Gray 2016, §4; Blahut 2010, §5)."""
    n = m + r - 1
    a_t, g, b_t = np.zeros((m, n)), np.zeros((n, r)), np.zeros((n, n))
    for k, p in enumerate(points):
        others = np.delete(np.array(points), k)
        a_t[:, k] = p ** np.arange(m)
        g[k] = p ** np.arange(r) / np.prod(p - others)
        b_t[k, :-1] = np.poly(others)[::-1]
    a_t[-1, -1] = g[-1, -1] = 1  # the point at infinity: the highest coefficients
    b_t[-1] = np.poly(points)[::-1]
    return a_t, g, b_t


_A2, _G2, _B2 = cook_toom(POINTS[2], 2)
_A4, _G4, _B4 = cook_toom(POINTS[4], 4)
_input2, _input4 = simd.sandwich(_B2), simd.sandwich(_B4)
_weight2, _weight4 = simd.sandwich(_G2), simd.sandwich(_G4)
_output2, _output4 = simd.sandwich(_A2), simd.sandwich(_A4)
_output2_adjoint, _output4_adjoint = simd.sandwich(_A2.T), simd.sandwich(_A4.T)
_weight2_adjoint, _weight4_adjoint = simd.sandwich(_G2.T, add=True), simd.sandwich(_G4.T, add=True)


# ------------------------------------------------------------------------------------------- the three forms


def forward(x, w, *, padding, tile):
    """y (N, OH, OW, F) from x (N, H, W, C) and w (3, 3, C, F)."""
    x, w = ready(x), ready(w)
    (top, bottom), (left, right) = padding
    shape = (x.shape[0], x.shape[1] + top + bottom - 2, x.shape[2] + left + right - 2, w.shape[3])
    return _convolve(x, w, shape, top, left, tile)


def input_grad(g, w, *, x_shape, padding, tile):
    """gx (N, H, W, C) from g (N, OH, OW, F) and w (3, 3, C, F)."""
    g, w = ready(g), ready(w)
    (top, _), (left, _) = padding
    turned = np.empty((3, 3, w.shape[3], w.shape[2]), w.dtype)
    C, F = w.shape[2:]
    runs = 9 * -(-C // 8)
    run(_turn_all, runs, w.reshape(-1), turned.reshape(-1), C, F, least=grain(runs, 2 * w.size, PIECE))
    return _convolve(g, turned, x_shape, 2 - top, 2 - left, tile)


def weight_grad(x, g, *, w_shape, padding, tile):
    """gw (3, 3, C, F) from x (N, H, W, C) and g (N, OH, OW, F)."""
    x, g = ready(x), ready(g)
    C, F = w_shape[2:]
    plan = _plan(x.shape, g.shape, C, F, padding[0][0], padding[1][0], tile, x.dtype, get_threads(), True)
    parts, depth, width = plan.parts, plan.depth, plan.width
    total = np.zeros((1 if plan.by_panels else parts, 3, 3, depth, width), x.dtype)
    flat = x.reshape(-1), g.reshape(-1), total.reshape(len(total), -1)
    run(_weight_grad_all, parts, *flat, *plan.memory(), *plan.scalars)
    for other in total[1:]:
        total[0] += other
    return np.ascontiguousarray(total[0, :, :, :C, :F])


def _convolve(x, w, shape, top, left, tile):
    """y of the given shape: y[n, i, j] = Σ x[n, i + u − top, j + v − left] · w[u, v], zeros around x."""
    C, F = w.shape[2:]
    y = np.empty(shape, x.dtype)
    plan = _plan(x.shape, y.shape, C, F, top, left, tile, x.dtype, get_threads(), False)
    run(_forward_all, plan.parts, x.reshape(-1), w.reshape(-1), y.reshape(-1), *plan.memory(), *plan.scalars)
    return y


class _Plan:
    """How the outputs fall into tiles, the tiles into blocks, and both to the threads; and memory to work in.

    One part a thread, as each transforms the weights for itself: of the panels of output channels where all tiles on
    each thread cost less than all weights on each (a number of an image takes twice as long), else of the tiles.
    """

    def __init__(self, x: tuple[int, ...], out: tuple[int, ...], C: int, F: int, top: int, left: int, tile: int,
                 dtype: np.dtype, threads: int, weight_grad: bool):
        lanes, side = simd.lanes(dtype), tile + 2
        rows, columns = -(-out[1] // tile), -(-out[2] // tile)
        tiles, panels = out[0] * rows * columns, -(-F // (2 * lanes))
        self.width = panels * 2 * lanes
        self.depth = _round_up(C, max(lanes, simd.ROWS) if weight_grad else lanes)
        self.by_panels = 2 * tiles < F and panels >= threads
        least = max(1, WORTH_A_PIECE // (2 * side**2 * max(C * F, 1)))
        self.parts = max(1, min(threads, panels if self.by_panels else tiles // least))
        block = self._block(tiles if self.by_panels else -(-tiles // self.parts), side**2 * self.depth * dtype.itemsize)
        geometry = (tile, rows, columns, *x[1:3], *out[1:3], top, left, lanes)
        self.scalars = (geometry, C, F, tiles, panels, block, self.parts, self.by_panels)
        # of each part: transformed inputs of a block; a panel's second operand and its result; one tile each of
        # inputs, of outputs and of weights, for the edges
        area, panel, extra = side**2, 2 * lanes, simd.ROWS if weight_grad else C
        sizes = (block * (area * self.depth + PAD), area * (extra * panel + PAD), area * block * panel,
                 area * self.depth, tile**2 * panel, 9 * max(extra, 1) * panel)
        line = 64 // dtype.itemsize
        self.dtype, self.ends = dtype, [0]
        for size in sizes:
            self.ends.append(self.ends[-1] + _round_up(size, line))

    @staticmethod
    def _block(tiles: int, bytes_a_tile: int) -> int:
        """Tiles in a block: as equal as can be, whole multiples of the rows that are multiplied together."""
        room = max(simd.ROWS, min(BLOCK, MEMORY // max(bytes_a_tile, 1)))
        blocks = max(1, -(-tiles // room))
        return _round_up(max(1, -(-tiles // blocks)), simd.ROWS)

    def memory(self) -> list[np.ndarray]:
        """Each of the kinds, (parts, size): the calling thread's, kept between calls."""
        need = self.parts * self.ends[-1] * self.dtype.itemsize
        memory = getattr(_scratch, "memory", None)
        if memory is None or memory.nbytes < need:
            memory = np.zeros(need + 64, np.uint8)
            memory = _scratch.memory = memory[-memory.ctypes.data % 64 :]  # from the start of a line of the cache on
        rows = memory[:need].view(self.dtype).reshape(self.parts, -1)
        return [rows[:, i:j] for i, j in zip(self.ends, self.ends[1:])]


_plan = functools.lru_cache(maxsize=1024)(_Plan)


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


# --------------------------------------------------------------------- the work of a thread, on flat arrays


@njit(cache=True, error_model="numpy", nogil=True)
def _forward(x, w, y, V, U, M, inputs, outputs, weights, geo, C, F, first, last, block, panel, panels):
    m, rows, columns, H, W, OH, OW, top, left, lanes = geo
    n, NR = m + 2, 2 * lanes
    width = -(-C // lanes) * lanes
    stride = n * n * width + PAD
    for start in range(first, last, block):
        count = min(block, last - start)
        for t in range(count):
            _input_tile(x, V, inputs, t * stride, width, geo, C, start + t)
        for p in range(panel, panels):
            _weight_panel(w, U, weights, m, C, F, p * NR, lanes)
            for k in range(n * n):
                for t in range(0, count, simd.ROWS):
                    simd.multiply(V, t * stride + k * width, stride, 1, U, k * (C * NR + PAD), NR,
                                  M, (t * n * n + k) * NR, n * n * NR, C)
            for t in range(count):
                _output_tile(M, y, outputs, t * n * n * NR, geo, F, p * NR, start + t)


@njit(cache=True, error_model="numpy", nogil=True)
def _weight_grad(x, g, gw, V, D, M, inputs, outputs, _, geo, C, F, first, last, block, panel, panels):
    """Adds to gw (3, 3, C, F), its channels rounded up to whole blocks of `multiply`."""
    m, lanes = geo[0], geo[9]
    n, NR = m + 2, 2 * lanes
    width = -(-C // max(lanes, simd.ROWS)) * max(lanes, simd.ROWS)
    stride = n * n * width + PAD
    line = -(-F // NR) * NR
    for start in range(first, last, block):
        count = min(block, last - start)
        for t in range(count):
            _input_tile(x, V, inputs, t * stride, width, geo, C, start + t)
        for p in range(panel, panels):
            for t in range(count):
                _gradient_tile(g, M, outputs, t * n * n * NR, geo, F, p * NR, start + t)
            for c in range(0, width, simd.ROWS):
                for k in range(n * n):
                    simd.multiply(V, k * width + c, 1, stride, M, k * NR, n * n * NR, D, k * simd.ROWS * NR, NR, count)
                for r in range(simd.ROWS):
                    for v in range(0, NR, lanes):
                        s, d, step = r * NR + v, (c + r) * line + p * NR + v, simd.ROWS * NR
                        if m == 4:
                            _weight4_adjoint(D, s, n * step, step, gw, d, 3 * width * line, width * line)
                        else:
                            _weight2_adjoint(D, s, n * step, step, gw, d, 3 * width * line, width * line)


@njit(cache=True, error_model="numpy", nogil=True)
def _bounds(part, parts, tiles, panels, by_panels):
    """First and last tile, and first and last panel, of a part."""
    if by_panels:
        return 0, tiles, panels * part // parts, panels * (part + 1) // parts
    return tiles * part // parts, tiles * (part + 1) // parts, 0, panels


@njit(cache=True, error_model="numpy", nogil=True)
def _forward_parts(x, w, y, V, U, M, inputs, outputs, weights, geo, C, F, tiles, panels, block, parts, by_panels,
                   first, last):
    for k in range(first, last):
        a, b, p, q = _bounds(k, parts, tiles, panels, by_panels)
        _forward(x, w, y, V[k], U[k], M[k], inputs[k], outputs[k], weights[k], geo, C, F, a, b, block, p, q)


@njit(cache=True, error_model="numpy", nogil=True)
def _weight_grad_parts(x, g, gw, V, D, M, inputs, outputs, weights, geo, C, F, tiles, panels, block, parts, by_panels,
                       first, last):
    for k in range(first, last):
        a, b, p, q = _bounds(k, parts, tiles, panels, by_panels)
        to = gw[0 if by_panels else k]
        _weight_grad(x, g, to, V[k], D[k], M[k], inputs[k], outputs[k], weights[k], geo, C, F, a, b, block, p, q)


_forwards, _weight_grads = loop(_forward_parts), loop(_weight_grad_parts)


@njit(cache=True, nogil=True)
def _forward_all(team, pieces, n, *args):
    divide(team, pieces, n, _forwards(args))


@njit(cache=True, nogil=True)
def _weight_grad_all(team, pieces, n, *args):
    divide(team, pieces, n, _weight_grads(args))


@njit(cache=True, error_model="numpy", nogil=True)
def _input_tile(x, V, inputs, d, width, geo, C, q):
    """V[d …] = Bᵀ X B for the inputs X of tile q: (n, n, width), zeros outside of the image and beyond C."""
    m, rows, columns, H, W, OH, OW, top, left, lanes = geo
    n = m + 2
    i, j = q // columns % rows * m - top, q % columns * m - left
    src, s, row, column = x, ((q // columns // rows * H + i) * W + j) * C, W * C, C
    if width != C or i < 0 or j < 0 or i + n > H or j + n > W:
        lo, hi = min(max(-j, 0), n), max(min(W - j, n), 0)
        for a in range(n):
            if i + a < 0 or i + a >= H or lo >= hi:
                _zero(inputs, a * n * width, n * width)
                continue
            _zero(inputs, a * n * width, lo * width)
            if width == C:  # neighbouring pixels are one run of memory
                _copy(inputs, (a * n + lo) * width, x, s + (a * W + lo) * C, (hi - lo) * C)
            else:
                for b in range(lo, hi):
                    _copy(inputs, (a * n + b) * width, x, s + (a * W + b) * C, C)
                    _zero(inputs, (a * n + b) * width + C, width - C)
            _zero(inputs, (a * n + hi) * width, (n - hi) * width)
        src, s, row, column = inputs, 0, n * width, width
    for c in range(0, width, lanes):
        if m == 4:
            _input4(src, s + c, row, column, V, d + c, 6 * width, width)
        else:
            _input2(src, s + c, row, column, V, d + c, 4 * width, width)


@njit(cache=True, error_model="numpy", nogil=True)
def _weight_panel(w, U, weights, m, C, F, f, lanes):
    """U (n·n, C, 2·lanes), PAD apart, = G w Gᵀ for the output channels from f on."""
    n, NR = m + 2, 2 * lanes
    src, s, line, step = w, f, F, C * NR + PAD
    if f + NR > F:
        src, s, line = weights, 0, NR
        for k in range(9 * C):
            _copy(weights, k * NR, w, k * F + f, F - f)
            _zero(weights, k * NR + F - f, f + NR - F)
    for c in range(C):
        for v in range(0, NR, lanes):
            if m == 4:
                _weight4(src, s + c * line + v, 3 * C * line, C * line, U, c * NR + v, n * step, step)
            else:
                _weight2(src, s + c * line + v, 3 * C * line, C * line, U, c * NR + v, n * step, step)


@njit(cache=True, error_model="numpy", nogil=True)
def _output_tile(M, y, outputs, s, geo, F, f, q):
    """The outputs Aᵀ M A of tile q, in the channels from f on, where they lie inside of the image."""
    m, rows, columns, H, W, OH, OW, top, left, lanes = geo
    NR = 2 * lanes
    i, j = q // columns % rows * m, q % columns * m
    place = ((q // columns // rows * OH + i) * OW + j) * F + f
    dst, d, row, column = y, place, OW * F, F
    edge = i + m > OH or j + m > OW or f + NR > F
    if edge:
        dst, d, row, column = outputs, 0, m * NR, NR
    for v in range(0, NR, lanes):
        if m == 4:
            _output4(M, s + v, 6 * NR, NR, dst, d + v, row, column)
        else:
            _output2(M, s + v, 4 * NR, NR, dst, d + v, row, column)
    if edge:
        for a in range(min(m, OH - i)):
            for b in range(min(m, OW - j)):
                _copy(y, place + (a * OW + b) * F, outputs, (a * m + b) * NR, min(NR, F - f))


@njit(cache=True, error_model="numpy", nogil=True)
def _gradient_tile(g, M, outputs, d, geo, F, f, q):
    """M[d …] = A g Aᵀ (n, n, 2·lanes), for the outputs of tile q and the channels from f on; zeros beyond them."""
    m, rows, columns, H, W, OH, OW, top, left, lanes = geo
    n, NR = m + 2, 2 * lanes
    i, j = q // columns % rows * m, q % columns * m
    src, s, row, column = g, ((q // columns // rows * OH + i) * OW + j) * F + f, OW * F, F
    if i + m > OH or j + m > OW or f + NR > F:
        _zero(outputs, 0, m * m * NR)
        for a in range(min(m, OH - i)):
            for b in range(min(m, OW - j)):
                _copy(outputs, (a * m + b) * NR, g, s + (a * OW + b) * F, min(NR, F - f))
        src, s, row, column = outputs, 0, m * NR, NR
    for v in range(0, NR, lanes):
        if m == 4:
            _output4_adjoint(src, s + v, row, column, M, d + v, n * NR, NR)
        else:
            _output2_adjoint(src, s + v, row, column, M, d + v, n * NR, NR)


@njit(cache=True, error_model="numpy", nogil=True)
def _turn(w, turned, C, F, first, last):
    """turned[2 − u, 2 − v, f, c] = w[u, v, c, f], for the taps and runs of 8 channels c from first to last."""
    runs = -(-C // 8)
    for r in range(first, last):
        k, c = r // runs, r % runs * 8
        s, d, count = (k * C + c) * F, (8 - k) * F * C + c, min(8, C - c)
        for f in range(F):
            for j in range(count):  # eight lines fit in a set of the cache, wherever they lie
                turned[np.uint64(d + f * C + j)] = w[np.uint64(s + j * F + f)]


_turns = loop(_turn)


@njit(cache=True, nogil=True)
def _turn_all(team, pieces, n, *args):
    divide(team, pieces, n, _turns(args))


@njit(cache=True, error_model="numpy", nogil=True)
def _zero(dst, d, count):
    for j in range(count):
        dst[np.uint64(d + j)] = 0


@njit(cache=True, error_model="numpy", nogil=True)
def _copy(dst, d, src, s, count):
    for j in range(count):
        dst[np.uint64(d + j)] = src[np.uint64(s + j)]
