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

_ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for 'sm_(\d+)'\n.*?Function properties.*?\n"
    r"\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n.*?Used (\d+) registers([^\n]*)",
    re.S,
)


class Resources(NamedTuple):
    """Of one kernel: registers a thread, bytes of static shared memory, of stack and of spills."""

    registers: int
    shared: int
    stack: int
    spills: int


def compiler() -> str | None:
    """nvcc, or None where there is none."""
    return shutil.which("nvcc") or next((str(p) for p in [Path("/usr/local/cuda/bin/nvcc")] if p.exists()), None)


def resources(path: str, defines: tuple[str, ...] = (), sms: tuple[int, ...] = (80, 90)) -> dict[tuple, Resources]:
    """What each kernel takes, by (name, sm), compiled for the compute capabilities sm / 10. Raises RuntimeError with
    what nvcc said where the source does not compile."""
    nvcc = compiler()
    if nvcc is None:
        raise RuntimeError("there is no nvcc here.")
    with tempfile.TemporaryDirectory() as folder:
        cu = Path(folder) / "kernel.cu"
        cu.write_text(source(path))
        targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in sms]
        done = subprocess.run([nvcc, "-fatbin", *OPTIONS, *targets, "-Xptxas", "-v", *defines, str(cu), "-o",
                               f"{folder}/kernel.fatbin"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc does not compile {path}:\n{done.stderr.strip()[:4000]}")
    found = {}
    for name, sm, stack, stores, loads, registers, rest in _ENTRY.findall(done.stderr):
        shared = re.search(r"(\d+) bytes smem", rest)
        spills = int(stores) + int(loads)
        found[name, int(sm)] = Resources(int(registers), int(shared[1]) if shared else 0, int(stack), spills)
    return found


if __name__ == "__main__":
    sms = (int(sys.argv[sys.argv.index("--sm") + 1]),) if "--sm" in sys.argv else (80, 90)
    for (kernel, sm), r in resources(sys.argv[1], tuple(a for a in sys.argv if a.startswith("-D")), sms).items():
        print(f"{kernel:40} sm_{sm} {r.registers:4} registers {r.shared:6} B shared {r.stack:5} B stack "
              f"{r.spills:5} B spills")
