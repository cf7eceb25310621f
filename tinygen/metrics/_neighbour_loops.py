"""What is done with a tile of products: keep the nearest of each row, count what lies inside a ball.

A tile holds g = a·b in float32 of centred features. The squared distance |a|² + |b|² - 2g is known from it to within

    τ = c·(|a| + |b|)² + t,    c = γ_D/2 + 8u,  γ_D = Du/(1 - Du),  u = 2⁻²⁴

(a·b is wrong by at most γ_D |a||b|, Higham 2002, §3.1; 8u for rounding the inputs, the squares and the sum; t for
what underflows). What τ cannot decide is computed again from the float64 features, by subtraction.
"""

from typing import Any

import numpy as np
from numba import njit

_FLAGS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "cache": True}


@njit(**_FLAGS)
def distance(a, b):
    """|a - b|² of two rows, by subtraction: 0 for copies, and to the last bit the same for b and a.

    Eight sums, added in one order, and not what a compiler may choose where this is inlined: ties must stay ties.
    """
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = a.size - a.size % 8
    for k in range(0, whole, 8):
        s0 += (a[k] - b[k]) * (a[k] - b[k])
        s1 += (a[k + 1] - b[k + 1]) * (a[k + 1] - b[k + 1])
        s2 += (a[k + 2] - b[k + 2]) * (a[k + 2] - b[k + 2])
        s3 += (a[k + 3] - b[k + 3]) * (a[k + 3] - b[k + 3])
        s4 += (a[k + 4] - b[k + 4]) * (a[k + 4] - b[k + 4])
        s5 += (a[k + 5] - b[k + 5]) * (a[k + 5] - b[k + 5])
        s6 += (a[k + 6] - b[k + 6]) * (a[k + 6] - b[k + 6])
        s7 += (a[k + 7] - b[k + 7]) * (a[k + 7] - b[k + 7])
    for k in range(whole, a.size):
        s0 += (a[k] - b[k]) * (a[k] - b[k])
    return ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))


@njit(**_FLAGS)
def _insert(values, indices, value, index):
    """Into a row of ascending values, the last of which is dropped."""
    k = values.size - 1
    while k > 0 and values[k - 1] > value:
        values[k] = values[k - 1]
        indices[k] = indices[k - 1]
        k -= 1
    values[k] = value
    indices[k] = index


@njit(**_FLAGS)
def keep_nearest(g, square_a, square_b, c, t, i0, j0, mirror, low, near):
    """Keep in low N,K and near N,K, for each row i0 + i, the K smallest lower bounds d² - τ and whose they are.

    mirror 0: columns are other samples. 1: columns are samples j0 + j of the same set, which get row i in return.
    2: the tile lies on the diagonal: its upper triangle, both ways.
    """
    last = low.shape[1] - 1
    root_b = np.sqrt(square_b)
    for i in range(g.shape[0]):
        root_a = np.sqrt(square_a[i])
        for j in range(i + 1 if mirror == 2 else 0, g.shape[1]):
            s = root_a + root_b[j]
            d = (square_a[i] + square_b[j] - np.float32(2) * g[i, j]) - (c * s * s + t)
            if d < low[i0 + i, last]:
                _insert(low[i0 + i], near[i0 + i], d, j0 + j)
            if mirror and d < low[j0 + j, last]:
                _insert(low[j0 + j], near[j0 + j], d, i0 + i)


@njit(**_FLAGS)
def measure(queries, references, near, out):
    """out N,K: the squared distances of the candidates near N,K; infinite where there is none (-1)."""
    for i in range(near.shape[0]):
        for k in range(near.shape[1]):
            j = near[i, k]
            out[i, k] = distance(queries[i], references[j]) if j >= 0 else np.inf


@njit(**_FLAGS)
def count_inside(
    g, square_a, square_b, c, t, i0, j0, real, fake, unit, ball_a, ball_b, closed, in_real, covered, recalled
):
    """For real rows i0 + i and fake columns j0 + j: in_real[j] counts the real balls that fake j lies in, covered[i]
    says whether some fake lies in real i's ball, recalled[i] whether real i lies in some fake's.

    ball_a, ball_b: squared radii, and `unit`: what turns a squared distance of `real` and `fake` into one of g.
    closed: the surface belongs to the ball. Returns how many pairs were computed again."""
    again = 0
    root_b = np.sqrt(square_b)
    for i in range(g.shape[0]):
        r, root_a = i0 + i, np.sqrt(square_a[i])
        for j in range(g.shape[1]):
            f = j0 + j
            s = root_a + root_b[j]
            d, tau = square_a[i] + square_b[j] - np.float32(2) * g[i, j], c * s * s + t
            if d - tau > ball_a[r] and (recalled[r] or d - tau > ball_b[f]):
                continue
            exact = -1.0
            inside = d + tau < ball_a[r]
            if not inside and d - tau <= ball_a[r]:
                exact = unit * distance(real[r], fake[f])
                inside = exact <= ball_a[r] if closed else exact < ball_a[r]
            if inside:
                in_real[f] += 1
                covered[r] = True
            if not recalled[r]:
                inside = d + tau < ball_b[f]
                if not inside and d - tau <= ball_b[f]:
                    exact = unit * distance(real[r], fake[f]) if exact < 0 else exact
                    inside = exact <= ball_b[f] if closed else exact < ball_b[f]
                recalled[r] |= inside
            again += exact >= 0
    return again
