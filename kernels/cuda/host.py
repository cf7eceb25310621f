"""CUDA sources compiled for the CPU by g++, with hostcuda.hpp: every kernel can run, and be proved, without a GPU.

    build(path, defines)              → the shared library, made once for a text, its options and the compiler
    TINYGEN_HOSTCUDA=address|thread   → built with AddressSanitizer and UBSan, or with ThreadSanitizer: a missing
                                        __syncthreads() is a data race of fibers

A sanitizer's library must be loaded before all others: LD_PRELOAD="$(gcc -print-file-name=libasan.so)" python ….
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

from . import HERE, Signature, signatures, source

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinygen" / "hostcuda"
SANITIZERS = {
    "": ("-O2",),
    "address": ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-O1", "-g", "-fsanitize=thread"),
}


class BuildError(RuntimeError):
    """A source that g++ does not compile; the message ends with what the compiler said."""


def compiler() -> str | None:
    """The C++ compiler, or None where there is none."""
    return shutil.which(os.environ.get("CXX") or "g++")


@cache
def _version(cxx: str) -> str:
    return subprocess.run([cxx, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def shim(kernel: Signature) -> str:
    """A C function that launches the kernel: the extents, the bytes of shared memory, pointers to the arguments."""
    loads = "\n".join(f"  auto a{i} = *static_cast<{p.ctype}{'*' if p.pointer else ''} const*>(args[{i}]);"
                      for i, p in enumerate(kernel.parameters))
    names = ", ".join(f"a{i}" for i in range(len(kernel.parameters)))
    bound = f"hostcuda::check_bounds({kernel.threads.split(',')[0]}, b, \"{kernel.name}\");" if kernel.threads else ""
    return (f'extern "C" void launch_{kernel.name}(const unsigned* e, size_t dynamic, void** args) {{\n{loads}\n'
            f"  dim3 g(e[0], e[1], e[2]), b(e[3], e[4], e[5]); {bound}\n"
            f"  hostcuda::launch(g, b, dynamic, [=] {{ {kernel.name}({names}); }});\n}}\n")


def build(path: str, defines: tuple[str, ...] = (), sanitize: str | None = None) -> Path:
    """Compile a source for this machine's CPU. Raises BuildError."""
    return build_text(source(path), signatures(path), defines, sanitize)


def build_text(text: str, kernels: dict[str, Signature], defines: tuple[str, ...] = (),
               sanitize: str | None = None) -> Path:
    cxx = compiler()
    if cxx is None:
        raise BuildError("no C++ compiler: CUDA kernels run on the CPU by g++; install it, or set CXX.")
    kind = os.environ.get("TINYGEN_HOSTCUDA", "") if sanitize is None else sanitize
    options = [*SANITIZERS[kind], "-std=c++20", "-fPIC", "-shared", "-pthread", "-ffp-contract=off", "-w", "-DHOSTCUDA",
               f"-I{HERE}", *defines]
    text += "\n" + "\n".join(shim(k) for k in kernels.values())
    whole = "\0".join([text, (HERE / "hostcuda.hpp").read_text(), *options, _version(cxx)])
    target = CACHE / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.so"
    with _turns.setdefault(target, threading.Lock()):  # who wants what another thread is building waits for it
        if not target.exists():
            _compile(cxx, text, options, target)
    return target


_turns: dict[Path, threading.Lock] = {}


def _compile(cxx: str, text: str, options: list[str], target: Path) -> None:
    """The shared library of a text, whole or not at all: two processes may build it at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        cpp, made = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
        cpp.write_text(text)
        done = subprocess.run([cxx, "-x", "c++", str(cpp), *options, "-o", str(made)], capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"g++ does not compile the kernel:\n{done.stderr.strip()[:4000]}")
        made.replace(target)


@cache
def loaded(target: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(target))


def call(target: Path, name: str, grid: tuple, block: tuple, shared: int, values: list[Any]) -> None:
    """Run a kernel: values are ctypes objects, in order."""
    function = loaded(target)[f"launch_{name}"]
    extents = (ctypes.c_uint * 6)(*grid, *block)
    pointers = (ctypes.c_void_p * max(1, len(values)))(*[ctypes.addressof(v) for v in values])
    function(extents, ctypes.c_size_t(shared), pointers)
