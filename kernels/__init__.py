"""Kernels: arrays in, arrays out; each directory holds its definition, its fast path and its derivation."""
