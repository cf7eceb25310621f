"""How sums down columns are divided among blocks: columns.cuh."""

from __future__ import annotations

from typing import NamedTuple

from . import ceildiv

_THREADS, _RUN = 256, 8
_BLOCKS = 528  # blocks wanted: four for each SM of an H200; a fixed number, so that every GPU adds up in one order


class Division(NamedTuple):
    """Lanes of a block, channels a lane, splits, rows of a split, blocks."""

    lanes: int
    wide: int
    splits: int
    rows: int
    blocks: int

    @property
    def block(self) -> tuple[int, int]:
        return self.lanes, _THREADS // self.lanes


def divide(A: int, R: int, C: int) -> Division:
    """Of A matrices, each R rows of C columns, none of them 0."""
    wide = 4 if C % 4 == 0 else 1
    lanes = 1
    while lanes < 32 and lanes * wide < C:
        lanes *= 2
    chunks = ceildiv(C, lanes * wide)
    splits = max(1, min(ceildiv(R, _RUN * _THREADS // lanes), ceildiv(_BLOCKS, A * chunks)))
    rows = ceildiv(R, splits)
    splits = ceildiv(R, rows)
    return Division(lanes, wide, splits, rows, A * splits * chunks)
