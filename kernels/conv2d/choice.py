"""Which algorithm computes a convolution: a rule of thumb, fitted to measurements. README.md shows how well it does.

    direct      the loops of loops.py, compiled: the definition, for comparison
    gemm        a product that reads the image in place, with a kernel of its own for depthwise. Any geometry.
    winograd2   F(2×2, 3×3): 2.25 times fewer products. 3×3, stride 1, no dilation, one group.
    winograd4   F(4×4, 3×3): 4 times fewer products, about 3 times the rounding error. The same.
"""

from __future__ import annotations

IMPLS = ("direct", "gemm", "winograd2", "winograd4")
TILES = {"winograd2": 2, "winograd4": 4}
PANEL = 32  # output channels come in panels this wide

# Costs of one form, in multiply-adds: of a transformed number of the image, and of the weights; of looking up a run of
# the image; of adding up a number of the columns, where there are any; of starting a Winograd algorithm at all.
IMAGE, WEIGHT, RUN, COLUMN, START = 14, 9, 16, 12, 100_000
# Fewer output channels than this leave most of a panel empty: columns are multiplied instead, and added up.
NARROW = 12


def choose(impl: str | None, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], groups: int,
           images: int, size: tuple[int, int], C: int, F: int) -> str:
    """One of IMPLS: impl itself, or, for None, the one expected to be fastest for `images` results of `size` pixels
    with F channels, made of C. Raises ValueError for an unknown impl and for one that does not apply."""
    fits = kernel == (3, 3) and stride == dilation == (1, 1) and groups == 1
    if impl is not None:
        if impl not in IMPLS:
            raise ValueError(f"conv2d knows impl {', '.join(map(repr, IMPLS))} and None; got {impl!r}.")
        if impl in TILES and not fits:
            raise ValueError(f"conv2d with impl={impl!r} needs a 3×3 kernel, stride 1, dilation 1 and one group; got a "
                             f"{kernel[0]}×{kernel[1]} kernel, stride {stride}, dilation {dilation}, groups {groups}.")
        return impl
    if not fits:
        return "gemm"
    pixels = images * size[0] * size[1]
    wide = _panels(F)
    least = 9.0 * pixels * (C * wide + RUN * wide // PANEL)
    if narrow(F, C, 9):
        least = pixels * (C * _panels(9 * F) + COLUMN * 9.0 * F)
    best = "gemm"
    for name, tile in TILES.items():
        tiles = images * -(-size[0] // tile) * -(-size[1] // tile)
        cost = START + (tile + 2) ** 2 * (tiles * (C * wide + IMAGE * (C + wide)) + WEIGHT * C * wide)
        if cost < least:
            best, least = name, cost
    return best


def narrow(outputs: int, inputs: int, taps: int) -> bool:
    """Whether so few output channels are better served by columns of them."""
    return taps > 1 and outputs < NARROW and outputs < inputs


def _panels(width: int) -> int:
    return -(-width // PANEL) * PANEL
