"""A stand-in for CuPy on a machine without a GPU, for proofs: TINYGEN_CUDA=emulated makes "cuda:0" mean this.

Arrays live in NumPy's memory but keep CuPy's rules: they meet no NumPy array, turn into one only by .get() or
asnumpy(), and reductions give arrays without axes. Our kernels run from the very .cu files, by g++ (host.py).
Captured graphs keep CUDA's: nothing runs while a stream captures, reading a value or copying from the host raises,
and so does what calls cuBLAS (CuPy 14 captures none of it); a launch of the graph then does it all.

It knows what tinygen uses of CuPy, by name (`FUNCTIONS`, `METHODS`), and nothing else; a test compares these lists with
CuPy itself where that is installed. It is slow, and says nothing of speed.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from . import host, signatures_of

# functions by what they do to memory: VIEWS may share it with their input, CUBLAS calls a library that CuPy 14 does
# not capture
VIEWS = {
    "asarray", "ascontiguousarray", "atleast_1d", "broadcast_to", "diagonal", "expand_dims", "flip", "moveaxis",
    "ravel", "reshape", "squeeze", "swapaxes", "transpose",
}  # fmt: skip
CUBLAS = {"matmul", "dot", "tensordot", "einsum", "vdot", "inner", "outer"}
CUSOLVER = {"cholesky", "det", "inv", "slogdet", "solve"}
ABOUT = {"ndim", "result_type", "shape", "size"}  # of arrays, not of what is in them
PLAIN = {
    "abs", "absolute", "add", "all", "amax", "amin", "any", "arange", "arccos", "arcsin", "arctan", "arctan2",
    "argmax", "argmin", "argsort", "bincount", "bitwise_and", "bitwise_or", "bitwise_xor", "bool_",
    "broadcast_arrays", "ceil", "clip", "concatenate", "copysign", "cos", "cosh", "count_nonzero", "cumprod",
    "cumsum", "diag", "divide", "empty", "empty_like", "equal", "exp", "exp2", "expm1", "eye", "floor",
    "floor_divide", "fmax", "fmin", "full", "full_like", "greater", "greater_equal", "hypot", "identity",
    "invert", "isfinite", "isinf", "isnan", "left_shift", "less", "less_equal", "linspace", "log", "log10",
    "log1p", "log2", "logaddexp", "logical_and", "logical_not", "logical_or", "logical_xor", "max", "maximum",
    "mean", "min", "minimum", "mod", "multiply", "nan_to_num", "negative", "nonzero",
    "not_equal", "ones", "ones_like", "pad", "power", "prod", "put_along_axis", "reciprocal", "remainder",
    "repeat", "right_shift", "rint", "roll", "searchsorted", "sign", "signbit", "sin", "sinh", "sort", "sqrt",
    "square", "stack", "std", "subtract", "sum", "take", "take_along_axis", "tan", "tanh", "tile", "trace",
    "tri", "tril", "triu", "true_divide", "trunc", "var", "where", "zeros", "zeros_like",
}  # fmt: skip
FUNCTIONS = VIEWS | CUBLAS | PLAIN | ABOUT
TYPES = {"bool_", "dtype", "finfo", "float16", "float32", "float64", "inf", "int16", "int32", "int64", "int8", "nan",
         "newaxis", "pi", "uint16", "uint32", "uint64", "uint8"}  # fmt: skip
NOT_TAKEN = {"argsort", "put_along_axis", "sort"}  # wait for the host in CuPy (Thrust): not under capture
METHODS = {
    "all", "any", "argmax", "argmin", "argsort", "astype", "clip", "copy", "cumprod", "cumsum", "diagonal",
    "dot", "fill", "flatten", "max", "mean", "min", "nonzero", "prod", "ravel", "repeat", "reshape", "round",
    "sort", "squeeze", "std", "sum", "swapaxes", "take", "trace", "transpose", "var", "view",
}  # fmt: skip


class CaptureError(RuntimeError):
    """Something that a CUDA graph cannot hold, met while a stream captures."""


class _Graph:
    """What a capture has recorded; launch() does it."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def launch(self, stream: Any = None) -> None:
        with np.errstate(all="ignore"):
            for do in self.work:
                do()

    def upload(self, stream: Any = None) -> None:
        pass


_capturing: _Graph | None = None


def _forbid(what: str) -> None:
    if _capturing is not None:
        raise CaptureError(f"{what} while a stream captures: a CUDA graph cannot hold it.")


def _write(do: Callable[[], Any]) -> None:
    """Something that changes memory in place: now, or when the graph is launched."""
    if _capturing is None:
        do()
    else:
        _capturing.work.append(do)


def _make(compute: Callable[[], Any], inputs: list[np.ndarray], views: bool) -> Any:
    """Arrays of the results of compute(). Under capture they are computed for their shapes alone, and hold NaNs."""
    if _capturing is None:
        return _wrap(compute())
    with np.errstate(all="ignore"):
        made = compute()
    if isinstance(made, tuple | list):
        made = type(made)(np.array(m) for m in made)
        for k, part in enumerate(made):
            _later(part, partial(_nth, compute, k))
    elif not (views and isinstance(made, np.ndarray) and any(np.may_share_memory(made, i) for i in inputs)):
        made = np.array(made)
        _later(made, compute)
    return _wrap(made)


def _nth(compute: Callable[[], Any], k: int) -> Any:
    return compute()[k]


def _later(made: np.ndarray, compute: Callable[[], Any]) -> None:
    assert _capturing is not None
    _capturing.work.append(lambda: np.copyto(made, compute()))
    if made.dtype.kind == "f":
        made[...] = np.nan
    elif made.dtype.kind in "iu":
        made[...] = 0  # a place that exists, should it be taken for one


def _wrap(made: Any) -> Any:
    if isinstance(made, np.ndarray | np.generic):
        return ndarray(np.asarray(made))
    if isinstance(made, tuple | list):
        return [_wrap(m) for m in made] if isinstance(made, list) else tuple([_wrap(m) for m in made])
    return made


def _bare(x: Any, found: list[np.ndarray] | None = None) -> Any:
    """x with the arrays of ours in it as NumPy's; NumPy's own do not belong here."""
    if isinstance(x, ndarray):
        if found is not None:
            found.append(x._a)
        return x._a
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}: a NumPy array among device arrays.")
    if isinstance(x, tuple | list):
        return type(x)(_bare(i, found) for i in x) if not hasattr(x, "_fields") else x
    if isinstance(x, dict):
        return {k: _bare(v, found) for k, v in x.items()}
    return x


class _Pointer:
    def __init__(self, ptr: int):
        self.ptr = ptr


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the emulated device."""

    __slots__ = ("_a", "__weakref__")
    __module__ = "cupy"

    def __init__(self, a: np.ndarray):
        self._a = a

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    data = property(lambda self: _Pointer(self._a.ctypes.data))
    T = property(lambda self: ndarray(self._a.T))
    real = property(lambda self: ndarray(self._a.real))

    @property
    def device(self) -> Any:
        return cuda.Device(0)

    @property
    def flags(self) -> Any:
        return self._a.flags

    @property
    def base(self) -> Any:
        return None if self._a.base is None else ndarray(np.asarray(self._a.base))

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if method == "at" and inputs[0].dtype.kind == "f":
            raise TypeError(f"{ufunc.__name__}.at on floats adds in any order (float atomics); sums must be in a "
                            "fixed one.")
        if ufunc.__name__ in CUBLAS:
            _forbid(f"{ufunc.__name__} (cuBLAS)")
        found: list[np.ndarray] = []
        bare, options = _bare(inputs, found), _bare(options, found)
        call = ufunc if method == "__call__" else getattr(ufunc, method)
        if out is not None:
            target = _bare(out)
            _write(lambda: call(*bare, out=target, **options))
            return out[0] if len(out) == 1 else out
        if method == "at":
            return _write(lambda: call(*bare, **options))
        return _make(lambda: call(*bare, **options), found, False)

    def __array_function__(self, function, types, args, kwargs):
        return _function(function.__name__)(*args, **kwargs)

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a "
                        "NumPy array explicitly.")

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(f"the emulated device's arrays have no {name!r}; METHODS in emulated.py names what "
                                 "tinygen uses of CuPy's.")

        def method(*args, **kwargs):
            if name == "fill":
                return _write(lambda: self._a.fill(*args))
            if name == "sort":
                return _write(lambda: self._a.sort(*args, **kwargs))
            if name == "dot":
                _forbid("dot (cuBLAS)")
            if name in NOT_TAKEN:
                _forbid(name)
            if name == "nonzero":
                _forbid("nonzero, whose result's size the host must know,")
            found = [self._a]
            bare, named = _bare(args, found), _bare(kwargs, found)
            out = named.pop("out", None)
            if out is not None:
                _write(lambda: np.copyto(out, getattr(self._a, name)(*bare, **named)))
                return kwargs["out"]
            views = name in ("reshape", "ravel", "squeeze", "swapaxes", "transpose", "view", "diagonal") or (
                name == "astype" and named.get("copy") is False)
            return _make(lambda: getattr(self._a, name)(*bare, **named), found, views)

        return method

    def __getitem__(self, index):
        found = [self._a]
        bare = _index(index, found)
        basic = not any(isinstance(i, np.ndarray | list) for i in (bare if isinstance(bare, tuple) else (bare,)))
        made = _make(lambda: self._a[bare], found, basic)
        return made

    def __setitem__(self, index, value):
        bare = _index(index, [])
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError(f"Unsupported type {type(value)}: a NumPy array among device arrays.")
        other = _bare(value)
        _write(lambda: self._a.__setitem__(bare, other))

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (self[i] for i in range(len(self._a)))

    def get(self, stream=None, order="C", out=None, blocking=True):
        _forbid("a copy to the host")
        if out is not None:
            np.copyto(out, self._a)
            return out
        return np.array(self._a, order=order)

    def set(self, array, stream=None):
        _forbid("a copy from the host")
        np.copyto(self._a, array)

    def item(self, *index):
        _forbid("reading a value")
        return self._a.item(*index)

    def tolist(self):
        _forbid("reading values")
        return self._a.tolist()

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __index__(self):
        _forbid("reading a value")
        return self._a.__index__()

    def __bool__(self):
        _forbid("reading a value")
        return bool(self._a)

    def __complex__(self):
        return complex(self.item())

    def __hash__(self):
        raise TypeError("unhashable type: 'ndarray'")

    def __repr__(self):
        return repr(self._a)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()


def _index(index: Any, found: list[np.ndarray]) -> Any:
    """An index with NumPy's arrays in it: ours as they are, the host's copied over, a mask only where that may wait."""
    if isinstance(index, tuple):
        return tuple([_index(i, found) for i in index])
    if isinstance(index, ndarray):
        if index.dtype.kind == "b":
            _forbid("a boolean mask as an index, the size of whose result the host must know,")
        found.append(index._a)
        return index._a
    if isinstance(index, np.ndarray | list) and np.ndim(index):
        _forbid("an index that lies on the host")
    return index


def _function(name: str) -> Callable:
    if name not in FUNCTIONS:
        raise AttributeError(f"the emulated device has no {name!r}; FUNCTIONS in emulated.py names what tinygen "
                             "uses of CuPy.")
    plain = getattr(np, name)
    if isinstance(plain, type):
        return plain

    def call(*args, out=None, **kwargs):
        if name in CUBLAS:
            _forbid(f"{name} (cuBLAS)")
        if name in NOT_TAKEN or name == "nonzero" or name == "where" and len(args) == 1:
            _forbid(name)
        if name in ("repeat", "bincount") and len(args) > 1 and isinstance(args[1], ndarray):
            _forbid(f"{name} with counts that lie on the device")
        if name == "asarray" or name == "ascontiguousarray":
            return asarray(*args, **kwargs)
        found: list[np.ndarray] = []
        bare, named = _bare(args, found), _bare(kwargs, found)
        if name in ABOUT or name == "put_along_axis":
            return plain(*bare, **named)
        if out is not None:
            target = _bare(out)
            _write(lambda: np.copyto(target, plain(*bare, **named)))
            return out
        return _make(lambda: plain(*bare, **named), found, name in VIEWS)

    call.__name__ = name
    return call


def __getattr__(name: str) -> Any:
    if name in TYPES:
        return getattr(np, name)
    if name.startswith("__"):
        raise AttributeError(name)
    return _function(name)


def array(x: Any, dtype=None, copy=True, order="K") -> ndarray:
    """A copy on the device, of a device array or of something on the host."""
    if isinstance(x, ndarray):
        return _make(lambda: np.array(x._a, dtype=dtype, order=order), [x._a], False)
    _forbid("a copy from the host")
    return ndarray(np.array(x, dtype=dtype, order="C" if order == "K" else order))


def asarray(x: Any, dtype=None, order=None) -> ndarray:
    if isinstance(x, ndarray):
        same = (dtype is None or x.dtype == dtype) and (order is None or x.flags.c_contiguous)
        return x if same else array(x, dtype, order=order or "K")
    return array(x, dtype)


def ascontiguousarray(x: Any, dtype=None) -> ndarray:
    return asarray(x, dtype, "C")


def asnumpy(x: Any, stream=None, order="C", out=None) -> np.ndarray:
    """The values on the host."""
    return x.get(order=order, out=out) if isinstance(x, ndarray) else np.asarray(x)


def get_array_module(*args: Any) -> Any:
    import sys

    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in args) else np


class _Solvers:
    """cupy.linalg"""

    def __getattr__(self, name: str) -> Any:
        if name not in CUSOLVER:
            raise AttributeError(f"the emulated device has no linalg.{name}; CUSOLVER in emulated.py names them.")

        def call(*args):
            _forbid(f"linalg.{name} (cuSOLVER)")
            return _wrap(getattr(np.linalg, name)(*_bare(args)))

        return call


class _Special:
    """cupyx.scipy.special"""

    @staticmethod
    def erf(x: ndarray, out: ndarray | None = None) -> ndarray:
        from scipy.special import erf

        if out is None:
            return _make(lambda: erf(x._a), [x._a], False)
        _write(lambda: erf(x._a, out=out._a))
        return out


linalg, special = _Solvers(), _Special()


class RawModule:
    """Kernels of one source text, compiled by g++ at the first use."""

    def __init__(self, code: str, options: tuple[str, ...] = (), **ignored: Any):
        self.code = code
        self.defines = tuple(o for o in options if o.startswith("-D"))

    def get_function(self, name: str) -> _Kernel:
        return _Kernel(self.code, self.defines, name)


class _Kernel:
    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, code: str, defines: tuple[str, ...], name: str):
        self.name, self.kernels = name, signatures_of(code)
        if name not in self.kernels:
            raise AttributeError(f"there is no kernel {name!r}; there are {', '.join(self.kernels)}.")
        self.target = host.build_text(code, self.kernels, defines)

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        if shared_mem > self.max_dynamic_shared_size_bytes or shared_mem > 227 * 1024:
            raise RuntimeError(f"{self.name}: {shared_mem} bytes of dynamic shared memory were not asked for.")
        if block[0] * block[1] * block[2] > 1024:
            raise RuntimeError(f"{self.name}: a block has at most 1024 threads, not {block}.")
        parameters = self.kernels[self.name].parameters
        values: list[Any] = []
        for p, a in zip(parameters, args, strict=True):
            if p.pointer:
                values.append(ctypes.c_void_p(a._a.ctypes.data if isinstance(a, ndarray) else None))
            else:
                values.append(np.ctypeslib.as_ctypes_type(p.dtype)(a.item()))
        kept = list(args)  # the arrays, for as long as the graph may be launched

        def run(kept=kept):
            host.call(self.target, self.name, grid, block, shared_mem, values)

        _write(run)


class _Stream:
    """A stream: everything on it is done at once; or, while it captures, recorded."""

    ptr = 0

    def __init__(self, null=False, non_blocking=False, **ignored):
        self.non_blocking = non_blocking

    def __enter__(self):
        self.before = cuda.current
        cuda.current = self
        return self

    def __exit__(self, *error):
        cuda.current = self.before

    use = __enter__

    def begin_capture(self, mode=None) -> None:
        global _capturing
        if not self.non_blocking:
            raise RuntimeError("a blocking stream cannot be captured beside the legacy one.")
        _capturing = _Graph()

    def end_capture(self) -> _Graph:
        global _capturing
        graph, _capturing = _capturing, None
        assert graph is not None
        return graph

    def is_capturing(self) -> bool:
        return _capturing is not None

    def synchronize(self) -> None:
        _forbid("waiting for the stream")

    def wait_event(self, event) -> None:
        pass

    def record(self, event=None):
        return event


class _Event:
    def __init__(self, **ignored):
        pass

    def record(self, stream=None):
        import time

        self.time = time.perf_counter()

    def synchronize(self):
        _forbid("waiting for an event")


class _Device:
    def __init__(self, number=0):
        self.id = int(number)
        self.compute_capability = "90"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    use = __enter__

    def __eq__(self, other):
        return isinstance(other, _Device) and other.id == self.id

    def __hash__(self):
        return self.id

    def synchronize(self):
        _forbid("waiting for the device")


class _Pool:
    """A memory pool: NumPy's memory needs none."""

    def malloc(self, size):
        raise NotImplementedError("the emulated device allocates by itself.")

    def used_bytes(self):
        return 0

    def total_bytes(self):
        return 0

    def free_all_blocks(self, stream=None):
        pass


class _Runtime:
    @staticmethod
    def getDeviceCount() -> int:
        return 1

    @staticmethod
    def getDeviceProperties(number) -> dict:
        return {"name": b"emulated", "multiProcessorCount": 4}


class _Cuda:
    """cupy.cuda"""

    Stream, Event, Device, MemoryPool, Graph = _Stream, _Event, _Device, _Pool, _Graph
    runtime = _Runtime()

    def __init__(self) -> None:
        self.current = self.null = _Stream(null=True)
        _Stream.null = self.null  # type: ignore[attr-defined]

    @staticmethod
    def is_available() -> bool:
        return host.compiler() is not None

    def get_current_stream(self) -> _Stream:
        return self.current

    @contextlib.contextmanager
    def using_allocator(self, allocator):
        yield

    @staticmethod
    def get_elapsed_time(start, end) -> float:
        return 1e3 * (end.time - start.time)


cuda = _Cuda()
