"""What is measured, as data: a name, a kind of work that every framework knows how to do, and its sizes.

    bench/in_tinygen.py  in_torch.py  in_jax.py  in_tinygrad.py     KINDS: how each does each kind
    bench/gpu_tinygen.py  gpu_torch.py                              the same on a GPU
    bench/worker.py                                                 a process that does it, and times it
    bench/sides.py                                                  the processes, taking turns
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One row of a table. group: the line of the targets it belongs to; args: for the maker of its kind, as JSON knows
    them; flops and bytes: of one run, 0 if not counted here; quick: measured with --quick too; rounds: at most."""

    name: str
    kind: str
    args: dict[str, Any] = field(default_factory=dict)
    group: str = ""
    flops: float = 0
    bytes: float = 0
    quick: bool = True
    rounds: int = 99


@dataclass(frozen=True)
class Target:
    """PyTorch's time over ours that a group must reach: its geometric mean, and each row's least."""

    mean: float
    least: float | None = None


# ---- nominal work of forward and backward together, the same whatever computes it


def traffic(inputs: float, outputs: float) -> float:
    """Bytes that must move once, for float32: forward reads the inputs and writes the outputs, backward reads inputs
    and the outputs' gradients and writes the inputs' gradients."""
    return 4 * (3 * inputs + 2 * outputs)


def conv_work(n: int, side: int, cin: int, cout: int, k: int, stride: int = 1, padding: int = 0, groups: int = 1,
              transposed: bool = False) -> tuple[float, float]:
    """(FLOPs, bytes) of a convolution and both its gradients: 3 · 2 · the products of the direct method (for less
    arithmetic, as Winograd's, the rate is that at which the direct method would have to run)."""
    out = (side - 1) * stride - 2 * padding + k if transposed else (side + 2 * padding - k) // stride + 1
    places = side if transposed else out
    products = n * places**2 * k * k * cin * cout // groups
    inputs = n * side**2 * cin + k * k * cin * cout // groups
    return 6 * products, traffic(inputs, n * out**2 * cout)


def attention_work(n: int, heads: int, T: int, d: int, causal: bool) -> tuple[float, float]:
    """(FLOPs, bytes): two matrix products forward and five backward, softmax aside; half of it where causal."""
    return 14 * n * heads * T * T * d / (2 if causal else 1), traffic(3 * n * heads * T * d, n * heads * T * d)


# ---- kernels

KERNEL_TARGETS = {
    "conv 3×3": Target(1.5, 1.0),
    "other convs": Target(1.0, 0.8),
    "group norm + SiLU": Target(1.3),
    "attention": Target(1.15),
    "small ops": Target(1.0),
    "Adam + EMA": Target(1.2),
}


def _conv(name: str, group: str, n: int, side: int, cin: int, cout: int, k: int, quick=True, **more) -> Case:
    flops, moved = conv_work(n, side, cin, cout, k, **more)
    args = dict(n=n, side=side, cin=cin, cout=cout, k=k, **more)
    kind = "conv_transpose2d" if args.pop("transposed", False) else "conv2d"
    return Case(f"{kind} {name}", kind, args, group, flops, moved, quick)


def kernels() -> list[Case]:
    """Forward and backward of each kernel of the models."""
    n, table = 16, []
    for side in (32, 16, 8):
        for c in (64, 128, 256):
            table.append(_conv(f"3×3 {c} @ {side}²", "conv 3×3", n, side, c, c, 3, c == 64, padding=1))
    other = "other convs"
    table += [
        _conv("1×1 128→256 @ 16²", other, n, 16, 128, 256, 1),
        _conv("4×4 /2 3→64 @ 32²", other, n, 32, 3, 64, 4, stride=2, padding=1),
        _conv("4×4 /2 64→128 @ 16²", other, n, 16, 64, 128, 4, False, stride=2, padding=1),
        _conv("4×4 /2 128→256 @ 8²", other, n, 8, 128, 256, 4, False, stride=2, padding=1),
        _conv("4×4 ·2 256→128 @ 4²", other, n, 4, 256, 128, 4, False, stride=2, padding=1, transposed=True),
        _conv("4×4 ·2 128→64 @ 8²", other, n, 8, 128, 64, 4, stride=2, padding=1, transposed=True),
        _conv("4×4 ·2 64→3 @ 16²", other, n, 16, 64, 3, 4, False, stride=2, padding=1, transposed=True),
        _conv("7×7 3→64 @ 32²", other, n, 32, 3, 64, 7, False, padding=3),
        _conv("3×3 1→64 @ 32²", other, n, 32, 1, 64, 3, False, padding=1),
        _conv("3×3 3→128 @ 32²", other, n, 32, 3, 128, 3, False, padding=1),
        _conv("3×3 /2 128 @ 32²", other, n, 32, 128, 128, 3, False, stride=2, padding=1),
        _conv("3×3 depthwise 128 @ 32²", other, n, 32, 128, 128, 3, padding=1, groups=128),
    ]
    for c, side in ((128, 32), (256, 8)):
        e = n * side * side * c
        table.append(Case(f"group norm + SiLU {c} @ {side}²", "group_norm_silu", dict(n=n, side=side, c=c, groups=32),
                          "group norm + SiLU", 0, traffic(e + 2 * c, e)))
    for n_, heads, T, d, causal in ((16, 4, 256, 64, False), (8, 1, 256, 256, False), (4, 8, 1024, 32, False),
                                    (8, 4, 256, 32, True)):
        flops, moved = attention_work(n_, heads, T, d, causal)
        table.append(Case(f"attention {'causal ' if causal else ''}({n_}, {heads}, {T}, {d})", "attention",
                          dict(n=n_, heads=heads, T=T, d=d, causal=causal), "attention", flops, moved, T < 1000))
    small = [
        ("softmax (4096, 256)", "softmax", dict(rows=4096, columns=256), 4096 * 256, 4096 * 256),
        ("layer norm (4096, 512)", "layer_norm", dict(rows=4096, columns=512), 4096 * 512, 4096 * 512),
        ("batch norm (64, 16, 16, 128)", "batch_norm", dict(n=64, side=16, c=128), 64 * 256 * 128, 64 * 256 * 128),
        ("bias + GELU (4096, 1024)", "bias_gelu", dict(rows=4096, columns=1024), 4096 * 1024, 4096 * 1024),
        ("resize ×2 (16, 16, 16, 256)", "resize", dict(n=16, side=16, c=256), 16 * 256 * 256, 16 * 1024 * 256),
    ]
    for name, kind, args, inputs, outputs in small:
        table.append(Case(name, kind, args, "small ops", 0, traffic(inputs, outputs)))
    both = 2 * 16 * 16 * 16 * 256  # read and written; backward, the gradients are views
    table.append(Case("concat 2 × (16, 16, 16, 256)", "concat", dict(n=16, side=16, c=256), "small ops", 0, 8 * both))
    moved = 4 * 9 * 35_746_307  # p, m, v and the average read and written, the gradient read
    table.append(Case("Adam + EMA, 35.7 M", "adam", {"widths": [128, 256, 256, 256]}, "Adam + EMA", 0, moved, False))
    return table


# ---- whole training steps

STEP_TARGETS = {"training steps": Target(1.3), "ddpm paper": Target(1.4), "DDIM": Target(1.3)}


def settings(model: str, preset: str, **overrides: Any) -> dict[str, Any]:
    """The configuration of a model, spelled out, for all sides alike."""
    from tinygen import config, models

    M = models.load(model)
    return config.to_dict(config.build(M.Config, M.PRESETS[preset], overrides))


def steps(quick: bool = False) -> list[Case]:
    """A training step of each model as `tinygen train` takes it, less the loading of images; and sampling."""
    paper = settings("ddpm", "paper", batch_size=8)
    table = [Case("ddpm paper, batch 8", "ddpm_step", paper, "ddpm paper", quick=False)]
    for model in ("ddpm", "dcgan", "conv_vae", "gan"):
        table.append(Case(f"{model} small", f"{model}_step", settings(model, "small"), "training steps"))
    count = 2 if quick else 50
    times = "" if count == 50 else f", time of {count} × {50 // count}"
    table.append(Case(f"DDIM ddpm paper, 16 images, 50 steps{times}", "ddim", {**paper, "images": 16, "count": count},
                      "DDIM", rounds=3))
    return table


# ---- how cost grows


def growth() -> dict[str, tuple[str, list[tuple[float, Case]]]]:
    """{series: (what is varied, [(its value, case)])}. A small U-Net around batch 8, 16², 32 channels."""
    base = dict(image_size=16, channels=3, widths=[32, 64], layers=1, attention=[0, 0], groups=8, batch_size=8,
                dropout=0.0)
    few = dict(image_size=16, channels=3, widths=[64], layers=1, attention=[0], groups=8, batch_size=4, dropout=0.0)

    def step(what: str, value: float, quick: bool, **changes) -> tuple[float, Case]:
        return value, Case(f"{what} {value:g}", "ddpm_step", settings("ddpm", "small", **{**base, **changes}), what,
                           quick=quick)

    return {
        "batch": ("images a step", [step("batch", b, b in (2, 8, 32), batch_size=b) for b in (1, 2, 4, 8, 16, 32)]),
        "resolution": ("pixels a side", [step("resolution", s, s < 64, image_size=s) for s in (8, 16, 32, 64)]),
        "channels": ("channels of the first resolution",
                     [step("channels", c, c < 128, widths=[c, 2 * c]) for c in (16, 32, 64, 128)]),
        "depth": ("residual blocks a resolution",
                  [step("depth", k, k < 8, **{**few, "layers": k}) for k in (1, 2, 4, 8, 16)]),
        "attention": ("T, queries and keys", [
            (T, Case(f"attention T = {T}", "attention", dict(n=4, heads=4, T=T, d=32, causal=False), "attention",
                     *attention_work(4, 4, T, 32, False), quick=T < 1000)) for T in (64, 128, 256, 512, 1024, 2048)]),
    }


# ---- memory


def memory() -> list[Case]:
    """Peak memory of a whole step; and of a chain of residual blocks, plain and with recomputation."""
    paper = settings("ddpm", "paper", batch_size=8)
    table = [Case("ddpm paper, batch 8", "ddpm_step", paper, "ddpm paper", quick=False),
             Case("ddpm small", "ddpm_step", settings("ddpm", "small"), "small")]
    for recompute in ("none", "each block", "√depth runs"):
        for depth in (2, 4, 8, 16, 32):
            table.append(Case(f"{depth} blocks, recompute: {recompute}", "blocks",
                              dict(n=8, side=32, c=64, depth=depth, recompute=recompute), f"recompute: {recompute}",
                              quick=depth in (4, 16) and recompute != "√depth runs"))
    return table


def runs(depth: int, recompute: str) -> int:
    """How many blocks are recomputed together: 0 for none."""
    return {"none": 0, "each block": 1, "√depth runs": max(1, round(math.sqrt(depth)))}[recompute]


# ---- on a GPU

PRECISIONS = ("float32", "tf32", "bf16")
GPU_TARGETS = {
    "ddpm paper step, float32": Target(0.9),
    "ddpm paper step, tf32": Target(0.6),
    "ddpm paper step, bf16": Target(0.5),
    "small training steps": Target(2.0, 2.0),
    "DDIM": Target(0.8),
    "group norm + SiLU": Target(1.2, 1.2),
    "conv 3×3, tf32": Target(0.6, 0.6),
    "attention, bf16": Target(0.5),
    "Adam + EMA": Target(1.2),
}
COPY_SHARES = {"group norm + SiLU": 0.7}  # of the measured copy bandwidth, at least
PAPER_STEP = 37.46e9  # FLOPs an image, as in_tinygen.count finds them in a step of the network of the paper


def gpu() -> list[Case]:
    """The work that has a target on a GPU, and kernels beside it for information (group ""). args["precision"]: that of
    the products."""
    paper, table = settings("ddpm", "paper", batch_size=128), []
    for p in PRECISIONS:
        table.append(Case(f"ddpm paper, batch 128, {p}", "ddpm_step", {**paper, "precision": p},
                          f"ddpm paper step, {p}", 128 * PAPER_STEP))
    for model in ("ddpm", "dcgan", "conv_vae", "gan"):
        table.append(Case(f"{model} small", f"{model}_step", settings(model, "small"), "small training steps"))
    for p in PRECISIONS:
        table.append(Case(f"DDIM ddpm paper, 64 images, 50 steps, {p}", "ddim",
                          {**paper, "images": 64, "count": 50, "precision": p}, "DDIM" if p == "float32" else "",
                          64 * 50 * PAPER_STEP / 3, quick=p == "float32", rounds=3))
    n = 128
    for c, side in ((128, 32), (256, 16)):
        e = n * side * side * c
        table.append(Case(f"group norm + SiLU {c} @ {side}²", "group_norm_silu", dict(n=n, side=side, c=c, groups=32),
                          "group norm + SiLU", 0, traffic(e + 2 * c, e)))
    for p in ("tf32", "float32", "bf16"):
        for c, side in ((128, 32), (256, 16)):
            for kind in ("conv_forward", "conv_input_grad", "conv_weight_grad"):
                table.append(Case(f"{kind.replace('_', ' ')} 3×3 {c} @ {side}², {p}", kind,
                                  dict(n=n, side=side, cin=c, cout=c, k=3, precision=p),
                                  "conv 3×3, tf32" if p == "tf32" else "", 2 * n * side * side * 9 * c * c,
                                  4 * (2 * n * side * side * c + 9 * c * c), p == "tf32"))
    flops, moved = attention_work(64, 4, 256, 64, False)
    table.append(Case("attention (64, 4, 256, 64), bf16", "attention",
                      dict(n=64, heads=4, T=256, d=64, causal=False, precision="bf16"), "attention, bf16", flops,
                      moved))
    table.append(Case("Adam + EMA, 35.7 M", "adam", {"widths": [128, 256, 256, 256]}, "Adam + EMA", 0,
                      4 * 9 * 35_746_307))
    for p in PRECISIONS:
        table.append(Case(f"matmul 4096³, {p}", "matmul", dict(m=4096, n=4096, k=4096, precision=p), "",
                          2 * 4096**3, 4 * 3 * 4096**2, False))
    rows, columns = 65536, 1024
    images, ids = 128 * 32 * 32 * 128, 65536 * 512
    memory = [
        ("softmax (65536, 1024)", "softmax", dict(rows=rows, columns=columns), rows * columns, rows * columns),
        ("layer norm (65536, 1024)", "layer_norm", dict(rows=rows, columns=columns), rows * columns, rows * columns),
        ("batch norm (128, 32, 32, 128)", "batch_norm", dict(n=128, side=32, c=128), images, images),
        ("resize ×2 (128, 16, 16, 256)", "resize", dict(n=128, side=16, c=256), images // 2, 2 * images),
    ]
    for name, kind, args, inputs, outputs in memory:
        table.append(Case(name, kind, args, "", 0, traffic(inputs, outputs), False))
    moved = 4 * (3 * ids + 32768 * 512)  # rows read and written; backward, read, and the weights' gradient written
    table.append(Case("embedding of 65536 ids in (32768, 512)", "embedding", dict(rows=32768, columns=512, ids=65536),
                      "", 0, moved, False))
    return table


Run = Callable[[], Any]
