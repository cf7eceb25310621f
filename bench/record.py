"""What every measurement is kept with: the command, the commit, the machine. Used by the scripts beside
it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
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
    return {"cpu": cpu, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(), "numpy": numpy.__version__, "numba": numba.__version__,
            "threads": get_threads(), "load_at_end": [round(v, 2) for v in os.getloadavg()]}


def write(name: str, result: dict[str, Any]) -> Path:
    """bench/results/NAME.json: the result, with the command, the commit and the machine."""
    path = ROOT / "bench" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    command = " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]])
    path.write_text(json.dumps({"command": command, "commit": commit(), "machine": machine(), **result}, indent=1,
                               ensure_ascii=False) + "\n")
    return path
