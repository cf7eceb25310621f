"""ln, sin and cos in float64, each operation rounded once and in a stated order: the same bits on every machine.

A C library's logarithm is right to within an ulp, but which neighbour it gives is its own affair. Here there are only
sums, differences, products and quotients, which IEEE 754 fixes; nothing may be contracted to a fused operation or
reassociated. cuda.cu says the same in CUDA C, operation by operation. No branch, no table: the loops become vectors.

The polynomials are those of Sun's fdlibm (K. C. Ng 1993: e_log.c, k_sin.c, k_cos.c; the reduction e_rem_pio2.c). Plain
Python gets np.float64 in and out; cpu.py compiles them.
"""

import numpy as np

_u64 = np.uint64
TWO_PI = 6.283185307179586
# ln 2 in two parts, the first with enough zeros behind that its multiples by an exponent are exact
LN2_HI, LN2_LO = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# π/2 in three parts; the first two have 33 bits each, so that their multiples by 1 to 4 are exact
P1, P2, P3 = 1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21

L1, L2, L3, L4 = 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01
L5, L6, L7 = 1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01
S1, S2, S3 = -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04
S4, S5, S6 = 2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10
C1, C2, C3 = 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05
C4, C5, C6 = -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11

# what is added to a number's bits so that its mantissa, as an exponent goes, begins at √½; and √½'s own high bits
SHIFT, ROOT, MANTISSA = 0x3FF0000000000000 - 0x3FE6A09E00000000, 0x3FE6A09E00000000, 0x000FFFFFFFFFFFFF


def log(u):
    """ln u of a normal float64 u > 0; within 0.8 ulp.

    u = 2ᵏ(1 + f) with 1 + f in [√½, √2), and ln(1 + f) = 2 artanh s with s = f/(2 + f).
    """
    bits = np.float64(u).view(np.int64) + np.int64(SHIFT)
    k = np.float64((bits >> np.int64(52)) - np.int64(1023))
    f = np.int64((bits & np.int64(MANTISSA)) + np.int64(ROOT)).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    r = z * (L1 + w * (L3 + w * (L5 + w * L7))) + w * (L2 + w * (L4 + w * L6))
    half = 0.5 * f * f
    return s * (half + r) + k * LN2_LO - half + f + k * LN2_HI


def sincos(turn):
    """sin and cos of the float64 nearest to 2π·turn·2⁻⁵³, for an int64 turn in [0, 2⁵³); each within 0.8 ulp.

    The nearest multiple n of π/2 is taken off exactly: what remains is x + y, |x| <= 0.786, y below half an ulp of x.
    """
    angle = TWO_PI * (np.float64(turn) * 2.0**-53)
    quadrant = ((turn >> np.int64(50)) + np.int64(1)) >> np.int64(1)
    n = np.float64(quadrant)
    a = angle - n * P1  # exact
    b = n * P2
    r = a - b
    y = n * P3 - ((a - r) - b)
    x = r - y
    y = (r - x) - y
    z = x * x
    w = z * z
    v = z * x
    t = S2 + z * (S3 + z * S4) + z * w * (S5 + z * S6)
    sin = x - ((z * (0.5 * y - v * t) - y) - v * S1)
    t = z * (C1 + z * (C2 + z * C3)) + w * w * (C4 + z * (C5 + z * C6))
    half = 0.5 * z
    h = 1.0 - half
    cos = h + (((1.0 - h) - half) + (z * t - x * y))
    odd = quadrant & np.int64(1)
    sine, cosine = (cos, sin) if odd else (sin, cos)
    if quadrant & np.int64(2):
        sine = -sine
    if (quadrant + np.int64(1)) & np.int64(2):
        cosine = -cosine
    return sine, cosine
