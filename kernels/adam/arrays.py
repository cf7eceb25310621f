"""What the optimiser kernels ask of their arrays: `flat` is shared by adam, sgd and rmsprop."""

import numpy as np


def flat(kernel: str, p: np.ndarray, g: np.ndarray, *state: np.ndarray | None) -> list[np.ndarray]:
    """1-D views of p, g and the state, with p standing in for a state that is None.

    p and the state are updated in place, so they must be C-contiguous and writeable: ravel would silently
    copy any other. g is only read. Called once a parameter a step, hence the quick test before the thorough
    one.
    """
    shape, dtype = p.shape, p.dtype
    if g.shape != shape or g.dtype != dtype:
        raise ValueError(f"{kernel} got a gradient {g.shape} {g.dtype} for a parameter {shape} {dtype}.")
    if not g.flags.carray:
        g = np.array(g, order="C")  # writeable too: Numba compiles a read-only array as another type
    if dtype.char not in "fd":
        raise TypeError(f"{kernel} updates float32 or float64 parameters, not {dtype}.")
    if not p.flags.carray:
        _check_in_place(kernel, p, p)
    flats = [p.ravel(), g.ravel()]
    for array in state:
        if array is None:
            flats.append(flats[0])
            continue
        if array.dtype is not dtype or array.shape != shape or not array.flags.carray:
            _check_in_place(kernel, p, array)
        flats.append(array.ravel())
    return flats


def _check_in_place(kernel: str, p: np.ndarray, array: np.ndarray) -> None:
    if array.shape != p.shape or array.dtype != p.dtype or not array.flags.carray:
        raise ValueError(
            f"{kernel} updates in place: parameter and state must be writeable C-contiguous arrays of one "
            f"shape and dtype, but the parameter is {p.shape} {p.dtype} and one is {array.shape} "
            f"{array.dtype}, writeable={array.flags.writeable}, contiguous={array.flags.c_contiguous}."
        )
