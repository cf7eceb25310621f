"""Shared by the tests: the device that the CUDA kernels' tests run on."""

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
        library = cupy
    else:
        if host.compiler() is None:
            pytest.skip("no C++ compiler: the emulated device needs g++")
        from tinygen.kernels.cuda import emulated as library
    before = cuda.library
    cuda.use(library)
    yield library
    cuda.use(before)
