"""The CUDA side of the kernels: how a `.cu` file becomes something to launch.

Each kernel's source is one file, `kernels/<name>/cuda.cu`, that three compilers read unchanged:

    NVRTC   on a GPU, through cupy.RawModule, the first time a kernel is launched
    nvcc    in the tests: registers, shared memory, spills, the instructions themselves
    g++     with hostcuda.hpp, which runs CUDA threads as fibers on the CPU: emulated.py stands in for CuPy

`library` is CuPy, or its stand-in, once a device was asked for (`tinygen.device` calls `use`); None before.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent
library: Any = None

# What every source is compiled with. Division and square root stay correctly rounded, products and sums may be
# contracted; CuPy adds -ftz=true, so that denormals are zero in NVRTC's builds, and nvcc is told the same.
OPTIONS = ("-std=c++17", "-ftz=true")

SCALARS = {
    "float": np.float32, "double": np.float64, "int": np.int32, "unsigned": np.uint32, "unsigned int": np.uint32,
    "long long": np.int64, "unsigned long long": np.uint64, "unsigned char": np.uint8, "unsigned short": np.uint16,
    "bool": np.bool_,
    "real": np.float32,  # or double, where a source built with -DREAL=double says `typedef REAL real`
}  # fmt: skip
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[ \t]*$', re.M)
_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\(([^)]*)\)\s*)?(\w+)\s*\(([^)]*)\)\s*\{'
)


def use(module: Any) -> None:
    """Make `module`, CuPy or its stand-in, the library of device arrays."""
    global library
    if library is not module:
        library = module
        _function.cache_clear()


def is_device(kind: type) -> bool:
    """Is it the type of the arrays of the library in use?"""
    return library is not None and issubclass(kind, library.ndarray)


def capturing() -> bool:
    """Is the current stream recording a CUDA graph? Then kernels are noted and not run, and nothing may be read."""
    if library is None:
        return False
    stream = library.cuda.get_current_stream()
    return stream != library.cuda.Stream.null and stream.is_capturing()  # the null stream never can


class Parameter(NamedTuple):
    """One parameter of a kernel: its type in C without qualifiers, whether it is a pointer, its name."""

    ctype: str
    pointer: bool
    name: str

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(SCALARS[self.ctype])


class Signature(NamedTuple):
    """A kernel's name, parameters, and the threads a block may have (0: not said)."""

    name: str
    parameters: tuple[Parameter, ...]
    threads: str


@cache
def source(path: str) -> str:
    """A kernel's source with the headers of ours that it includes in place of their #include lines: CuPy's cache of
    compiled kernels looks at the text alone, and would not notice a header that changed. hostcuda.hpp stays out: only
    g++ reads it, and finds it by -I."""
    seen: set[Path] = set()

    def spliced(file: Path) -> str:
        def header(match: re.Match) -> str:
            found = next((p for p in (file.parent / match[1], HERE / match[1]) if p.exists()), None)
            if found is None or found.name == "hostcuda.hpp":
                return match[0]
            if found in seen:
                return ""
            seen.add(found)
            after = match.string.count("\n", 0, match.end()) + 2
            return f'#line 1 "{found.name}"\n{spliced(found)}\n#line {after} "{file.parent.name}/{file.name}"'

        return _INCLUDE.sub(header, file.read_text())

    return f'#line 1 "{path}"\n' + spliced(KERNELS / path)


def signatures(path: str) -> dict[str, Signature]:
    """The kernels of a source by name: what is declared `extern "C" __global__ void name(…) {`."""
    return signatures_of(source(path))


@cache
def signatures_of(text: str) -> dict[str, Signature]:
    """The same of a text."""
    text = re.sub(r"//[^\n]*", "", text)
    found = {}
    for bounds, name, declared in _KERNEL.findall(text):
        parameters = []
        for one in filter(None, (p.strip() for p in declared.split(","))):
            words = re.sub(r"\b(const|__restrict__|__grid_constant__)\b", " ", one).replace("*", " * ").split()
            ctype = " ".join(w for w in words[:-1] if w != "*")
            if ctype not in SCALARS:
                raise TypeError(f"{name} has a parameter of type {ctype!r}; kernels take {', '.join(SCALARS)}.")
            parameters.append(Parameter(ctype, "*" in words, words[-1]))
        found[name] = Signature(name, tuple(parameters), bounds)
    return found


def flags(defines: dict[str, Any]) -> tuple[str, ...]:
    """-D options of the defines, in order of their names."""
    return tuple(f"-D{k}={int(v) if isinstance(v, bool) else v}" for k, v in sorted(defines.items()))


@cache
def _function(path: str, defines: tuple[str, ...], name: str) -> list:
    """[the kernel, the most dynamic shared memory it was granted so far]"""
    return [library.RawModule(code=source(path), options=(*OPTIONS, *defines)).get_function(name), 0]


def launch(path: str, name: str, grid: tuple[int, ...], block: tuple[int, ...] | int, args: tuple, *,
           shared: int = 0, **defines: Any) -> None:
    """Run kernel `name` of the source kernels/`path`, compiled with `defines`, on the current stream.

    grid, block: blocks and threads in x, y, z. args: device arrays, C-contiguous, or None for a null pointer, and
    Python numbers; each is checked against the declaration and converted to its type. shared: bytes of dynamic shared
    memory. A grid without blocks is nothing to do. Raises TypeError or ValueError for arguments that do not fit.
    """
    grid = (*grid, 1, 1)[:3]
    block = (*((block,) if isinstance(block, int) else block), 1, 1)[:3]
    if 0 in grid:
        return
    if not (grid[0] < 2**31 and grid[1] < 2**16 and grid[2] < 2**16):
        raise ValueError(f"{name}: a grid of {grid} blocks; CUDA takes at most 2³¹−1, 65535 and 65535.")
    parameters = signatures(path)[name].parameters
    if len(parameters) != len(args):
        raise TypeError(f"{name} takes {len(parameters)} arguments, and was given {len(args)}.")
    real = np.dtype(SCALARS[defines.get("REAL", "float")])
    ready = tuple([_argument(name, p, a, real) for p, a in zip(parameters, args)])
    entry = _function(path, flags(defines), name)
    if shared > entry[1]:  # a GPU grants 48 KB unasked, less what the kernel declares itself; and what one call asked
        entry[0].max_dynamic_shared_size_bytes = entry[1] = shared  # for, another that needs less must not take back
    entry[0](grid, block, ready, shared_mem=shared)


def _argument(kernel: str, p: Parameter, a: Any, real: np.dtype) -> Any:
    dtype = real if p.ctype == "real" else p.dtype
    if not p.pointer:
        return dtype.type(a)
    if a is None:
        return np.uint64(0)
    if not isinstance(a, library.ndarray):
        raise TypeError(f"{kernel}: {p.name} needs a device array, not a {type(a).__module__}.{type(a).__name__}.")
    if a.dtype != dtype and not (dtype == np.uint8 and a.dtype == np.bool_):
        raise TypeError(f"{kernel}: {p.name} is {p.ctype}*, and was given an array of {a.dtype}.")
    if not a.flags.c_contiguous:
        raise ValueError(f"{kernel}: {p.name} {a.shape} is not C-contiguous; pass ready(…) of it.")
    return a


def ready(a: Any) -> Any:
    """a itself if it is C-contiguous and begins at a multiple of 16 bytes, as vector loads need; else a copy."""
    if a.flags.c_contiguous and a.data.ptr % 16 == 0:
        return a
    return a.copy(order="C")


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array on the current device, of any values."""
    return library.empty(shape, dtype)


def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros on the current device."""
    return library.zeros(shape, dtype)


def ceildiv(a: int, b: int) -> int:
    """⌈a / b⌉"""
    return -(-a // b)
