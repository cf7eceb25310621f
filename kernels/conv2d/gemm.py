"""Convolution as a matrix product whose left factor is never written down. README.md derives it.

Each output pixel needs kh·kw runs of numbers of the image, a run a tap. A table holds where in memory each run begins
(outside of the image: at zeros), and the product reads them from there, ROWS pixels × 2 vectors of channels at a time:

    gather     y[q] = Σ_t run(q, t) · w[t]        forward; input_grad, split by the stride into phases
    outer      gw[t] = Σ_q run(q, t) ⊗ g[q]       weight_grad

Where an image has few channels, a run is a whole line of the kernel, read from a copy with the padding around it.
Channels come as slices: those of a group.
"""

from __future__ import annotations

import numpy as np

from tinygen.kernels.jit import njit
from tinygen.kernels.team import loop
from tinygen.kernels.team import run as divide
from tinygen.kernels.threads import PIECES, WORTH_A_PIECE, get_threads, run

from . import simd

# Pixels whose addresses are looked up together; pixels over which a block of weight gradients is summed in registers:
# a panel of them and the runs they need stay in the first cache.
PIXELS = 64
DEPTH = 128
# With fewer channels than this a run is a line of the kernel.
FEW = 16
# Blocks of ROWS weights that a piece of a gradient has at least, so that looking up and packing are shared by them.
BLOCKS = 16

# ------------------------------------------------------------------------------------------- the three forms


def forward(x, w, y, c, f, geo):
    """y[..., f] = conv(x[..., c], w[..., f]); y is written in full."""
    memory, tap, sc, sf = _weights(w)
    image, runs = x.reshape(-1), (x.shape[0], x.shape[3], c.start, c.stop - c.start)
    if _in_lines(c, geo):
        if tap != w.shape[2] * sc:
            memory, tap, sc, sf = _weights(np.ascontiguousarray(w))
        tap *= geo[1]
        image, runs, geo = _bordered(x, c, geo)
    _gather(image, runs, memory, (f.start * sf, tap, sc, sf), y, f, geo, False)


def input_grad(g, w, gx, c, f, geo):
    """gx[..., c] = input_grad(g[..., f], w[..., f]); gx is written in full.

    The input pixels that lie alike to the stride form a phase, a convolution of g, with step 1, by the taps that reach
    it.
    """
    memory, tap, sc, sf = _weights(w)
    runs = (g.shape[0], g.shape[3], f.start, f.stop - f.start)
    _gather(g.reshape(-1), runs, memory, (f.start * sf, tap, sf, sc), gx, c, geo, True)


def weight_grad(x, g, c, f, geo):
    """The weight gradient (kh, kw, |c|, |f|) of x[..., c] and g[..., f]."""
    shape = (*geo[:2], c.stop - c.start, f.stop - f.start)
    image, runs = x.reshape(-1), (x.shape[0], x.shape[3], c.start, shape[2])
    if _in_lines(c, geo) or shape[2] % simd.ROWS:
        image, runs, geo = _bordered(x, c, geo)
    gw = _outer(image, runs, g, f, geo)[:, : runs[3]]
    return np.ascontiguousarray(gw).reshape(shape)


def _in_lines(c: slice, geo) -> bool:
    return c.stop - c.start < FEW and geo[1] > 1 and geo[5] == 1


def _weights(w: np.ndarray) -> tuple[np.ndarray, int, int, int]:
    """The flat memory of w, and how far apart in it taps, input and output channels are. Exchanged channel axes need no
    copy."""
    turned = w.transpose(0, 1, 3, 2)
    if not w.flags.c_contiguous and turned.flags.c_contiguous:
        return ready(turned).reshape(-1), w.shape[2] * w.shape[3], 1, w.shape[2]
    return ready(w).reshape(-1), w.shape[2] * w.shape[3], w.shape[3], 1


def ready(a: np.ndarray) -> np.ndarray:
    """C-contiguous and writeable: Numba compiles every kernel again for read-only arrays."""
    a = np.ascontiguousarray(a)
    return a if a.flags.writeable else a.copy()


def _bordered(x, c, geo):
    """A copy of x[..., c], flat, with the padding that the windows reach around it and some numbers behind, so that no
    run leaves it; what its runs are, and the geometry in which they are taken. Taps side by side become one run."""
    kh, kw, sh, sw, dh, dw, top, left, OH, OW, H, W = geo
    N, size = x.shape[0], c.stop - c.start
    rows, columns = (OH - 1) * sh + (kh - 1) * dh + 1, (OW - 1) * sw + (kw - 1) * dw + 1
    memory = np.zeros(N * rows * columns * size + simd.ROWS, x.dtype)
    lines, across = slice(max(0, top), min(rows, H + top)), slice(max(0, left), min(columns, W + left))
    if lines.start < lines.stop and across.start < across.stop:
        inner = slice(lines.start - top, lines.stop - top), slice(across.start - left, across.stop - left)
        memory[: -simd.ROWS].reshape(N, rows, columns, size)[:, lines, across] = x[:, *inner, c]
    taps, run = (1, kw * size) if dw == 1 else (kw, size)
    return memory, (N, size, 0, run), (kh, taps, sh, sw, dh, dw, 0, 0, OH, OW, rows, columns)


# ------------------------------------------------------------------------------------------------ the two blocks


def _gather(image, runs, w, weights, y, f, geo, backward):
    """y[..., f] = the products of the runs of each pixel with the weights. runs: images, their channels, first channel
    and length of a run. weights: the first, the distances of taps, of numbers along a run, of channels of y."""
    NR, F = 2 * simd.lanes(y.dtype), f.stop - f.start
    panels = min(geo[2], geo[10]) * min(geo[3], geo[11]) * -(-F // NR) if backward else -(-F // NR)
    chunks = -(-PIECES * get_threads() // max(panels, 1))
    products = runs[0] * geo[8] * geo[9] * geo[0] * geo[1] * runs[3] * F
    run(_gather_whole, panels * chunks, image, w, y.reshape(-1), geo, runs, weights, (y.shape[3], f.start, F, NR),
        backward, chunks, least=pieces(panels * chunks, products))


def _outer(image, runs, g, f, geo):
    """(taps, length of a run rounded up to ROWS, |f|): Σ run ⊗ g[..., f] over the pixels of g."""
    NR, F = 2 * simd.lanes(g.dtype), f.stop - f.start
    depth = -(-runs[3] // simd.ROWS) * simd.ROWS
    pixels, blocks, panels = runs[0] * geo[8] * geo[9], geo[0] * geo[1] * depth // simd.ROWS, -(-F // NR)
    wanted = -(-PIECES * get_threads() // max(panels, 1))
    rows = max(1, min(wanted, blocks // BLOCKS))
    slots = max(1, min(-(-wanted // rows), pixels // DEPTH))
    gw = np.zeros((slots, geo[0] * geo[1], depth, F), g.dtype)
    n = slots * panels * rows
    run(_outer_whole, n, image, g.reshape(-1), gw.reshape(-1), geo, runs, (g.shape[3], f.start, F, NR), slots, rows,
        least=pieces(n, pixels * gw[0].size))
    return gw[0] if slots == 1 else gw.sum(axis=0)


def pieces(n: int, products: int) -> int:
    """The fewest of n equal parts of so many multiply-adds that are worth a piece."""
    return max(1, -(-n * WORTH_A_PIECE // max(products, 1)))


# ------------------------------------------------------------------------------------------------ inner loops


@njit(cache=True, error_model="numpy", nogil=True)
def aligned(count, like):
    """Room for so many numbers, on a border of vectors."""
    memory = np.empty(count + simd.VECTOR, like.dtype)
    shift = -memory.ctypes.data % simd.VECTOR // like.itemsize
    return memory[shift : shift + count]


@njit(cache=True, error_model="numpy", nogil=True)
def look_up(table, taps, t0, t1, src, zeros, runs, size, grid, step, first, count):
    """table[t, p] = the address of the run of tap t, t0 ≤ t < t1, for the pixel first + p; that of zeros where that
    is outside of the image, and for count ≤ p up to a whole number of ROWS. grid: lines and columns of results; step:
    how far apart they are in the source, of the given size. Leaves their image, line and column for `place`."""
    N, C, c, depth = runs
    base, pitch, nothing = src.ctypes.data + c * src.itemsize, C * src.itemsize, zeros.ctypes.data
    images, lines, columns = table[-4], table[-3], table[-2]
    n, a, b = first // (grid[0] * grid[1]), first // grid[1] % grid[0], first % grid[1]
    for p in range(count):
        images[p], lines[p], columns[p] = n, a, b
        b += 1
        if b == grid[1]:
            a, b = a + 1, 0
            if a == grid[0]:
                n, a = n + 1, 0
    for t in range(t0, t1):
        found, dy, dx = table[t], taps[t, 1], taps[t, 2]
        for p in range(count):
            i, j = lines[p] * step[0] + dy, columns[p] * step[1] + dx
            inside = (i >= 0) & (i < size[0]) & (j >= 0) & (j < size[1])
            found[p] = base + ((images[p] * size[0] + i) * size[1] + j) * pitch if inside else nothing
        for p in range(count, -(-count // simd.ROWS) * simd.ROWS):
            found[p] = nothing


@njit(cache=True, error_model="numpy", nogil=True)
def place(table, dst, D, d, into, lattice, count, nowhere):
    """The last line of the table: the addresses of channel d of the results that were looked up, in images of the size
    `into` with D channels; for count ≤ p up to a whole number of ROWS, nowhere."""
    y, x, sy, sx = lattice
    images, lines, columns, outs = table[-4], table[-3], table[-2], table[-1]
    base, pitch = dst.ctypes.data + d * dst.itemsize, D * dst.itemsize
    for p in range(count):
        outs[p] = base + ((images[p] * into[0] + lines[p] * sy + y) * into[1] + columns[p] * sx + x) * pitch
    for p in range(count, -(-count // simd.ROWS) * simd.ROWS):
        outs[p] = nowhere


@njit(cache=True, error_model="numpy", nogil=True)
def look_at(taps, phase, geo, tap, backward):
    """Note offset (in the weights), line and column (in the source) of each tap of a phase. Returns the
    number of taps, the size of the source, the grid of results, how far apart in the source they are, the size of the
    image that holds them, and their lattice (y, x, sy, sx): the result (i, j) is its pixel (y + i·sy, x + j·sx)."""
    kh, kw, sh, sw, dh, dw, top, left, OH, OW, H, W = geo
    if not backward:
        for t in range(kh * kw):
            taps[t, 0], taps[t, 1], taps[t, 2] = t * tap, t // kw * dh - top, t % kw * dw - left
        return kh * kw, (H, W), (OH, OW), (sh, sw), (OH, OW), (0, 0, 1, 1)
    y, x = phase // min(sw, W), phase % min(sw, W)
    T = 0
    for t in range(kh * kw):
        i, j = y + top - t // kw * dh, x + left - t % kw * dw
        if i % sh == 0 and j % sw == 0:
            taps[T, 0], taps[T, 1], taps[T, 2] = t * tap, i // sh, j // sw
            T += 1
    return T, (OH, OW), ((H - y + sh - 1) // sh, (W - x + sw - 1) // sw), (1, 1), (H, W), (y, x, sh, sw)


@njit(cache=True, error_model="numpy", nogil=True)
def _pack(panel, w, taps, T, depth, weights, f, width, NR):
    """panel[(t·depth + k)·NR + j] = the weight of tap t from channel k to channel f + j, 0 beyond the width."""
    w0, _, sk, sf = weights
    lanes = NR // 2
    for t in range(T):
        s, d = w0 + taps[t, 0] + f * sf, t * depth * NR
        if sf == 1:
            for k in range(depth):
                for j in range(width):
                    panel[np.uint64(d + k * NR + j)] = w[np.uint64(s + k * sk + j)]
        else:
            whole = depth // lanes * lanes if width == NR else 0
            for k in range(0, whole, lanes):
                simd.transpose(w, s + k * sk, sf, panel, d + k * NR, NR)
                simd.transpose(w, s + k * sk + lanes * sf, sf, panel, d + k * NR + lanes, NR)
            for j in range(width):
                for k in range(whole, depth):
                    panel[np.uint64(d + k * NR + j)] = w[np.uint64(s + k * sk + j * sf)]
        if width < NR:
            for k in range(depth):
                for j in range(width, NR):
                    panel[np.uint64(d + k * NR + j)] = 0


@njit(cache=True, error_model="numpy", nogil=True)
def _gather_piece(src, w, dst, geo, runs, weights, target, backward, chunks, first, last):
    """The parts first … last of a gather: for each phase and panel of channels, so many chunks of its results."""
    D, d0, F, NR = target
    T, depth, panels = geo[0] * geo[1], runs[3], -(-F // NR)
    taps, table, zeros = np.empty((T, 3), np.int64), np.empty((T + 4, PIXELS), np.int64), np.zeros(depth, src.dtype)
    panel = aligned((T * depth + 1) * NR, w)
    nowhere, outs = panel.ctypes.data + T * depth * NR * panel.itemsize, (T + 3) * PIXELS
    for part in range(first, last):
        f = part // chunks % panels * NR
        T, size, grid, step, into, lattice = look_at(taps, part // chunks // panels, geo, weights[1], backward)
        if part == first or part % chunks == 0:
            _pack(panel, w, taps, T, depth, weights, f, min(NR, F - f), NR)
        pixels = runs[0] * grid[0] * grid[1]
        tiles = -(-pixels // simd.ROWS)
        stop = min(tiles * (part % chunks + 1) // chunks * simd.ROWS, pixels)
        for start in range(tiles * (part % chunks) // chunks * simd.ROWS, stop, PIXELS):
            count = min(PIXELS, stop - start)
            look_up(table, taps, 0, T, src, zeros, runs, size, grid, step, start, count)
            place(table, dst, D, d0 + f, into, lattice, count, nowhere)
            for p in range(0, count, simd.ROWS):
                simd.multiply_rows(table, p, PIXELS, T, depth, panel, 0, table, outs + p, min(NR, F - f))


_gather_pieces = loop(_gather_piece)


@njit(cache=True, error_model="numpy", nogil=True)
def _gather_whole(team, pieces, n, *args):
    divide(team, pieces, n, _gather_pieces(args))


@njit(cache=True, error_model="numpy", nogil=True)
def _outer_piece(src, g, gw, geo, runs, target, slots, rows, first, last):
    """The parts first … last of an outer product: of slots of pixels, each with sums of its own, of panels of channels
    of g, of rows of weights. Adds to gw."""
    D, d0, F, NR = target
    T, blocks, panels = geo[0] * geo[1], -(-runs[3] // simd.ROWS), -(-F // NR)
    taps, table = np.empty((T, 3), np.int64), np.empty((T + 4, DEPTH), np.int64)
    panel, zeros = aligned(DEPTH * NR, g), np.zeros(blocks * simd.ROWS, src.dtype)
    T, size, grid, step, _, _ = look_at(taps, 0, geo, 0, False)
    pixels = runs[0] * grid[0] * grid[1]
    for part in range(first, last):
        slot, f, row = part // (rows * panels), part // rows % panels * NR, part % rows
        width, r0, r1 = min(NR, F - f), T * blocks * row // rows, T * blocks * (row + 1) // rows
        stop = pixels * (slot + 1) // slots
        for start in range(pixels * slot // slots, stop, DEPTH):
            count = min(DEPTH, stop - start)
            look_up(table, taps, r0 // blocks, (r1 - 1) // blocks + 1, src, zeros, runs, size, grid, step, start, count)
            for p in range(count):
                s = (start + p) * D + d0 + f
                for j in range(width):
                    panel[np.uint64(p * NR + j)] = g[np.uint64(s + j)]
                for j in range(width, NR):
                    panel[np.uint64(p * NR + j)] = 0
            for r in range(r0, r1):
                simd.multiply_columns(table, r // blocks * DEPTH, count, r % blocks * simd.ROWS, panel, 0,
                                      gw, (slot * T * blocks + r) * simd.ROWS * F + f, F, width)


_outer_pieces = loop(_outer_piece)


@njit(cache=True, error_model="numpy", nogil=True)
def _outer_whole(team, pieces, n, *args):
    divide(team, pieces, n, _outer_pieces(args))
