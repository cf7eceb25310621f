"""Freed arrays are kept for the next step, instead of being mapped and zeroed again."""

import subprocess
import sys

import pytest

CODE = """
import resource, tinygen
import numpy as np
from tinygen.kernels.memory import keep_freed
print(int(keep_freed()))
def step():
    arrays = [np.empty(n, np.float32) for n in (300_000, 12_000_000, 900_000)]
    for a in arrays:
        a.fill(1)
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc is told on Linux only")
def test_a_second_step_touches_no_fresh_pages():
    kept, faults = map(int, subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
                       .stdout.split())
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert faults < 100  # else 52 MB a step, in pages of 4 kB or 2 MB: 260 at least
