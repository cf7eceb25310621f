"""CUDA sources compiled by nvcc, without a GPU: what each kernel takes of one.

    python -m tinygen.kernels.cuda.nvcc group_norm/cuda.cu [-DNAME=VALUE …] [--sm 90]
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from . import OPTIONS, source

_ENTRY = re.compile(r"Compiling entry function '(\w+)'.*?\n.*?Function properties.*?\n\s*(\d+) bytes stack frame, "
                    r"(\d+) bytes spill stores, (\d+) bytes spill loads\n.*?Used (\d+) registers([^\n]*)", re.S)


class Resources(NamedTuple):
    """Of one kernel: registers a thread, bytes of static shared memory, of stack and of spills."""

    registers: int
    shared: int
    stack: int
    spills: int


def compiler() -> str | None:
    """nvcc, or None where there is none."""
    return shutil.which("nvcc") or next((str(p) for p in [Path("/usr/local/cuda/bin/nvcc")] if p.exists()), None)


def cubin(path: str, defines: tuple[str, ...] = (), sm: int = 90) -> tuple[bytes, dict[str, Resources]]:
    """The machine code for compute capability sm / 10, and what each kernel takes. Raises RuntimeError with what nvcc
    said where it does not compile."""
    nvcc = compiler()
    if nvcc is None:
        raise RuntimeError("there is no nvcc here.")
    with tempfile.TemporaryDirectory() as folder:
        cu, made = Path(folder) / "kernel.cu", Path(folder) / "kernel.cubin"
        cu.write_text(source(path))
        done = subprocess.run([nvcc, "-cubin", *OPTIONS, f"-arch=sm_{sm}", "-Xptxas", "-v", *defines, str(cu), "-o",
                               str(made)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"nvcc does not compile {path}:\n{done.stderr.strip()[:4000]}")
        found = {}
        for name, stack, stores, loads, registers, rest in _ENTRY.findall(done.stderr):
            shared = re.search(r"(\d+) bytes smem", rest)
            spills = int(stores) + int(loads)
            found[name] = Resources(int(registers), int(shared[1]) if shared else 0, int(stack), spills)
        return made.read_bytes(), found


if __name__ == "__main__":
    sm = int(sys.argv[sys.argv.index("--sm") + 1]) if "--sm" in sys.argv else 90
    for kernel, r in cubin(sys.argv[1], tuple(a for a in sys.argv if a.startswith("-D")), sm)[1].items():
        print(f"{kernel:40} {r.registers:4} registers {r.shared:6} B shared {r.stack:5} B stack {r.spills:5} B spills")
