"""Shared by the tests: the device that the CUDA kernels' tests run on."""

import contextlib
import importlib
import os
import threading

import pytest


def pytest_collection_finish(session):
    """The emulated device compiles for minutes the first time: on another core, ahead of the tests."""
    from tinygen.kernels.cuda import host

    if "TINYGEN_HOSTCUDA" in os.environ:  # under a sanitizer a few are wanted, not all
        return
    emulated = any("emulated" in item.nodeid for item in session.items)
    if emulated and not session.config.option.collectonly and host.compiler() and (os.cpu_count() or 1) > 1:
        threading.Thread(target=_build_ahead, daemon=True).start()


def _build_ahead():
    from tinygen.kernels import cuda
    from tinygen.kernels.cuda import host

    for path in sorted(cuda.KERNELS.glob("*/*.cu")):
        with contextlib.suppress(Exception):  # a source that does not compile is for its own test to say
            module = importlib.import_module(f"tinygen.kernels.{path.parent.name}.{path.stem}")
            for defines in module.BUILDS:
                host.build(f"{path.parent.name}/{path.name}", cuda.flags(defines))


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def xp(request):
    """The library of device arrays: the emulated one, on every machine with a C++ compiler; CuPy, under -m gpu."""
    from tinygen.kernels import cuda
    from tinygen.kernels.cuda import host

    if request.param == "gpu":
        cupy = pytest.importorskip("cupy")
        if not cupy.cuda.is_available():
            pytest.skip("no CUDA device")
        if "TINYGEN_NO_POOL" in os.environ:  # every array by itself, so that memcheck sees where it ends
            cupy.cuda.set_allocator(None)
        library = cupy
    else:
        if host.compiler() is None:
            pytest.skip("no C++ compiler: the emulated device needs g++")
        from tinygen.kernels.cuda import emulated as library
    before = cuda.library
    cuda.use(library)
    yield library
    cuda.use(before)
