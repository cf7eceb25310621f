"""Which operation takes the time of a training step, and how far it is from its own limit.

The limit of an operation is max(FLOPs / the sgemm rate, bytes / the copy rate), both rates measured in the same run
(Williams, Waterman & Patterson 2009, "Roofline"); FLOPs by the operation's formula, bytes its inputs and outputs once.
A convolution with fewer multiplications than the direct method can be below its limit, and so can work that finds its
operands in a cache; it says so by itself.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from bench.table import layout, number


@contextlib.contextmanager
def _noted(owner: type, names: list[str], note: Callable) -> Iterator[None]:
    """Call note(name, arguments, seconds) after each call of these methods."""
    before = {name: getattr(owner, name) for name in names}

    def wrapped(name: str) -> Callable:
        def call(self, *args, **kwargs):
            begin = time.perf_counter()
            result = before[name](self, *args, **kwargs)
            note(name, (self, *args), result, time.perf_counter() - begin)
            return result

        return call

    for name in names:
        setattr(owner, name, wrapped(name))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(owner, name, function)


def watch(run: Callable[[], Any], steps: int) -> list[dict[str, Any]]:
    """What a run consists of, the median of `steps` runs: a dict for each kind of operation and shape, with its calls,
    ms, flops and bytes in one run.

    An operation's time is from the end of the one before to its own end, so it includes the Python that led to it.
    "optimiser" and "random numbers" are no operations but listed beside them; "rest" is what remains of the run.
    """
    from bench.in_tinygen import moved
    from tinygen import optim, tape
    from tinygen.rng import Rng

    events: list[tuple[str, str, float, float, float]] = []  # name, shape, seconds, flops, bytes
    last = 0.0

    def note(op, arrays, y, attrs, node) -> None:
        nonlocal last
        took = time.perf_counter() - last
        shape = " · ".join("×".join(map(str, a.shape)) for a in arrays[:2] if getattr(a, "ndim", 0) > 1)
        events.append((op.name, shape, took, op.flops(*arrays, **attrs), moved(arrays, y)))
        last = time.perf_counter()

    def stepped(name, args, result, took) -> None:
        nonlocal last
        size = sum(p.data.nbytes for p in args[0].params.values())
        arrays = 2 + 2 * len(args[0].slots) + (2 if args[0].ema is not None else 0) + 2  # the gradient is read twice
        events.append(("optimiser", "", took, 12 * size / 4, arrays * size))
        last = time.perf_counter()

    def drawn(name, args, result, took) -> None:
        nonlocal last
        events.append(("random numbers", name, took, 0, result.data.nbytes))
        last = time.perf_counter()

    runs, totals = [], []
    with tape.observe(note), _noted(optim.Optimizer, ["step"], stepped), _noted(
            Rng, ["normal", "uniform", "integers"], drawn):
        for _ in range(steps):
            events = []
            last = begin = time.perf_counter()
            run()
            totals.append(time.perf_counter() - begin)
            runs.append(events)
    names = [(e[0], e[1]) for e in runs[0]]
    if any([(e[0], e[1]) for e in other] != names for other in runs):
        raise ValueError("the runs do not consist of the same operations.")
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for k, (name, shape) in enumerate(names):
        empty = {"op": name, "shape": shape, "calls": 0, "ms": 0.0, "flops": 0.0, "bytes": 0.0}
        g = groups.setdefault((name, shape), empty)
        g["calls"] += 1
        g["ms"] += 1e3 * statistics.median(events[k][2] for events in runs)
        g["flops"] += runs[0][k][3]
        g["bytes"] += runs[0][k][4]
    found = sorted(groups.values(), key=lambda g: -g["ms"])
    rest = 1e3 * statistics.median(totals) - sum(g["ms"] for g in found)
    return [*found, {"op": "rest", "shape": "", "calls": 1, "ms": max(rest, 0.0), "flops": 0.0, "bytes": 0.0}]


def limit(group: dict[str, Any], ceilings: dict[str, float]) -> float:
    """Milliseconds that the work would take at the ceilings."""
    return 1e3 * max(group["flops"] / (ceilings["gflops"] * 1e9), group["bytes"] / (ceilings["gbytes"] * 1e9))


def _times(ms: float, bound: float) -> str:
    """How far from the limit; for work of a few numbers, where the call itself is all, not in digits."""
    return "–" if not bound else f"{ms / bound:.1f}×" if ms < 1000 * bound else "> 1000×"


def by_operation(groups: list[dict[str, Any]], ceilings: dict[str, float]) -> list[dict[str, Any]]:
    """The groups of each operation together, with the sum of their limits; the one that takes most time first."""
    found: dict[str, dict[str, Any]] = {}
    for g in groups:
        empty = {"op": g["op"], "calls": 0, "ms": 0.0, "flops": 0.0, "bytes": 0.0, "limit": 0.0}
        one = found.setdefault(g["op"], empty)
        for k in ("calls", "ms", "flops", "bytes"):
            one[k] += g[k]
        one["limit"] += limit(g, ceilings)
    return sorted(found.values(), key=lambda g: -g["ms"])


def lines(groups: list[dict[str, Any]], ceilings: dict[str, float], most: int = 16) -> str:
    """Two tables: by operation; and by operation and shape, those that take most time."""
    total = sum(g["ms"] for g in groups)
    every = by_operation(groups, ceilings)
    shown, rest = every[:most], every[most:]
    if rest:
        shown = [*shown, {"op": f"{len(rest)} others", **{
            k: sum(g[k] for g in rest) for k in ("calls", "ms", "flops", "bytes", "limit")}}]
    all_of = {"op": "all", **{k: sum(g[k] for g in every) for k in ("calls", "ms", "flops", "bytes", "limit")}}
    shapes = [{**g, "op": f"{g['op']}  {g['shape']}", "limit": limit(g, ceilings)} for g in groups[:most]]

    def cells(g: dict[str, Any]) -> list[str]:
        rates = [number(g[k] / g["ms"] / 1e6) if g[k] and g["ms"] else "–" for k in ("flops", "bytes")]
        return [g["op"], str(g["calls"]), number(g["ms"]), f"{g['ms'] / total:.1%}", *rates,
                number(g["limit"]) if g["limit"] else "–", _times(g["ms"], g["limit"])]

    head = ["calls", "ms", "share", "GFLOP/s", "GB/s", "limit ms", "from limit"]
    return (layout(["operation", *head], [cells(g) for g in [*shown, all_of]]) + "\n\n"
            + layout(["operation and shape", *head], [cells(g) for g in shapes]))


# ---- the picture

COLOURS = {
    "conv2d": "#2b6cb0", "conv2d_add": "#2c5282", "conv2d_input_grad": "#4299e1",
    "conv2d_weight_grad": "#90cdf4", "conv_transpose2d": "#3182ce",
    "group_norm": "#2f855a", "group_norm_grad": "#68d391", "batch_norm": "#2f855a", "batch_norm_grad": "#68d391",
    "attention": "#b7791f", "attention_grad": "#ecc94b", "matmul": "#805ad5", "optimiser": "#c53030",
    "random numbers": "#ed8936",
}  # fmt: skip
PALETTE = ("#319795", "#97266d", "#718096", "#d69e2e", "#5a67d8", "#9c4221", "#4fd1c5")  # for the others
GREY = "#a0aec0"


def svg(groups: list[dict[str, Any]], ceilings: dict[str, float], title: str, most: int = 13) -> str:
    """Left, each operation and shape by arithmetic intensity and rate under the two ceilings, its area the time it
    takes; right, the time of each operation, all shapes together, and in a darker shade its limit."""
    total = sum(g["ms"] for g in groups)
    every = by_operation(groups, ceilings)
    named = [g for g in every if g["op"] != "rest"][:most]
    colour = {g["op"]: COLOURS.get(g["op"], PALETTE[k % len(PALETTE)]) for k, g in enumerate(named)}
    peak, copy = ceilings["gflops"], ceilings["gbytes"]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 470" font-family="sans-serif" font-size="12">',
           '<rect width="1060" height="470" fill="white"/>',
           f'<text x="20" y="26" font-size="16" fill="#1a202c">{escape(title)}, {number(total)} ms</text>']

    # left: logarithmic, 0.03 to 1000 FLOP a byte; 0.3 GFLOP/s to the power of ten above the ceiling
    x0, y0, w, h = 60, 50, 470, 360
    xs, ys = (math.log10(0.03), 3.0), (math.log10(0.3), math.ceil(math.log10(peak) + 0.1))
    X = lambda v: x0 + w * (min(max(math.log10(v), xs[0]), xs[1]) - xs[0]) / (xs[1] - xs[0])
    Y = lambda v: y0 + h - h * (min(max(math.log10(v), ys[0]), ys[1]) - ys[0]) / (ys[1] - ys[0])
    for p in range(-1, 4):
        out.append(f'<path d="M{X(10**p):.1f} {y0}v{h}" stroke="#edf2f7"/><text x="{X(10**p):.1f}" y="{y0 + h + 16}" '
                   f'text-anchor="middle" fill="#4a5568">{10.0**p:g}</text>')
    for p in range(0, int(ys[1]) + 1):
        out.append(f'<path d="M{x0} {Y(10**p):.1f}h{w}" stroke="#edf2f7"/><text x="{x0 - 6}" y="{Y(10**p) + 4:.1f}" '
                   f'text-anchor="end" fill="#4a5568">{10.0**p:g}</text>')
    ridge, left = peak / copy, 10 ** xs[0]
    out.append(f'<path d="M{X(left):.1f} {Y(left * copy):.1f}L{X(ridge):.1f} {Y(peak):.1f}H{x0 + w}" fill="none" '
               'stroke="#1a202c" stroke-width="1.5"/>')
    for at, rate, text in ((ridge, peak, f"sgemm {peak:.0f} GFLOP/s"), (ridge / 8, peak / 8, f"copy {copy:.0f} GB/s")):
        out.append(f'<text x="{X(at) - 8:.1f}" y="{Y(rate) - 4:.1f}" text-anchor="end" fill="#1a202c">{text}</text>')
    out.append(f'<text x="{x0 + w / 2}" y="{y0 + h + 34}" text-anchor="middle" fill="#4a5568">FLOP per byte</text>')
    out.append(f'<text transform="translate(18 {y0 + h / 2}) rotate(-90)" text-anchor="middle" fill="#4a5568">'
               'GFLOP/s</text>')
    for g in groups:  # the largest first
        if g["flops"] and g["bytes"] and g["ms"] > 0.002 * total:
            r = max(3.0, 60 * math.sqrt(g["ms"] / total))
            about = f"{g['op']} {g['shape']}: {g['calls']} calls, {number(g['ms'])} ms"
            out.append(f'<circle cx="{X(g["flops"] / g["bytes"]):.1f}" cy="{Y(g["flops"] / g["ms"] / 1e6):.1f}" '
                       f'r="{r:.1f}" fill="{colour.get(g["op"], GREY)}" fill-opacity="0.6" stroke="white">'
                       f'<title>{escape(about)}</title></circle>')

    # right: bars
    x0, w = 720, 230
    rest = [g for g in every if g not in named]
    entries = [*named, {"op": "all others", "calls": sum(g["calls"] for g in rest), "ms": sum(g["ms"] for g in rest),
                        "limit": sum(g["limit"] for g in rest)}]
    widest = max(max(g["ms"], g["limit"]) for g in entries) or 1.0
    out.append(f'<text x="{x0}" y="44" fill="#4a5568">ms, and how far from the limit (dark)</text>')
    for k, g in enumerate(entries):
        y, ms, bound, fill = 54 + 26 * k, g["ms"], g["limit"], colour.get(g["op"], GREY)
        reach = x0 + w * max(ms, bound) / widest + 6
        out.append(f'<text x="{x0 - 8}" y="{y + 13}" text-anchor="end" fill="#1a202c">{escape(g["op"])}'
                   f'<tspan fill="#718096" dx="5">{g["calls"]}×</tspan></text>'
                   f'<rect x="{x0}" y="{y}" width="{w * ms / widest:.1f}" height="18" fill="{fill}" '
                   'fill-opacity="0.5"/>'
                   f'<rect x="{x0}" y="{y + 4}" width="{w * bound / widest:.1f}" height="10" fill="{fill}"/>'
                   f'<text x="{reach:.1f}" y="{y + 13}" fill="#1a202c">{number(ms)}'
                   f'{f" ({_times(ms, bound)})" if bound else ""}</text>')
    return "\n".join([*out, "</svg>", ""])
