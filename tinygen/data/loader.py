"""Batches from a data set, each a pure function of the seed and the iteration: nothing to save or replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinygen.data.dataset import Dataset
from tinygen.data.image import to_float
from tinygen.errors import ConfigError

if TYPE_CHECKING:
    from tinygen.rng import Rng
    from tinygen.tensor import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """images: Tensor float32 N, H, W, C in [-1, 1]; labels: int64 (N,) or None; captions: N strings or None;
    index: int64 (N,), the places of the images in the data set."""

    images: Tensor
    labels: np.ndarray | None
    captions: list[str] | None
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


class Loader:
    """`loader.batch(i)` is the batch of iteration i = 0, 1, …; it depends on the seed and i alone.

    Epoch e visits the data set in the order of the stream (name, e). Every batch has `batch_size` images.

    drop_last=True: an epoch has n // batch_size batches, and the n % batch_size images that its permutation
    ends with are left out of it (others each time). drop_last=False, or a data set smaller than the batch:
    the epochs are laid end to end and cut into batches, so that a batch may wrap into the next epoch and
    every permutation is consumed fully; a small set then occurs several times in a batch.

    flip: each image is mirrored left to right with probability ½, by the stream (name.flip, i).
    Raises ConfigError for an empty data set or a batch size below 1.
    """

    def __init__(self, dataset: Dataset, batch_size: int, rng: Rng, *, flip: bool = False,
                 drop_last: bool = True, name: str = "data") -> None:
        if batch_size < 1:
            raise ConfigError(f"batch size must be at least 1, not {batch_size}")
        if len(dataset) == 0:
            raise ConfigError(f"the data set {dataset.name or '(unnamed)'} has no images to make batches of; "
                              "choose another split or another folder")
        self.dataset, self.batch_size, self.rng = dataset, batch_size, rng
        self.flip, self.name = flip, name
        n = len(dataset)
        self._per_epoch = n - n % batch_size if drop_last and n >= batch_size else n
        self._orders: dict[int, np.ndarray] = {}
        self._ready: tuple[int, Batch] | None = None

    @property
    def batches_per_epoch(self) -> float:
        """Whole with drop_last; otherwise n / batch_size, as batches wrap."""
        return self._per_epoch / self.batch_size

    def epoch(self, i: int) -> int:
        """The epoch, from 0, in which batch i begins."""
        return i * self.batch_size // self._per_epoch

    def indices(self, i: int) -> np.ndarray:
        """The places in the data set of the images of batch i: int64 (batch_size,)."""
        if i < 0:
            raise ConfigError(f"batches are counted from 0; {i} was asked for")
        epochs, places = np.divmod(i * self.batch_size + np.arange(self.batch_size), self._per_epoch)
        out = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self._order(int(epoch))[places[here]]
        return out

    def prepare(self, i: int) -> None:
        """Make the batch of iteration i now, while a device is busy; `batch(i)` then has it at once."""
        self._ready = i, self.batch(i)

    def batch(self, i: int) -> Batch:
        """The batch of iteration i."""
        from tinygen.tensor import Tensor

        ready, self._ready = self._ready, None
        if ready is not None and ready[0] == i:
            return ready[1]

        index = self.indices(i)
        images = to_float(self.dataset.images[index])                                       # N, H, W, C
        if self.flip:
            mirrored = self.rng.uniform(f"{self.name}.flip", i, (len(index),)).numpy() < 0.5
            images[mirrored] = images[mirrored, :, ::-1]
        labels, captions = self.dataset.labels, self.dataset.captions
        return Batch(images=Tensor(images), labels=None if labels is None else labels[index],
                     captions=None if captions is None else [captions[k] for k in index], index=index)

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Batches start, start + 1, … up to (without) stop; endless without one."""
        i = start
        while stop is None or i < stop:
            yield self.batch(i)
            i += 1

    def __iter__(self) -> Iterator[Batch]:
        """All batches from 0, without end."""
        return self.batches()

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # a permutation is worth keeping while its epoch lasts; a small set may need several in one batch
            self._orders = {e: order for e, order in self._orders.items() if abs(e - epoch) <= 1}
            self._orders[epoch] = self.rng.permutation(self.name, epoch, len(self.dataset)).numpy()
        return self._orders[epoch]
