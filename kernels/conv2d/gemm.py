"""Convolution as a matrix product whose left factor is never written down. README.md derives it.

Each output pixel needs kh·kw runs of numbers of the image, a run a tap. A table holds where in memory each run begins
(outside of the image: at zeros), and the product reads them from there, ROWS pixels × 2 vectors of channels at a time:

    gather     y[q] = Σ_t run(q, t) · w[t]        forward; input_grad, split by the stride into phases
    outer      gw[t] = Σ_q run(q, t) ⊗ g[q]       weight_grad

Where an image has few channels, a run is a whole line of the kernel, read from a copy with the padding around it.
Channels come as slices: those of a group.
"""

from __future__ import annotations

import threading

import numba
import numpy as np

from tinygen.kernels.threads import WORTH, get_threads, share

from . import simd

# Pixels whose addresses are looked up together; pixels over which a block of weight gradients is summed in registers:
# a panel of them and the runs they need stay in the first cache.
PIXELS = 64
DEPTH = 128
# With fewer channels than this a run is a line of the kernel.
FEW = 16
# A gradient of at most so many weights is summed by each thread over pixels of its own, a larger one is divided.
SMALL = 40_000

_scratch = threading.local()


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

    The input pixels that lie alike to the stride form a phase: each phase is a convolution of g, with step 1, by the taps
    that reach it.
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
    kh, kw, sh, sw, _, _, _, _, OH, OW, _, _ = geo
    count, NR, F = kh * kw, 2 * simd.lanes(y.dtype), f.stop - f.start
    parts, flat = get_threads(), y.reshape(-1)
    by_panels = -(-F // NR) % parts == 0

    def work(first: int, last: int) -> None:
        panel = buffer("panel", (count * runs[3] + 1) * NR, y.dtype)
        table, taps = tables(geo, PIXELS)
        _gather_part(image, zeros_of(runs[3], y.dtype), w, flat, panel, table, taps, geo, runs, weights,
                     (y.shape[3], f.start, F, NR), backward, by_panels, first, last, parts)

    products = runs[0] * OH * OW * count * runs[3] * F
    share(parts, work, least=-(-parts * WORTH // (2 * max(products, 1))))


def _outer(image, runs, g, f, geo):
    """(taps, length of a run rounded up to ROWS, |f|): Σ run ⊗ g[..., f] over the pixels of g."""
    taps, F = geo[0] * geo[1], f.stop - f.start
    depth = -(-runs[3] // simd.ROWS) * simd.ROWS
    pixels, rows, NR = runs[0] * geo[8] * geo[9], taps * depth // simd.ROWS, 2 * simd.lanes(g.dtype)
    flat, parts = g.reshape(-1), {}

    def work(gw: np.ndarray, *part: int) -> None:
        panel = buffer("panel", DEPTH * NR, g.dtype)
        table, where = tables(geo, DEPTH)
        _outer_part(image, zeros_of(depth, g.dtype), flat, gw.reshape(-1), panel, table, where, geo, runs,
                    (g.shape[3], f.start, F, NR), *part)

    def by_pixels(first: int, last: int) -> None:
        parts[first] = np.zeros((taps, depth, F), g.dtype)
        work(parts[first], first, last, 0, rows)

    if taps * depth * F <= SMALL:
        share(pixels, by_pixels, least=max(1, WORTH // (2 * max(taps * depth * F, 1))))
        if not parts:
            return np.zeros((taps, depth, F), g.dtype)
        total, *others = (parts[k] for k in sorted(parts))
        for other in others:
            total += other
        return total
    total = np.zeros((taps, depth, F), g.dtype)
    share(rows, lambda first, last: work(total, 0, pixels, first, last),
          least=max(1, WORTH // (2 * max(pixels * simd.ROWS * F, 1))))
    return total


def buffer(name: str, count: int, dtype: np.dtype) -> np.ndarray:
    """`count` numbers of this thread's scratch memory, kept between calls: fresh pages would cost more than filling."""
    key = name + dtype.char
    memory = getattr(_scratch, key, None)
    if memory is None or memory.size < count:
        room = np.empty(count + simd.VECTOR, dtype)
        shift = -room.ctypes.data % simd.VECTOR // dtype.itemsize
        memory = room[shift : shift + count]
        setattr(_scratch, key, memory)
    return memory


def tables(geo, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """What look_up fills for so many pixels, and look_at for all taps."""
    taps = geo[0] * geo[1]
    memory = buffer("table", (taps + 4) * pixels + 3 * taps, np.dtype(np.int64))
    lines = (taps + 4) * pixels
    return memory[:lines].reshape(taps + 4, pixels), memory[lines : lines + 3 * taps].reshape(taps, 3)


def zeros_of(count: int, dtype: np.dtype) -> np.ndarray:
    """At least `count` zeros."""
    memory = getattr(_scratch, "zeros" + dtype.char, None)
    if memory is None or memory.size < count:
        memory = np.zeros(count, dtype)
        setattr(_scratch, "zeros" + dtype.char, memory)
    return memory


# ------------------------------------------------------------------------------------------------ inner loops


@numba.njit(cache=True, error_model="numpy", nogil=True)
def look_up(table, taps, T, src, zeros, runs, size, grid, step, first, count):
    """table[t, p] = the address of the run of tap t < T for the pixel first + p, at zeros where that lies outside of the
    image, and for count ≤ p up to a whole number of ROWS. grid: lines and columns of results; step: how far apart they
    are in the source, of the given size. Leaves image, line and column of the results for `place`."""
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
    for t in range(T):
        found, dy, dx = table[t], taps[t, 1], taps[t, 2]
        for p in range(count):
            i, j = lines[p] * step[0] + dy, columns[p] * step[1] + dx
            inside = (i >= 0) & (i < size[0]) & (j >= 0) & (j < size[1])
            found[p] = base + ((images[p] * size[0] + i) * size[1] + j) * pitch if inside else nothing
        for p in range(count, -(-count // simd.ROWS) * simd.ROWS):
            found[p] = nothing


@numba.njit(cache=True, error_model="numpy", nogil=True)
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


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _gather_part(src, zeros, w, dst, panel, table, taps, geo, runs, weights, target, backward, by_panels, part, last,
                 parts):
    """The share part … last of `parts` of a gather: of the panels of channels, or of the tiles of ROWS pixels."""
    F, NR = target[2:]
    panels = -(-F // NR)
    p0, p1 = (panels * part // parts, panels * last // parts) if by_panels else (0, panels)
    for phase in range(phases(geo, backward)):
        T, size, grid, step, into, lattice = look_at(taps, phase, geo, weights[1], backward)
        tiles = -(-runs[0] * grid[0] * grid[1] // simd.ROWS)
        first, stop = (0, tiles) if by_panels else (tiles * part // parts, tiles * last // parts)
        for p in range(p0, p1):
            _gather_panel(src, zeros, w, dst, panel, table, taps, T, runs, weights, target, p * NR, first, stop, size,
                          grid, step, into, lattice)


@numba.njit(cache=True, error_model="numpy", nogil=True)
def phases(geo, backward):
    """One for a forward convolution; for its adjoint one for each place of a pixel within a stride."""
    return min(geo[2], geo[10]) * min(geo[3], geo[11]) if backward else 1


@numba.njit(cache=True, error_model="numpy", nogil=True)
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


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _gather_panel(src, zeros, w, dst, panel, table, taps, T, runs, weights, target, f, first, stop, size, grid, step,
                  into, lattice):
    """The channels f … f + 2·lanes of the tiles first … stop of a phase's results."""
    D, d0, F, NR = target
    depth, width = runs[3], min(NR, F - f)
    pixels = min(stop * simd.ROWS, runs[0] * grid[0] * grid[1])
    outs = (table.shape[0] - 1) * PIXELS
    _pack(panel, w, taps, T, depth, weights, f, width, NR)
    for start in range(first * simd.ROWS, pixels, PIXELS):
        count = min(PIXELS, pixels - start)
        look_up(table, taps, T, src, zeros, runs, size, grid, step, start, count)
        place(table, dst, D, d0 + f, into, lattice, count, panel.ctypes.data + T * depth * NR * panel.itemsize)
        for p in range(0, count, simd.ROWS):
            simd.multiply_rows(table, p, PIXELS, T, depth, panel, 0, table, outs + p, width)


@numba.njit(cache=True, error_model="numpy", nogil=True)
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


@numba.njit(cache=True, error_model="numpy", nogil=True)
def _outer_part(src, zeros, g, gw, panel, table, taps, geo, runs, target, first, last, r0, r1):
    """Adds to the blocks r0 … r1 of ROWS lines of gw the sum over the pixels first … last."""
    D, d0, F, NR = target
    blocks = -(-runs[3] // simd.ROWS)
    T, size, grid, step, _, _ = look_at(taps, 0, geo, 0, False)
    for start in range(first, last, DEPTH):
        count = min(DEPTH, last - start)
        look_up(table, taps, T, src, zeros, runs, size, grid, step, start, count)
        for f in range(0, F, NR):
            width = min(NR, F - f)
            for p in range(count):
                s = (start + p) * D + d0 + f
                for j in range(width):
                    panel[np.uint64(p * NR + j)] = g[np.uint64(s + j)]
                for j in range(width, NR):
                    panel[np.uint64(p * NR + j)] = 0
            for r in range(r0, r1):
                simd.multiply_columns(table, r // blocks * DEPTH, count, r % blocks * simd.ROWS, panel, 0,
                                      gw, r * simd.ROWS * F + f, F, width)
