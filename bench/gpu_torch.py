"""How PyTorch does the work of the suite "gpu": in_torch.KINDS on a GPU, eager, in the best of its forms; as the family
torch.graph, the kernels as one CUDA graph each, for what eager's own launches cost.

float32 is float32 everywhere; in tf32 matrix products and cuDNN may use it; in bf16 networks run inside torch.autocast,
and a kernel's tensors are bfloat16 themselves, which spares PyTorch the casts. cuDNN looks for the fastest algorithm.
"""

from __future__ import annotations

from typing import Any

import torch

from bench import events, in_torch
from bench.cases import Run

GRAPHED = {"conv2d", "conv_transpose2d", "conv_forward", "conv_input_grad", "conv_weight_grad", "matmul", "softmax",
           "group_norm_silu", "attention", "layer_norm", "batch_norm", "bias_gelu", "resize", "concat",
           "embedding"}  # fmt: skip
VARIANTS = in_torch.VARIANTS
COPIED, SQUARE = 1 << 28, 8192
_as_graph = False


def use(device: str, family: str = "torch") -> None:
    """Do everything on this device."""
    global _as_graph
    in_torch.DEVICE, _as_graph = device, family == "torch.graph"
    torch.backends.cudnn.benchmark = True
    torch.zeros(1, device=device)  # raises here where there is none
    if _as_graph:
        for kind in set(KINDS) - GRAPHED:
            del KINDS[kind]


def _precise(precision: str) -> None:
    fast = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
    in_torch.DTYPE = torch.bfloat16 if precision == "bf16" else torch.float32
    in_torch.AUTOCAST = torch.bfloat16 if precision == "bf16" else None


def _placed(kind: str):
    def make(variant: str, *, precision: str = "float32", **args: Any) -> Run:
        _precise(precision)
        with torch.device(in_torch.DEVICE):
            run = in_torch.KINDS[kind](variant, **args)
        return _graph(run) if _as_graph else run

    return make


def _graph(run: Run) -> Run:
    """The run as one CUDA graph."""
    beside, own = torch.cuda.Stream(), torch.cuda.current_stream()
    beside.wait_stream(own)
    with torch.cuda.stream(beside):
        for _ in range(3):
            run()
    own.wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def launch():
        graph.replay()
        return result

    return launch


KINDS = {kind: _placed(kind) for kind in in_torch.KINDS}


def mark() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Any, end: Any) -> float:
    end.synchronize()
    return start.elapsed_time(end)


def timed(run: Run, seconds: float, least: int = 1) -> dict[str, Any]:
    """Milliseconds a run, by the GPU's clock."""
    return events.timed(run, seconds, least, mark, between)


def _copied() -> float:
    source, target = (torch.zeros(COPIED, device=in_torch.DEVICE) for _ in range(2))
    return 2 * 4 * COPIED / timed(lambda: target.copy_(source), 0.1)["best"] / 1e6


def ceilings() -> dict[str, float]:
    """GB/s of a copy, read and written, and GFLOP/s of the matrix product in each precision."""
    found = {"gbytes": _copied()}
    for precision in ("float32", "tf32", "bf16"):
        _precise(precision)
        a, b = (torch.randn(SQUARE, SQUARE, device=in_torch.DEVICE, dtype=in_torch.DTYPE) for _ in range(2))
        out = torch.empty_like(a)
        found[precision] = 2 * SQUARE**3 / timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 0.1)["best"] / 1e6
    return found


def wait() -> None:
    """Until all is done that was asked for; raises what went wrong in it."""
    torch.cuda.synchronize()


def give_back() -> None:
    """Let the other side have the memory."""
    torch.cuda.empty_cache()


def about() -> dict[str, Any]:
    """PyTorch, its CUDA and its cuDNN."""
    return {"torch": torch.__version__, "CUDA of torch": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
