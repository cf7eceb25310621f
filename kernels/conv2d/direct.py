"""loops.py, compiled: the definition at a speed that lets one compare against it."""

from __future__ import annotations

import numba

from . import loops

_forward = numba.njit(cache=True, nogil=True)(loops.forward)
_input_grad = numba.njit(cache=True, nogil=True)(loops.input_grad)
_weight_grad = numba.njit(cache=True, nogil=True)(loops.weight_grad)


def forward(x, w, *, stride, padding, dilation, groups):
    return _forward(x, w, stride, padding, dilation, groups)


def input_grad(g, w, *, x_shape, stride, padding, dilation, groups):
    return _input_grad(g, w, x_shape, stride, padding, dilation, groups)


def weight_grad(x, g, *, w_shape, stride, padding, dilation, groups):
    return _weight_grad(x, g, w_shape, stride, padding, dilation, groups)
