"""CUDA sources compiled by NVRTC, the compiler that CuPy uses on a GPU, without one: `cubin(path)`.

The library comes with the wheel nvidia-cuda-nvrtc (in the development extra) or with a CUDA toolkit.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from functools import cache
from pathlib import Path

from . import OPTIONS, source


@cache
def library() -> ctypes.CDLL | None:
    """libnvrtc, or None where there is none."""
    folders = []
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec is not None else []:
        folders += [p.parent for p in Path(root).glob("*/lib/libnvrtc.so.*") if "alt" not in p.name]
    folders += [Path("/usr/local/cuda/lib64")]
    for folder in folders:
        for name in sorted(folder.glob("libnvrtc.so.*")):
            for builtins in sorted(folder.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)  # NVRTC looks for it by name, and not beside itself
            return ctypes.CDLL(str(name))
    found = ctypes.util.find_library("nvrtc")
    return ctypes.CDLL(found) if found else None


def cubin(path: str, defines: tuple[str, ...] = (), sm: int = 90) -> bytes:
    """The machine code. Raises RuntimeError with NVRTC's log where it does not compile."""
    nvrtc = library()
    if nvrtc is None:
        raise RuntimeError("there is no NVRTC here; pip install nvidia-cuda-nvrtc.")
    program = ctypes.c_void_p()
    text = source(path).encode()
    _check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, path.encode(), 0, None, None))
    options = [o.encode() for o in (*OPTIONS, f"-arch=sm_{sm}", *defines)]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    if status:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"NVRTC does not compile {path}:\n{log.value.decode(errors='replace')[:4000]}")
    size = ctypes.c_size_t()
    _check(nvrtc, nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
    code = ctypes.create_string_buffer(size.value)
    _check(nvrtc, nvrtc.nvrtcGetCUBIN(program, code))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw


def _check(nvrtc: ctypes.CDLL, status: int) -> None:
    if status:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status).decode()}")
