"""Attention as plain loops: the definition. numba.njit takes these functions unchanged.

Every intermediate is float64, so a float32 result here is the exact one rounded once.
"""
import math

import numpy as np


def forward(q, k, v, mask, causal, scale):
    """q N,heads,Tq,d; k N,heads,Tk,d; v N,heads,Tk,dv; mask bool N,heads,Tq,Tk. Returns y N,heads,Tq,dv and
    lse N,heads,Tq (float64): log of the sum of exp(score) over the keys that may be seen, +inf where there
    are none."""
    N, heads, Tq, d = q.shape
    Tk, dv = v.shape[2], v.shape[3]
    y = np.zeros((N, heads, Tq, dv), q.dtype)
    lse = np.full((N, heads, Tq), np.inf)
    s = np.empty(Tk)
    row = np.empty(dv)
    for n in range(N):
        for h in range(heads):
            for i in range(Tq):
                top = -np.inf
                for j in range(Tk):
                    s[j] = -np.inf
                    if mask[n, h, i, j] and (not causal or j <= i + Tk - Tq):
                        s[j] = 0.0
                        for c in range(d):
                            s[j] += scale * q[n, h, i, c] * k[n, h, j, c]
                        if not s[j] <= top:  # written so that a NaN becomes the top and spoils the whole row
                            top = s[j]
                if top == -np.inf:
                    continue
                total = 0.0
                row[:] = 0.0
                for j in range(Tk):
                    if s[j] != -np.inf:
                        e = math.exp(s[j] - top)
                        total += e
                        for c in range(dv):
                            row[c] += e * v[n, h, j, c]
                for c in range(dv):
                    y[n, h, i, c] = row[c] / total
                lse[n, h, i] = top + math.log(total)
    return y, lse


def backward(g, q, k, v, mask, causal, scale, lse):
    """g like y; lse from forward. Returns gq, gk, gv like q, k, v."""
    N, heads, Tq, d = q.shape
    Tk, dv = v.shape[2], v.shape[3]
    gq = np.zeros(q.shape)
    gk = np.zeros(k.shape)
    gv = np.zeros(v.shape)
    p = np.empty(Tk)
    gp = np.empty(Tk)
    for n in range(N):
        for h in range(heads):
            for i in range(Tq):
                delta = 0.0
                for j in range(Tk):
                    p[j] = 0.0
                    gp[j] = 0.0
                    if mask[n, h, i, j] and (not causal or j <= i + Tk - Tq):
                        s = 0.0
                        for c in range(d):
                            s += scale * q[n, h, i, c] * k[n, h, j, c]
                        p[j] = math.exp(s - lse[n, h, i])
                        for c in range(dv):
                            gp[j] += g[n, h, i, c] * v[n, h, j, c]
                        delta += p[j] * gp[j]
                for j in range(Tk):
                    gs = p[j] * (gp[j] - delta)
                    for c in range(dv):
                        gv[n, h, j, c] += p[j] * g[n, h, i, c]
                    for c in range(d):
                        gq[n, h, i, c] += scale * gs * k[n, h, j, c]
                        gk[n, h, j, c] += scale * gs * q[n, h, i, c]
    return gq.astype(q.dtype), gk.astype(q.dtype), gv.astype(q.dtype)
