"""Sums into places, of which several may be the same, on a GPU: cuda.py. README.md.

On the CPU tinygen/ops/index.py does this by a product with a sparse matrix of ones, and kernels/sums.py adds up rows.
"""
