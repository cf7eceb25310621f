"""Imports point one way, kernels ← ops ← nn ← models; nothing imports PyTorch; `import tinygen` stays light."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STDLIB = sys.stdlib_module_names
HEAVY = ("numba", "scipy", "PIL", "tqdm", "safetensors", "torch", "cupy")


def package_of(path: Path) -> str:
    """tinygen.ops.conv for tinygen/ops/conv.py; kernels/ and models/ are tinygen.kernels and tinygen.models."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "tinygen" else ("tinygen", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, Path]:
    files = [*(ROOT / "kernels").rglob("*.py"), *(ROOT / "models").rglob("*.py")]
    files += [p for p in (ROOT / "tinygen").rglob("*.py")
              if p.relative_to(ROOT / "tinygen").parts[0] not in ("kernels", "models")]  # links to the two above
    return {package_of(path): path for path in files}


FILES = sources()


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(module: str, tree: ast.AST) -> set[str]:
    """The full names of what a file imports, at the top or inside functions; what only type checkers see left out."""
    here = module if FILES.get(module, Path()).name == "__init__.py" else module.rpartition(".")[0]
    found, stack = set(), [tree]
    while stack:
        node = stack.pop()
        if _only_for_types(node):
            continue
        stack.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here.split(".")[: len(here.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in FILES or base == "tinygen" else base)
    return found


IMPORTS = {module: imports(module, ast.parse(path.read_text(), str(path))) for module, path in FILES.items()}


def within(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def users(*packages: str) -> dict[str, set[str]]:
    """What of tinygen the files of some packages import, by file."""
    return {m: {n for n in found if within(n, "tinygen")} for m, found in IMPORTS.items() if within(m, *packages)}


def offences(packages, allowed=None, forbidden=()) -> list[str]:
    packages = (packages,) if isinstance(packages, str) else packages
    return [f"{m} imports {n}" for m, found in users(*packages).items() for n in sorted(found)
            if within(n, *forbidden) or allowed is not None and not within(n, *allowed)]  # fmt: skip


def t(*names: str) -> tuple[str, ...]:
    return tuple(f"tinygen.{n}" for n in names)


def test_there_is_something_to_look_at():
    assert len(FILES) > 60 and {"tinygen.tape", "tinygen.kernels.conv2d.cpu", "tinygen.models.unet"} <= set(FILES)
    assert "tinygen.ops.elementwise" in IMPORTS["tinygen.ops.conv"] and "tinygen.fused" in IMPORTS["tinygen.ops.norm"]
    assert "numba" in set().union(*(f for m, f in IMPORTS.items() if m.startswith("tinygen.kernels.conv2d")))
    assert all(n in FILES or n.partition(".")[2].split(".")[0] in _names_of_tinygen() for found in IMPORTS.values()
               for n in found if n.startswith("tinygen.")), "an import that leads nowhere"  # fmt: skip


def _names_of_tinygen() -> set[str]:
    import tinygen

    return set(dir(tinygen)) | {"__version__"}


def test_kernels_know_nothing_of_the_tape():
    assert not offences("tinygen.kernels", allowed=t("kernels"))


def test_the_tape_knows_no_layers():
    engine = t("tape", "node", "modes", "rules", "trace", "tensor", "fused", "backend", "errors", "rng")
    assert not offences(engine, allowed=(*engine, *t("ops", "kernels")))


def test_operations_know_no_layers():
    above = t("nn", "optim", "losses", "models", "data", "metrics", "train", "run", "cli", "config", "checkpoint",
              "evaluate", "report", "audit")  # fmt: skip
    assert not offences("tinygen.ops", forbidden=above)
    assert not offences(t("optim", "losses"), forbidden=t("models", "data", "metrics", "train", "run", "cli", "audit"))


def test_layers_know_no_models():
    assert not offences("tinygen.nn", forbidden=t("models", "data", "metrics", "train", "run", "cli", "config", "optim",
                                                  "losses", "checkpoint", "evaluate", "report", "audit"))


def test_models_are_made_of_tinygen():
    outside = {(m, n) for m, found in IMPORTS.items() if within(m, "tinygen.models")
               for n in found if not within(n, "tinygen", "numpy", "scipy", "PIL") and n.split(".")[0] not in STDLIB}
    assert not outside
    assert not offences("tinygen.models", forbidden=t("train", "run", "cli", "evaluate", "report", "kernels"))


def test_metrics_are_arrays_only():
    """But for the networks that some are defined by, which are made of operations."""
    above, engine = t("nn", "models", "fused", "optim", "train", "cli"), t("tape", "ops")
    assert not offences("tinygen.metrics", forbidden=above)
    networks = {m for m in FILES if within(m, "tinygen.metrics.nets")}
    assert not [o for o in offences("tinygen.metrics", forbidden=engine) if o.split()[0] not in networks]


def test_the_trainer_knows_no_model():
    named = {f"tinygen.models.{p.stem}" for p in (ROOT / "models").glob("*.py") if p.stem != "__init__"}
    engine = [m for m in FILES if not within(m, "tinygen.models")]
    assert not [f"{m} imports {n}" for m in engine for n in IMPORTS[m] & named]


def test_data_and_checkpoints_stand_alone():
    assert not offences("tinygen.data", forbidden=t("nn", "models", "train", "run", "cli", "optim", "metrics", "audit"))
    assert not offences("tinygen.checkpoint", forbidden=t("models", "train", "cli", "data", "metrics", "audit"))


def test_only_the_declared_libraries_are_imported():
    declared = {"numpy", "scipy", "numba", "PIL", "safetensors", "tqdm", "cupy", "tinygen"}
    declared |= {"llvmlite", "cupyx"}  # parts of Numba and of CuPy
    strangers = {f"{m} imports {n}" for m, found in IMPORTS.items() for n in found
                 if n.split(".")[0] not in declared and n.split(".")[0] not in STDLIB}  # fmt: skip
    assert not strangers  # no deep-learning framework, in particular


def test_imports_of_operations_go_round_in_no_circle():
    graph = {m: {n for n in found if within(n, "tinygen.ops") and n != m and n != "tinygen.ops"}
             for m, found in IMPORTS.items() if within(m, "tinygen.ops") and m != "tinygen.ops"}  # fmt: skip
    done: set[str] = set()
    while ready := {m for m, needs in graph.items() if m not in done and needs <= done}:
        done |= ready
    assert done == set(graph), f"in a circle: {sorted(set(graph) - done)}"


def test_the_checks_themselves_see_a_wrong_import():
    text = ("from ..nn import Linear\nimport torch\nfrom . import elementwise\nfrom .. import backend\n"
            "if TYPE_CHECKING:\n    from ..models import unet\ndef f():\n    import scipy.special\n")
    found = imports("tinygen.ops.conv", ast.parse(text))
    assert found == {"tinygen.nn", "torch", "tinygen.ops.elementwise", "tinygen.backend", "scipy.special"}
    assert within("tinygen.nn.layers", *t("nn")) and not within("tinygen.nnx", *t("nn"))


# ---- the weight of `import tinygen`


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("statement", ["import tinygen", "import tinygen; tinygen.Tensor([1.0]) + 2.0",
                                       "import tinygen; tinygen.nn.Linear; tinygen.optim.Adam; tinygen.losses.mse"])
def test_importing_tinygen_brings_nothing_heavy(statement):
    loaded = json.loads(fresh(f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"))
    assert "tinygen.tape" in loaded
    assert not [name for name in HEAVY if name in loaded]


def test_importing_tinygen_is_quick(record_property):
    """Beyond bare NumPy; the goal is 0.3 s on a machine with nothing else to do, the gate leaves room for others."""
    code = ("import time, numpy; start = time.perf_counter(); import tinygen; "
            "print(time.perf_counter() - start)")
    seconds = sorted(float(fresh(code)) for _ in range(3))[1]
    record_property("seconds beyond numpy", seconds)
    assert seconds < 1.0, f"{seconds:.2f} s"


def test_everything_can_be_reached_from_tinygen():
    code = ("import tinygen as tg\nfor name in tg.__all__: getattr(tg, name)\n"
            "print(sorted(set(tg.__all__) - set(dir(tg))))")
    assert fresh(code).strip() == "[]"
