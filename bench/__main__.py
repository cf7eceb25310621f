"""tinygen's speed, beside PyTorch's.

    python -m bench                          every suite but gpu; writes bench/results/SUITE.json
    python -m bench --only gpu               on a GPU; --only gpu:conv for what has "conv" in its name
    python -m bench --only steps,conv2d      suites by name, kernels and steps by a word in their names
    python -m bench --quick                  fewer and shorter measurements: rough, and not recorded
    python -m bench --json FILE              the result to FILE, or to standard output
    python -m bench compare OLD NEW          what got slower beyond noise; exit status 1 if anything did

Each side runs in a process of its own, with two threads, and the two take turns; a ratio is PyTorch's time over ours,
the median over the rounds. Without PyTorch there is our column alone.

The machine must have nothing else to do. PyTorch's threads wait for each other by spinning, so that any other program
may slow it many times over; where that cannot be helped, OMP_WAIT_POLICY=PASSIVE in the environment makes them sleep.
The results carry the load and the share of the cores that others took.
"""

from __future__ import annotations

import argparse
import json
import sys

from bench import compare, gpu, record, sides, suites

EXTRA = ("torch.compile", "jax", "tinygrad")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME[,NAME]", help=f"of {', '.join(suites.SUITES)}; or words")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write the result there, and nowhere else")
    parser.add_argument("--rounds", type=int, help="turns of each side (5; 3 with --quick)")
    parser.add_argument("--seconds", type=float, help="of a turn (0.5; 0.1 with --quick)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--also", default="", metavar="NAME[,NAME]",
                        help=f"further columns, of {', '.join(EXTRA)}, or all that are installed")
    parser.add_argument("--list", action="store_true", help="say what there is to measure, and stop")
    return parser.parse_args(argv)


def chosen(only: str) -> dict[str, list[str]]:
    """{suite: words}: no words for a whole suite. Raises ValueError for a word that occurs nowhere."""
    found: dict[str, list[str]] = {}
    for word in [w.strip().lower() for w in only.split(",") if w.strip()]:
        suite, _, within = word.partition(":")
        if word in suites.SUITES:
            found[word] = []
            continue
        from bench import cases

        tables = {"kernels": cases.kernels(), "steps": cases.steps(), "gpu": cases.gpu()}
        searched, sought = (("gpu",), within) if suite == "gpu" and within else (suites.SEARCHED, word)
        hits = [s for s in searched if suites.Options(words=[sought]).chosen(tables[s])]
        if not hits:
            raise ValueError(f"there is nothing called {word!r} to measure; python -m bench --list says what there is.")
        for suite in hits:
            if found.get(suite, [""]):
                found.setdefault(suite, []).append(sought)
    return found or {suite: [] for suite in suites.USUAL}


def main(argv: list[str]) -> int:
    if argv[:1] == ["compare"]:
        if len(argv) != 3:
            print("python -m bench compare OLD.json NEW.json", file=sys.stderr)
            return 2
        try:
            text, slower = compare.report(*map(compare.load, argv[1:]))
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        print(text)
        return int(slower)

    args = parse(argv)
    if args.list:
        for suite in suites.SUITES:
            print(suite, *(f"    {name}" for name in suites.names(suite)), sep="\n")
        return 0
    try:
        wanted = chosen(args.only)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if "gpu" in wanted and (why := gpu.missing()):
        print(f"There is no GPU to measure on: {why}", file=sys.stderr)
        return 2
    also = EXTRA if args.also == "all" else [f for f in args.also.split(",") if f]
    if set(also) - set(EXTRA):
        print(f"--also takes {', '.join(EXTRA)}, or all.", file=sys.stderr)
        return 2
    families = sides.available(["tinygen", "torch", *also])
    say = sys.stderr if args.json == "-" else sys.stdout
    if missing := {"torch", *also} - set(families):
        print(f"not installed, and so left out: {', '.join(sorted(missing))}", file=say)
    results = {}
    for suite, words in wanted.items():
        options = suites.Options(families, args.rounds or (3 if args.quick else 5),
                                 args.seconds or (0.1 if args.quick else 0.5), args.threads, args.quick, words)
        print(f"\n{suite}", file=say, flush=True)
        others = suites.Others()
        result = suites.SUITES[suite](options)
        result = {"suite": suite, "quick": args.quick, "rounds": options.rounds, "seconds": options.seconds,
                  "threads": args.threads, "environment": sides.settings(),
                  "others": others.report(), **result}
        print(*suites.report(result), sep="\n", file=say, flush=True)
        results[suite] = result
        if args.json is None and not args.quick and not words:
            print("wrote", record.write(suite, result), file=say)
    if args.json is not None:
        rows = [r for result in results.values() for r in result["rows"]]
        text = json.dumps({**record.header(), **(next(iter(results.values())) if len(results) == 1 else
                                                 {"suites": results, "rows": rows})}, indent=1, ensure_ascii=False)
        if args.json == "-":
            print(text)
        else:
            with open(args.json, "w") as file:
                file.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
