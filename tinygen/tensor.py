"""Tensor = an array, and the node of the tape that made it.

A Tensor whose `node` is None is a constant. A leaf made with `requires_grad=True` has a node without an operation;
whatever is computed from it is recorded. Everything else here is spelling: each operator and method calls the
operation of the same name in `tinygen.ops`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import backend
from .errors import DtypeError, GradientError, ShapeError
from .node import Node, leaf, renew

ops: Any = None  # tinygen.ops; set when that package is imported, which needs Tensor first


class Tensor:
    """An array that may be differentiated.

    array: anything NumPy takes, or a CuPy array. Python floats and lists of them become float32; arrays keep their
    dtype. requires_grad: record what is computed from this tensor, so that `tinygen.grad` can reach it.
    """

    __slots__ = ("data", "node", "__weakref__")
    __array_ufunc__ = None  # numpy_array * tensor comes to Tensor.__rmul__ instead of an object array
    data: Any
    node: Node | None

    def __init__(self, array: Any, requires_grad: bool = False):
        if isinstance(array, Tensor):
            array = array.data
        if not backend.is_array(array):
            from_python = not isinstance(array, np.generic)
            array = np.asarray(array)
            if from_python and array.dtype == np.float64:
                array = array.astype(np.float32)
        if array.dtype.kind not in "fiub":
            raise DtypeError(f"a Tensor holds floats, integers or booleans, not {array.dtype}.")
        self.data = array
        self.node = None
        if requires_grad:
            if array.dtype.kind != "f":
                raise DtypeError(f"only floats can require a gradient, not {array.dtype}.")
            self.node = leaf(array.shape, array.dtype)

    # what it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def device(self) -> str:
        return backend.device_of(self.data)

    @property
    def requires_grad(self) -> bool:
        """True if gradients flow to, or through, this tensor."""
        return self.node is not None

    @property
    def name(self) -> str | None:
        """The name of a parameter, as its module gave it; None for everything else."""
        return None if self.node is None else self.node.name

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array; shared with the tensor on the CPU, copied from a GPU."""
        return backend.to_numpy(self.data)

    def item(self) -> float | int | bool:
        """The single value as a Python number. Raises ShapeError for more than one."""
        if self.size != 1:
            raise ShapeError(f"item() needs a single value; this tensor has shape {self.shape}.")
        return self.data.reshape(()).item()

    def scalar(self) -> Any:
        """The single value, to be reported: a Python number on the CPU; on a device a constant Tensor, since to read it
        would be to wait for all that was asked of the device before."""
        return self.item() if self.device == "cpu" else wrap(self.data, None)

    def detach(self) -> Tensor:
        """The same values as a constant: no gradient flows through it."""
        return wrap(self.data, None)

    def assign(self, array: Any) -> None:
        """Replace a leaf's values (same shape and dtype). Graphs recorded with the old values become stale:
        `grad` raises instead of mixing old and new."""
        if self.node is not None and self.node.op is not None:
            raise GradientError("assign() is for leaves; this tensor is the result of a recorded operation.")
        array = array.data if isinstance(array, Tensor) else array
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ShapeError(f"assign() needs {self.shape} {self.dtype}, got {array.shape} {array.dtype}.")
        self.data = array
        self.touch()

    def touch(self) -> None:
        """Say that the values were changed in place (an optimiser does after each update)."""
        if self.node is not None:
            renew(self.node)

    # conversions

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        values = self.numpy()
        if dtype is not None and values.dtype != dtype:
            return values.astype(dtype)
        return values.copy() if copy else values

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without axes has no length")
        return self.shape[0]

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"only integers can be an index, not {self.dtype}")
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        values = np.array2string(self.numpy(), precision=4, threshold=20, separator=", ")
        where = "" if self.device == "cpu" else f", device={self.device!r}"
        node = self.node
        made = "" if node is None else ", requires_grad=True" if node.op is None else f", from {node.op.name}"
        return f"Tensor({values}, shape={self.shape}, {self.dtype}{where}{made})"

    # operators

    def __add__(self, b):
        return ops.add(self, b)

    def __radd__(self, b):
        return ops.add(b, self)

    def __sub__(self, b):
        return ops.sub(self, b)

    def __rsub__(self, b):
        return ops.sub(b, self)

    def __mul__(self, b):
        return ops.mul(self, b)

    def __rmul__(self, b):
        return ops.mul(b, self)

    def __truediv__(self, b):
        return ops.div(self, b)

    def __rtruediv__(self, b):
        return ops.div(b, self)

    def __pow__(self, p):
        return ops.power(self, p)

    def __rpow__(self, b):
        return ops.power(b, self)

    def __matmul__(self, b):
        return ops.matmul(self, b)

    def __rmatmul__(self, b):
        return ops.matmul(b, self)

    def __neg__(self):
        return ops.neg(self)

    def __abs__(self):
        return ops.abs(self)

    def __lt__(self, b):
        return ops.less(self, b)

    def __le__(self, b):
        return ops.less_equal(self, b)

    def __gt__(self, b):
        return ops.greater(self, b)

    def __ge__(self, b):
        return ops.greater_equal(self, b)

    def __eq__(self, b):
        return ops.equal(self, b)

    def __ne__(self, b):
        return ops.not_equal(self, b)

    __hash__ = object.__hash__  # by identity: tensors are keys of dictionaries, == compares element by element

    def __getitem__(self, index):
        return ops.getitem(self, index=index)

    def __setitem__(self, index, value):
        raise TypeError("tensors are not assigned into, since the tape could not see it; use ops.where or ops.put.")

    # methods

    @property
    def T(self) -> Tensor:
        """All axes in reverse order."""
        return ops.transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        return ops.swapaxes(self, -1, -2)

    def to(self, device: str) -> Tensor:
        """Copy to "cpu" or "cuda:i"; a recorded operation, the gradient comes back the same way."""
        return ops.to_device(self, device=backend.device(device))

    def astype(self, dtype) -> Tensor:
        return ops.cast(self, dtype=np.dtype(dtype))

    def reshape(self, *shape) -> Tensor:
        return ops.reshape(self, shape=shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def transpose(self, *axes) -> Tensor:
        return ops.transpose(self, axes=axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None)

    def swapaxes(self, a: int, b: int) -> Tensor:
        return ops.swapaxes(self, a, b)

    def sum(self, axis=None, keepdims=False) -> Tensor:
        return ops.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, axis=None, keepdims=False) -> Tensor:
        return ops.mean(self, axis=axis, keepdims=keepdims)

    def var(self, axis=None, keepdims=False) -> Tensor:
        return ops.var(self, axis=axis, keepdims=keepdims)

    def max(self, axis=None, keepdims=False) -> Tensor:
        return ops.max(self, axis=axis, keepdims=keepdims)

    def min(self, axis=None, keepdims=False) -> Tensor:
        return ops.min(self, axis=axis, keepdims=keepdims)

    def exp(self) -> Tensor:
        return ops.exp(self)

    def log(self) -> Tensor:
        return ops.log(self)

    def sqrt(self) -> Tensor:
        return ops.sqrt(self)

    def tanh(self) -> Tensor:
        return ops.tanh(self)

    def abs(self) -> Tensor:
        return ops.abs(self)

    def clip(self, low=None, high=None) -> Tensor:
        return ops.clip(self, low=low, high=high)


_new = Tensor.__new__


def wrap(data: Any, node: Node | None) -> Tensor:
    """A Tensor around an array that needs no checks: the tape's own constructor."""
    t = _new(Tensor)
    t.data = data
    t.node = node
    return t
