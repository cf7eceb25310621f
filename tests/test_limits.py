"""Work whose intermediates would fill the memory if they were laid out: it is done in blocks."""

import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
import tinygen as tg
from tinygen import ops
def T(*shape):
    return tg.Tensor(np.ones(shape, np.float32), requires_grad=True)
{work}
# (not ru_maxrss: a child begins with its parent's)
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("work", "most"), [
    # all scores at once: 1100 MB, forward and backward 3300
    ("q = T(1, 1, 12_000, 16); tg.grad(ops.sum(ops.attention(q, q, q)), q)", 400),
    # all columns at once: 2300 MB
    ("x, w = T(1, 768, 768, 16), T(7, 7, 16, 16); tg.grad(ops.sum(ops.conv2d(x, w, padding=3)), [x, w])", 600),
    ("x, w = T(1, 512, 512, 32), T(3, 3, 32, 32); tg.grad(ops.sum(ops.conv2d(x, w, padding=1)), [x, w])", 600),
], ids=["attention", "7×7", "winograd"])  # fmt: skip
def test_peak_memory_stays_near_inputs_and_outputs(work, most):
    program = PROGRAM.format(work=work)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < most
