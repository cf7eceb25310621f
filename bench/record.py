"""What every measurement is kept with: the command, the commit, the machine. Used by the scripts beside
it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """The commit, with + if a tracked file differs from it; "unknown" outside of a clone."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        changes = subprocess.run(["git", "status", "--porcelain", "-uno", "tinygen", "kernels", "models"], cwd=ROOT,
                                 capture_output=True, text=True)
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "") or "unknown"


def machine() -> dict[str, Any]:
    """Processor, cores, system, and the versions and thread settings that the numbers depend on."""
    import numba
    import numpy

    from tinygen.kernels.threads import get_threads

    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    others = {}
    for name in ("scipy", "torch", "jax", "tinygrad"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            others[name] = metadata.version(name)
    return {"cpu": cpu, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(), "numpy": numpy.__version__, "numba": numba.__version__, **others,
            "threads": get_threads(), "load_at_end": [round(v, 2) for v in os.getloadavg()]}


def header() -> dict[str, Any]:
    """The command, the commit and the machine."""
    script = os.path.relpath(sys.argv[0], ROOT)
    parts = ["-m", "bench"] if script == os.path.join("bench", "__main__.py") else [script]
    return {"command": " ".join(["python", *parts, *sys.argv[1:]]), "commit": commit(), "machine": machine()}


def write(name: str, result: dict[str, Any]) -> Path:
    """bench/results/NAME.json: the result, with the command, the commit and the machine."""
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**header(), **result}, indent=1, ensure_ascii=False) + "\n")
    return path
