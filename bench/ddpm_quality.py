"""How well the small DDPM draws digits: writes bench/results/ddpm_digits.json.

    python bench/ddpm_quality.py [--seed S] [--steps N] [--out FOLDER] [--dry]

Fréchet distance to held-out digits over the real-against-real floor at equal N on two named extractors, the shares of
the ten digits by a held-out judge, the memorisation ratio (all of tinygen.metrics.score_digits), and the variational
bound in bits per dimension with its terms. The slow test of tests/test_model_ddpm.py calls the same function.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tinygen as tg  # noqa: E402
from bench import record  # noqa: E402
from bench.gan_quality import digits  # noqa: E402
from tinygen import data, metrics  # noqa: E402


def ddpm(seed: int = 0, out: Path | None = None, steps: int | None = None) -> dict[str, Any]:
    """The scores of the small preset, and its bound on 64 held-out digits."""
    model, result = digits("ddpm", seed, out, steps=steps)
    return {**result, "bound": model.evaluate(data.load("digits", "test"), tg.Rng(seed))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    result = ddpm(args.seed, args.out, args.steps)
    print(*metrics.score_lines(result["score"]), f"trained in {result['seconds']} s", result["bound"], sep="\n")
    if not args.dry:
        print("wrote", record.write("ddpm_digits", result))


if __name__ == "__main__":
    main()
