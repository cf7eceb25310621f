"""How far every operation is from PyTorch, in float64: the comparisons of tests/test_parity_torch.py, written down.

    python bench/parity.py      needs PyTorch; writes bench/results/parity_torch.json

For each operation the largest relative error of its values, first and second gradients, over all its cases and random
odd shapes. The gate is 1e-10.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from record import ROOT, write

sys.path.insert(0, str(ROOT / "tests"))


def main() -> Path:
    """Run the comparisons and write their errors. Raises AssertionError for one above the gate."""
    import test_parity_torch as parity
    import torch

    warnings.filterwarnings("ignore", "var.*degrees of freedom")
    compared = {name: parity.errors(name) for name in sorted(parity.REGISTRY) if name in parity.TWINS}
    kinds = ("value", "first", "second")
    worst = {kind: max(compared, key=lambda name: compared[name][kind]) for kind in kinds}
    return write("parity_torch", {
        "what": "largest relative error against PyTorch, float64: values, first and second gradients",
        "torch": torch.__version__,
        "gate": parity.TOLERANCE,
        "comparisons": sum(int(row["comparisons"]) for row in compared.values()),
        "worst": {kind: {"operation": name, "error": compared[name][kind]} for kind, name in worst.items()},
        "no twin": parity.NO_TWIN,
        "compared as the first gradient of their operation": sorted(filter(parity.fused_gradient, parity.REGISTRY)),
        "operations": {name: {k: float(f"{v:.3g}") for k, v in row.items()} for name, row in compared.items()},
    })  # fmt: skip


if __name__ == "__main__":
    print(f"wrote {main()}")
