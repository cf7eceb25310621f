"""The CUDA sources through the compilers of a GPU, without one: nvcc's account of registers, shared memory and spills,
NVRTC, which is what a user runs, and the machine code of the kernels that are to use tensor cores."""

import importlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tinygen.kernels import cuda
from tinygen.kernels.cuda import nvcc, nvrtc

SOURCES = sorted(f"{p.parent.name}/{p.name}" for p in cuda.KERNELS.glob("*/*.cu"))
TENSOR_CORES = {"attention/cuda.cu", "conv2d/cuda.cu", "gemm/cuda.cu"}
# Ceilings. Products hold their tile in registers; with 128 threads a block two blocks still share a multiprocessor.
# Nothing else may take more than half of what a thread can have.
REGISTERS = {**dict.fromkeys(TENSOR_CORES, 255), "others": 128}
STATIC = 20 * 1024  # bytes of static shared memory; tiles are dynamic
MULTIPROCESSOR = 65536  # registers that a multiprocessor has, from compute capability 3 to 9


def builds(path):
    module = path.removesuffix(".cu").replace("/", ".")
    return [cuda.flags(defines) for defines in importlib.import_module(f"tinygen.kernels.{module}").BUILDS]


@pytest.mark.parametrize("path", SOURCES)
def test_every_source_has_a_launcher(path):
    assert builds(path) and cuda.signatures(path)
    launcher = (cuda.KERNELS / path).with_suffix(".py").read_text()
    kernels = cuda.signatures(path)
    unused = [k for k in kernels if k not in launcher and k.rpartition("_")[0] not in launcher]
    assert not unused, f"kernels that nothing launches: {unused}"


def some(found):
    """The first, the last, and every fourth between: of many builds, enough for a second look."""
    return [b for k, b in enumerate(found) if k % 4 == 0 or k == len(found) - 1]


@pytest.mark.parametrize("path", SOURCES)
def test_resources(path):
    """No spills and no stack, and a block's registers fit: all builds for sm_90, some for sm_80."""
    if nvcc.compiler() is None:
        pytest.skip("no nvcc: registers and spills were not looked at")
    check_resources(path, [(90, b) for b in builds(path)] + [(80, b) for b in some(builds(path))])


@pytest.mark.slow
@pytest.mark.parametrize("path", SOURCES)
def test_resources_of_every_build(path):
    if nvcc.compiler() is None:
        pytest.skip("no nvcc: registers and spills were not looked at")
    check_resources(path, [(80, b) for b in builds(path)])


def check_resources(path, wanted):
    threads = {k: s.threads for k, s in cuda.signatures(path).items()}
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda w: (w[1], nvcc.resources(path, w[1], (w[0],))), wanted))
    for flags, found in answers:
        assert {k for k, _ in found} == set(threads)
        for (kernel, sm), r in found.items():
            what = f"{kernel} for sm_{sm} with {flags}: {r}"
            assert r.spills == 0, what
            assert r.stack == 0, what
            assert r.shared <= STATIC, what
            assert r.registers <= REGISTERS.get(path, REGISTERS["others"]), what
            most = re.match(r"\d+", threads[kernel])
            assert r.registers * int(most[0] if most else 256) <= MULTIPROCESSOR, what


@pytest.mark.parametrize("path", SOURCES)
def test_nvrtc(path):
    if nvrtc.library() is None:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc")
    for flags in some(builds(path)):
        assert nvrtc.cubin(path, flags)[:4] == b"\x7fELF"


def test_a_source_that_nvrtc_refuses_says_why(tmp_path, monkeypatch):
    if nvrtc.library() is None:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "cuda.cu").write_text('extern "C" __global__ void f(int n) { undeclared(n); }')
    monkeypatch.setattr(cuda, "KERNELS", tmp_path)
    with pytest.raises(RuntimeError, match='identifier "undeclared" is undefined'):
        nvrtc.cubin("bad/cuda.cu")


def _disassembler():
    """nvdisasm: on the PATH, or of the wheel nvidia-cuda-nvdisasm."""
    wheel = next(iter(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm")), None)
    return shutil.which("nvdisasm") or (str(wheel) if wheel else None)


@pytest.mark.parametrize("path", [p for p in SOURCES if p in TENSOR_CORES])
def test_tensor_cores_are_used(path, tmp_path):
    """The machine code holds HMMA of both formats, and no local memory."""
    if _disassembler() is None or nvrtc.library() is None:
        pytest.skip("no nvdisasm or no NVRTC: pip install nvidia-cuda-nvdisasm nvidia-cuda-nvrtc")
    seen = set()
    tensor = [b for b in builds(path) if not any("PRECISION=0" in f for f in b)]
    for k, flags in enumerate(some(tensor)):
        file = tmp_path / f"{k}.cubin"
        file.write_bytes(nvrtc.cubin(path, flags))
        text = subprocess.run([_disassembler(), "-c", str(file)], capture_output=True, text=True, check=True).stdout
        seen |= set(re.findall(r"\bHMMA\.(\S+)", text))
        assert not re.search(r"\b(LDL|STL)\b", text), f"{path} {flags} keeps variables in local memory"
    assert any("TF32" in s for s in seen) and any("BF16" in s for s in seen), seen
