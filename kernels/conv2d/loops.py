"""The three bilinear forms of a 2-D convolution as plain sums: the definition the fast path is held to.

Arrays: x (N, H, W, C), w (kh, kw, C/groups, F), y and g (N, OH, OW, F), all of one float dtype. Geometry:
stride (sh, sw), padding ((top, bottom), (left, right)), dilation (dh, dw), groups dividing C and F. As in
every deep-learning library "convolution" means cross-correlation: the kernel is not flipped.

All three visit the same set of products x·w·g (README, eq. 1) and differ only in which factor they leave out.
"""

import numpy as np


def forward(x, w, stride, padding, dilation, groups):
    """y[n,oy,ox,f] = Σ_{ky,kx,c} x[n, oy·sh + ky·dh − top, ox·sw + kx·dw − left, c] · w[ky,kx,c,f]."""
    N, H, W, C = x.shape
    kh, kw, cg, F = w.shape
    (top, bottom), (left, right) = padding
    OH = (H + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    OW = (W + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((N, OH, OW, F), x.dtype)
    for n in range(N):
        for oy in range(OH):
            for ox in range(OW):
                for ky in range(kh):
                    iy = oy * stride[0] + ky * dilation[0] - top
                    for kx in range(kw):
                        ix = ox * stride[1] + kx * dilation[1] - left
                        if 0 <= iy < H and 0 <= ix < W:
                            for f in range(F):
                                c0 = f // (F // groups) * cg
                                for c in range(cg):
                                    y[n, oy, ox, f] += x[n, iy, ix, c0 + c] * w[ky, kx, c, f]
    return y


def input_grad(g, w, x_shape, stride, padding, dilation, groups):
    """gx[n,iy,ix,c] = Σ g[n,oy,ox,f] · w[ky,kx,c,f] over the products that x[n,iy,ix,c] entered."""
    N, H, W, C = x_shape
    kh, kw, cg, F = w.shape
    OH, OW = g.shape[1], g.shape[2]
    gx = np.zeros((N, H, W, C), g.dtype)
    for n in range(N):
        for oy in range(OH):
            for ox in range(OW):
                for ky in range(kh):
                    iy = oy * stride[0] + ky * dilation[0] - padding[0][0]
                    for kx in range(kw):
                        ix = ox * stride[1] + kx * dilation[1] - padding[1][0]
                        if 0 <= iy < H and 0 <= ix < W:
                            for f in range(F):
                                c0 = f // (F // groups) * cg
                                for c in range(cg):
                                    gx[n, iy, ix, c0 + c] += g[n, oy, ox, f] * w[ky, kx, c, f]
    return gx


def weight_grad(x, g, w_shape, stride, padding, dilation, groups):
    """gw[ky,kx,c,f] = Σ x[n,iy,ix,c] · g[n,oy,ox,f] over the products that w[ky,kx,c,f] entered."""
    N, H, W, C = x.shape
    kh, kw, cg, F = w_shape
    OH, OW = g.shape[1], g.shape[2]
    gw = np.zeros((kh, kw, cg, F), x.dtype)
    for n in range(N):
        for oy in range(OH):
            for ox in range(OW):
                for ky in range(kh):
                    iy = oy * stride[0] + ky * dilation[0] - padding[0][0]
                    for kx in range(kw):
                        ix = ox * stride[1] + kx * dilation[1] - padding[1][0]
                        if 0 <= iy < H and 0 <= ix < W:
                            for f in range(F):
                                c0 = f // (F // groups) * cg
                                for c in range(cg):
                                    gw[ky, kx, c, f] += x[n, iy, ix, c0 + c] * g[n, oy, ox, f]
    return gw
