"""The order of rows where batches must be padded."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

WINDOW = 16  # batches whose rows are sorted together


class ByLength(Sampler[int]):
    """Rows at random, but those of a batch about as long as each other; another order every epoch.

    `batch`: rows of a step on all processes together, so that their number does not change the order. The order depends
    on seed and epoch alone: a resumed run finds its place again.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        window, whole = WINDOW * self.batch, len(order) // self.batch * self.batch
        rows: list[int] = []
        for start in range(0, whole, window):
            rows += sorted(order[start : min(start + window, whole)], key=self.lengths.__getitem__)
        batches = [rows[start : start + self.batch] for start in range(0, whole, self.batch)]
        for number in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[number]
        yield from order[whole:]  # fewer than a batch: they come last


def lengths(dataset: Any) -> list[int]:
    """Tokens of each row, of a pair those of both sides; none without a dataset."""
    if not dataset:
        return []
    return list(dataset["length"]) if "length" in dataset.column_names else [len(ids) for ids in dataset["input_ids"]]
