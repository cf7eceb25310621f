"""Shared by the tests: the device that the CUDA kernels' tests run on."""

import os

import pytest


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
